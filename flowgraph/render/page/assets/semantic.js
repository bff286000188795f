/* Semantic graphs: what mountPage() needs of them. */

function startSemantic(page) {
  page.panel = null;
  createPicture(page, [0.02, 6], SPARE);
  createHeadings(page);
  fillChoices(page, 'layer', ({ layer }) => `layer ${layer}`);
  fillChoices(page, 'position', (panel) => positionText(page.data, panel));
  watchViewport(page);
  watchControls(page);
}

function watchControls(page) {
  const on = (name, kind, act) => listen(page, partOf(page, name), kind, act);
  on('earlier', 'click', () => stepLayer(page, -1));
  on('later', 'click', () => stepLayer(page, 1));
  for (const name of ['layer', 'position']) {
    on(name, 'change', (event) => {
      const { layer, position } = { ...page.data.plan.panels[page.panel], [name]: Number(event.target.value) };
      movePanel(page, layer, position);
    });
  }
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

const SEMANTIC = {
  start: startSemantic, arrange, fit: (page) => showPanel(page, page.panel), leave: drop,
  // Everything is drawn, in one order and with one width: there is nothing to set.
  setLevel: () => {}, setWidth: () => {}, setOrientation: () => {},
  lift: liftWay, tipPlace, nodeTip, edgeTip, opening, nodeDetails, edgeDetails, nextNode,
  acts: {
    a: showAll,
    pageup: (page) => stepLayer(page, -1),
    pagedown: (page) => stepLayer(page, 1),
  },
};

flowgraph.semantic = { mount: (root, data, options) => mountPage(SEMANTIC, root, data, options) };
