/* The keyboard: follow edges, walk along columns, change the layer, zoom. */

function strongestEnd(edges, end, places, isRight, here) {
  const ahead = edges.filter((edge) => (places[edge[end]].x - places[here].x) * (isRight ? 1 : -1) >= 0);
  return ahead.sort((a, b) => b.width - a.width || a.i - b.i)[0]?.[end];
}

/** The next pill above or below in the same column. */
function stepColumn({ graph }, here, step) {
  const { x, y } = graph.places[here];
  const column = graph.places.map((place, node) => ({ ...place, node })).filter((place) => Math.abs(place.x - x) < 0.1 && (place.y - y) * step > 0);
  return column.sort((a, b) => (a.y - b.y) * step)[0]?.node;
}

function nextNode(page, key, here) {
  const { graph } = page;
  if (key === 'ArrowRight') return strongestEnd(graph.outgoing[here], 'target', graph.places, true, here);
  if (key === 'ArrowLeft') return strongestEnd(graph.incoming[here], 'source', graph.places, false, here);
  return stepColumn(page, here, key === 'ArrowDown' ? 1 : -1);
}

/** Where a walk begins: what attention adds in the panel shown, or the first node. */
function firstNode({ data, graph, panel }) {
  const { layer, position } = data.plan.panels[panel];
  const start = graph.labels.indexOf(`L${layer}.attn@${position}`);
  return start >= 0 ? start : 0;
}

function walk(page, key) {
  const here = page.chosen?.isNode() ? Number(page.chosen.id().slice(1)) : null;
  const next = here === null ? firstNode(page) : nextNode(page, key, here);
  if (next === undefined || !page.graph.labels.length) return;
  openNode(page, next);
  lift(page, page.chosen);
  announce(nodeTip(page, next).map((one) => one.textContent).join('. '));
}

const ACTS = {
  '+': (page) => zoomBy(page, ZOOM_STEP),
  '=': (page) => zoomBy(page, ZOOM_STEP),
  '-': (page) => zoomBy(page, 1 / ZOOM_STEP),
  0: (page) => showPanel(page, page.panel),
  a: (page) => showAll(page),
  pageup: (page) => stepLayer(page, -1),
  pagedown: (page) => stepLayer(page, 1),
};

function pressKey(page, key) {
  const act = ACTS[key.toLowerCase()];
  if (key.startsWith('Arrow')) walk(page, key);
  else if (act) act(page);
  else return false;
  return true;
}

function watchKeys(page) {
  page.stage.addEventListener('keyup', () => page.stage.classList.add('by-key'));
  page.stage.addEventListener('pointerdown', () => page.stage.classList.remove('by-key'));
  page.stage.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (pressKey(page, event.key)) event.preventDefault();
  });
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    drop(page);
    clearSelection(page);
  });
  for (const button of document.querySelectorAll('.zoom button')) {
    button.addEventListener('click', () => pressKey(page, button.dataset.key));
  }
}
