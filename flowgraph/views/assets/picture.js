/* The Cytoscape picture: elements, scaffold, positions, zoom and theme. */

const NEAR_ZOOM = 1.5;
const ZOOM_STEP = 1.25;
const LAYERS_PER_LINE = 5;

function createPicture(data, container) {
  return cytoscape({
    container,
    elements: [...scaffold(data), ...data.nodes, ...data.edges].map((item) => ({ ...item, data: { ...item.data } })),
    style: data.styles[currentTheme()],
    layout: { name: 'preset' },
    autoungrabify: true,
    autounselectify: true,
    boxSelectionEnabled: false,
    minZoom: 0.25,
    maxZoom: 8,
  });
}

/** One line per token and per five layers, so that filtered columns leave no holes. */
function scaffold(data) {
  const { tokens } = data;
  const layers = data.layers[1] - data.layers[0];
  const end = Math.max(0, tokens.length - 1);
  const lines = tokens.map((_, token) => scaffoldLine(`t${token}`, [token, 0], [token, layers]));
  for (let layer = 0; layer <= layers; layer += LAYERS_PER_LINE) {
    lines.push(scaffoldLine(`l${layer}`, [-0.25, layer], [end + 0.25, layer]));
  }
  return lines.flat();
}

function scaffoldLine(name, from, to) {
  const ends = [from, to].map(([x, y], i) => ({ data: { id: `scaffold-${name}-${i}`, x, y, k: 0, n: 1 }, classes: 'scaffold' }));
  const [source, target] = ends.map((end) => end.data.id);
  return [...ends, { data: { id: `scaffold-${name}`, source, target, w: 1, o: 1, ws: 1, os: 1 }, classes: 'scaffold' }];
}

/** Put every node where the stage's size wants it; zoom stays 1, so text keeps its size. */
function placeNodes(page) {
  const { cy, data, stage } = page;
  if (!stage.clientWidth || !stage.clientHeight) return;
  page.geometry = fitGeometry(data, stage.clientWidth, stage.clientHeight, page.wanted);
  const isDense = page.geometry.orientation === 'rows' ? page.geometry.token < 24 : page.geometry.token < data.layout.readable_pitch;
  const isRows = page.geometry.orientation === 'rows';
  stage.classList.toggle('rows', isRows);
  stage.classList.toggle('columns', !isRows);
  stage.classList.toggle('dense', isDense);
  cy.resize();
  cy.batch(() => {
    cy.nodes().positions((node) => pixel(data, page.geometry, node.data()));
    cy.nodes().toggleClass('rows', isRows).toggleClass('columns', !isRows).toggleClass('dense', isDense);
    cy.nodes('[lb]').not('.head').forEach((node) => { node.style('text-max-width', labelWidth(page, node)); });
  });
  fitPicture(page);
}

/** A label may run up to the next column, in the last column to the edge of the stage. */
function labelWidth({ geometry, data, stage }, node) {
  if (geometry.orientation === 'rows' && !node.hasClass('goal')) return Math.min(90, 3 * geometry.layer);
  const isLast = node.hasClass('goal') || node.data('x') >= data.room.tokens - 1;
  const taken = data.room.slots > 1 ? 0.45 * geometry.token : 22;
  const room = isLast ? stage.clientWidth - node.position('x') - 12 : geometry.token - taken;
  return clamp(24, room, 110);
}

function fitPicture({ cy }) {
  cy.viewport({ zoom: 1, pan: { x: 0, y: 0 } });
}

function zoomBy(page, factor) {
  const { cy } = page;
  cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
}

/** More labels when there is room for them. */
function showNearLabels({ cy }) {
  const isNear = cy.zoom() >= NEAR_ZOOM;
  if (cy.scratch('near') === isNear) return;
  cy.scratch('near', isNear);
  cy.batch(() => cy.nodes('[lb]').toggleClass('near', isNear));
}

function currentTheme() {
  return document.documentElement.dataset.theme;
}

function setTheme(page, theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById('theme').setAttribute('aria-pressed', String(theme === 'dark'));
  if (page) page.cy.style(page.data.styles[theme]);
}

function setWidth(page, mode) {
  page.cy.batch(() => page.cy.edges().not('.scaffold').toggleClass('by-share', mode === 'share'));
  for (const name of document.querySelectorAll('.width-mode')) name.textContent = mode;
}
