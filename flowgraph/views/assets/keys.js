/* The keyboard: walk over the nodes that are shown, pin, clear, zoom. */

const STEPS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

/** A step on the screen as a step along tokens or along layers. */
function asWalk([right, down], orientation) {
  return orientation === 'columns' ? { token: right, layer: -down } : { token: down, layer: right };
}

function shownNodes({ filter, graph }) {
  return filter.nodes.items.slice(0, filter.nodes.shown).map((item) => Number(item.id().slice(1))).map((node) => ({ node, ...graph.places[node] }));
}

/** Along the layers: the next shown node of the same column, nodes beside the line in between. */
function stepLayer(nodes, here, step) {
  const column = nodes.filter((one) => one.x === here.x).sort((a, b) => a.y - b.y || b.k - a.k || a.node - b.node);
  return column[column.findIndex((one) => one.node === here.node) + step];
}

/** Along the tokens: the next column that shows anything, at the nearest height. */
function stepToken(nodes, here, step) {
  const ahead = nodes.filter((one) => (one.x - here.x) * step > 0);
  const nearest = Math.min(...ahead.map((one) => (one.x - here.x) * step));
  const column = ahead.filter((one) => (one.x - here.x) * step === nearest);
  return column.sort((a, b) => Math.abs(a.y - here.y) - Math.abs(b.y - here.y) || a.k - b.k)[0];
}

function walk(page, key) {
  const nodes = shownNodes(page);
  const here = nodes.find(({ node }) => page.chosen?.id() === `n${node}`);
  const { token, layer } = asWalk(STEPS[key], page.geometry.orientation);
  const start = nodes.find(({ node }) => node === page.data.start);
  const next = here ? (layer ? stepLayer(nodes, here, layer) : stepToken(nodes, here, token)) : start;
  if (!next) return;
  const item = page.cy.$id(`n${next.node}`);
  select(page, item);
  lift(page, item);
  announce(nodeTip(page, next.node).map((one) => one.textContent).join('. '));
}

function clear(page) {
  drop(page);
  if (page.chosen) clearSelection(page);
  else page.cy.elements('.pin').removeClass('pin');
}

function pressKey(page, key) {
  if (key in STEPS) walk(page, key);
  else if (key === '+' || key === '=') zoomBy(page, ZOOM_STEP);
  else if (key === '-') zoomBy(page, 1 / ZOOM_STEP);
  else if (key === '0') fitPicture(page);
  else if (key.toLowerCase() === 'p' && page.chosen?.isNode()) page.chosen.toggleClass('pin');
  else return false;
  return true;
}

/** A focus ring for those who come by keyboard, none after a click. */
function watchFocus(stage) {
  stage.addEventListener('keyup', () => stage.classList.add('by-key'));
  stage.addEventListener('pointerdown', () => stage.classList.remove('by-key'));
}

function watchKeys(page) {
  watchFocus(page.stage);
  page.stage.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (pressKey(page, event.key)) event.preventDefault();
  });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') clear(page);
  });
  for (const button of document.querySelectorAll('.zoom button')) {
    button.addEventListener('click', () => pressKey(page, button.dataset.key));
  }
}
