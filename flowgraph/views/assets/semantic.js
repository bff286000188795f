/* Start: read the data, draw the picture, connect the controls. */

function watchControls(page) {
  const on = (id, kind, act) => document.getElementById(id).addEventListener(kind, act);
  on('theme', 'click', () => setTheme(page, currentTheme() === 'dark' ? 'light' : 'dark'));
  on('earlier', 'click', () => stepLayer(page, -1));
  on('later', 'click', () => stepLayer(page, 1));
  const chosen = (id) => Number(document.getElementById(id).value);
  for (const id of ['layer', 'position']) on(id, 'change', () => movePanel(page, chosen('layer'), chosen('position')));
}

function watchTaps(page) {
  page.cy.on('tap', (event) => {
    page.stage.focus({ preventScroll: true });
    if (event.target === page.cy) clearSelection(page);
    else select(page, event.target);
  });
}

/** Opens on the first layer at the position that is explained. */
function openingPanel({ plan, position }) {
  return Math.max(0, plan.panels.findIndex((panel) => panel.position === position));
}

function arrange(page) {
  if (!placeNodes(page)) return;
  if (page.data.plan.panels.length) showPanel(page, page.panel ?? openingPanel(page.data));
  drawHeadings(page);
}

function start() {
  const data = JSON.parse(document.getElementById('data').textContent);
  setTheme(null, matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  const stage = document.getElementById('stage');
  const cy = createPicture(data, document.getElementById('picture'));
  const page = { data, cy, stage, chosen: null, panel: null };
  page.graph = createGraph(data);
  createHeadings(page);
  for (const found of document.querySelectorAll('b.token')) found.replaceWith(tokenText(found.textContent, 'b'));
  clearSelection(page);
  watchViewport(page);
  watchControls(page);
  watchTaps(page);
  watchPointer(page);
  watchSearch(page);
  watchKeys(page);
  arrange(page);
  new ResizeObserver(() => arrange(page)).observe(stage);
}

start();
