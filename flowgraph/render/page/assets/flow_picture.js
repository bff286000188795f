/* Positions, scaffold, labels and widths of a flow graph. */

const NEAR_ZOOM = 1.5;
const LAYERS_PER_LINE = 5;
const EDGE = 12;

/** One line per token and per five layers, so that filtered columns leave no holes; under the picture, and no part of it. */
function createScaffold(page) {
  const holder = element('div');
  holder.innerHTML = '<svg class="scaffold" aria-hidden="true"><path></path></svg>';
  const svg = holder.firstChild;
  page.stage.prepend(svg);
  page.undos.push(() => svg.remove());
  page.scaffold = svg.firstChild;
  hear(page, 'viewport', () => moveScaffold(page));
}

function drawScaffold(page) {
  const { tokens, layers: [first, stop] } = page.data;
  const [end, layers] = [Math.max(0, tokens.length - 1), stop - first];
  const at = (x, y) => Object.values(pixel(page.data, page.geometry, { x, y, k: 0, n: 1 })).map((value) => value.toFixed(1)).join(' ');
  const lines = tokens.map((_, token) => `M${at(token, 0)}L${at(token, layers)}`);
  for (let layer = 0; layer <= layers; layer += LAYERS_PER_LINE) lines.push(`M${at(-0.25, layer)}L${at(end + 0.25, layer)}`);
  page.scaffold.setAttribute('d', lines.join(''));
  moveScaffold(page);
}

function moveScaffold({ cy, scaffold }) {
  const { x, y } = cy.pan();
  scaffold.setAttribute('transform', `translate(${x} ${y}) scale(${cy.zoom()})`);
}

/** Put every node where the stage's size wants it; zoom stays 1, so text keeps its size. */
function placeNodes(page) {
  const { cy, data, stage } = page;
  page.geometry = fitGeometry(data, stage.clientWidth, stage.clientHeight, page.wanted);
  const isRows = page.geometry.orientation === 'rows';
  const isDense = page.geometry.token < (isRows ? 24 : data.layout.readable_pitch);
  mark(page, stage, 'rows', isRows);
  mark(page, stage, 'columns', !isRows);
  mark(page, stage, 'dense', isDense);
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

/** On the screen the stage is a window on the picture, and text keeps its size; on paper all of it is seen. */
function fitPicture(page) {
  page.cy.viewport({ zoom: 1, pan: panToStart(page) });
  if (page.printed) shrinkPicture(page);
}

/** A picture larger than the stage shows its end; if the node that the flow runs to is not there, it stands in the middle. */
function panToStart({ data, geometry, stage }) {
  const isRows = geometry.orientation === 'rows';
  const { margin } = data.layout[geometry.orientation];
  const [axis, low, high] = isRows ? ['y', margin.top, stage.clientHeight - margin.bottom] : ['x', margin.left, stage.clientWidth - margin.right];
  const pan = { x: 0, y: 0 };
  if (data.start === null) return pan;
  const at = pixel(data, geometry, data.nodes[data.start].data)[axis];
  if (at >= low && at <= high) return pan;
  // No further than to where the first token stands at its edge.
  const first = pixel(data, geometry, { x: 0, y: 0, k: 0, n: 1 })[axis] - leadOf(data, geometry.orientation) * geometry.token;
  pan[axis] = Math.min((low + high) / 2 - at, low - first);
  return pan;
}

/** Beside the axes, as small as it has to be. */
function shrinkPicture(page) {
  const { cy, stage } = page;
  const [left, bottom] = [partOf(page, 'gutter').offsetWidth, partOf(page, 'ground').offsetHeight];
  const box = cy.elements(':visible').boundingBox();
  const [width, height] = [stage.clientWidth - left, stage.clientHeight - bottom - EDGE];
  const zoom = Math.min(width / (box.w + EDGE), height / (box.h + EDGE));
  if (zoom >= 1) return;
  const x = left + (width - box.w * zoom) / 2;
  cy.viewport({ zoom, pan: { x: x - box.x1 * zoom, y: height - box.y2 * zoom } });
}

/** More labels when there is room for them. */
function showNearLabels(page) {
  const isNear = page.cy.zoom() >= NEAR_ZOOM;
  if (page.isNear === isNear) return;
  page.isNear = isNear;
  page.cy.batch(() => page.cy.nodes('[lb]').toggleClass('near', isNear));
}

function setWidth(page, mode) {
  page.cy.batch(() => page.cy.edges().toggleClass('by-share', mode === 'share'));
  for (const name of page.root.querySelectorAll('.width-mode')) {
    const before = name.textContent;
    remember(page, name, 'text', () => { name.textContent = before; });
    name.textContent = mode;
  }
  check(page, 'width', mode);
}

function setOrientation(page, wanted) {
  page.wanted = wanted;
  check(page, 'orientation', wanted);
  arrange(page);
}

function check({ root }, choice, value) {
  for (const button of root.querySelectorAll(`[data-choice="${choice}"]`)) button.checked = button.value === value;
}

function arrange(page) {
  if (!page.stage.clientWidth || !page.stage.clientHeight) return;
  placeNodes(page);
  drawScaffold(page);
  arrangeAxes(page);
}
