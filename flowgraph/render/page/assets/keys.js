/* The keyboard: walk, pin, open, clear, zoom. */

const ACTS = {
  '+': (page) => zoomBy(page, ZOOM_STEP),
  '=': (page) => zoomBy(page, ZOOM_STEP),
  '-': (page) => zoomBy(page, 1 / ZOOM_STEP),
  0: (page) => page.kind.fit(page),
  p: (page) => { if (page.chosen?.isNode()) togglePin(page, page.chosen); },
  enter: (page) => { if (page.chosen) tell(page, 'open', page.chosen.id()); },
};

function pressKey(page, key) {
  const act = page.kind.acts[key.toLowerCase()] ?? ACTS[key.toLowerCase()];
  if (key.startsWith('Arrow')) walk(page, key);
  else if (act) act(page);
  else return false;
  return true;
}

function walk(page, key) {
  const next = page.kind.nextNode(page, key);
  if (next === undefined) return;
  openNode(page, next);
  lift(page, page.chosen);
  announce(page, page.kind.nodeTip(page, next).map((one) => one.textContent).join('. '));
}

function watchKeys(page) {
  const { stage, root } = page;
  restoreLater(page, stage, 'class');
  // A focus ring for those who come by keyboard, none after a click.
  listen(page, stage, 'keyup', () => stage.classList.add('by-key'));
  listen(page, stage, 'pointerdown', () => stage.classList.remove('by-key'));
  listen(page, stage, 'keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (pressKey(page, event.key)) event.preventDefault();
  });
  listen(page, root, 'keydown', (event) => {
    if (event.key === 'Escape') clear(page);
  });
  for (const button of root.querySelectorAll('[data-key]')) {
    listen(page, button, 'click', () => pressKey(page, button.dataset.key));
  }
}
