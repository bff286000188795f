/* The picture of a semantic graph: pills in columns, edges as lines, curves and trunks, headings that stay. */

const LEAST_ZOOM = 0.8;
const HEADING_ROOM = 52;
const HEADING_GAP = 4;
const MANY_EDGES = 3000;
const TITLE = 20;
// Until the stage has been measured.
const SPARE = { pw: 10, ph: 10, pm: 10, bw: [0.5], bd: [0] };

/** The page's copy of Grid.fit in semantic_layout.py, from the same numbers. */
function fitGrid({ grid, plan }, width, height) {
  const { margin } = grid;
  const column = clamp(grid.column[0], (width - margin.left - margin.right) / plan.width, grid.column[1]);
  const row = clamp(grid.row[0], (height - margin.top - margin.bottom) / plan.height, grid.row[1]);
  return { column, row, pill: Math.min(grid.pill, row - grid.gap), left: margin.left, top: margin.top };
}

function pixel({ column, row, left, top }, { x, y }) {
  return { x: Math.round(left + x * column), y: Math.round(top + y * row) };
}

/** Put every pill where the stage's size wants it, if it has changed; only distances change, text keeps its size. */
function placeNodes(page) {
  const { cy, data, stage } = page;
  const size = `${stage.clientWidth} ${stage.clientHeight}`;
  if (!stage.clientWidth || !stage.clientHeight || size === page.size) return false;
  page.size = size;
  page.fit = fitGrid(data, stage.clientWidth, stage.clientHeight);
  cy.resize();
  cy.batch(() => {
    cy.nodes().forEach((node) => {
      const width = Math.round(node.data('w') * page.fit.column);
      node.data({ pw: width, ph: page.fit.pill, pm: width - 6 });
      node.position(pixel(page.fit, node.data()));
    });
  });
  // In a second batch: only now do pills have the widths at whose sides edges end.
  cy.batch(() => {
    for (const [way, points] of Object.entries(WAYS)) {
      cy.edges(`.${way}`).forEach((edge) => { edge.data(bends(edge, points, page.fit)); });
    }
  });
  return true;
}

/** Where an edge bends on its way from the right side of a pill to the left side of another. */
const WAYS = {
  // Control points of an S that leaves and arrives level.
  curve: ([x1, y1], [x2, y2]) => [[(x1 + x2) / 2, y1], [(x1 + x2) / 2, y2]],
  // Up beside the source, then level: branches of one norm share their trunk.
  trunk: ([, y1], [, y2], { column, left }, { b }) => [[left + b * column, y1], [left + b * column, y2]],
  // Down, level above the residual line, down.
  under: ([x1], [x2, y2], { pill, row }) => [[x1, y2 + pill / 2 - 0.8 * row], [x2, y2 + pill / 2 - 0.8 * row]],
};

/** Points as Cytoscape wants them: weights along the straight line between the ends, and distances from it. */
function bends(edge, points, fit) {
  const [source, target] = [edge.source(), edge.target()];
  const half = (node) => node.outerWidth() / 2;
  const isUnder = edge.hasClass('under');
  const start = isUnder ? [source.position('x'), source.position('y') + source.outerHeight() / 2] : [source.position('x') + half(source), source.position('y')];
  const end = isUnder ? [target.position('x'), target.position('y') - target.outerHeight() / 2] : [target.position('x') - half(target), target.position('y')];
  const [dx, dy] = [end[0] - start[0], end[1] - start[1]];
  const length = Math.hypot(dx, dy) || 1;
  const found = points(start, end, fit, edge.data()).map(([x, y]) => [x - start[0], y - start[1]]);
  return { bw: found.map(([x, y]) => (x * dx + y * dy) / (length * length)), bd: found.map(([x, y]) => (y * dx - x * dy) / length) };
}

/** Zoom 1 on one panel; a little less where it would not fit. */
function showPanel(page, i) {
  const { cy, data, stage, fit } = page;
  const panel = data.plan.panels[i];
  if (!panel) return;
  const { margin } = data.grid;
  const width = (panel.end - panel.left) * fit.column + margin.left + margin.right;
  const title = page.headings.names.length ? TITLE : 0;
  const height = (panel.line + 0.5 - panel.top) * fit.row + margin.top + margin.bottom + title;
  const zoom = clamp(page.printed ? 0 : LEAST_ZOOM, Math.min(stage.clientWidth / width, stage.clientHeight / height), 1);
  const slack = Math.max(0, stage.clientWidth - width * zoom) / 2;
  cy.viewport({ zoom, pan: { x: slack - panel.left * fit.column * zoom, y: margin.top * (1 - zoom) + title - panel.top * fit.row * zoom } });
  setPanel(page, i);
}

function showAll({ cy }) {
  cy.fit(cy.elements(), 28);
}

/** Headings above the columns; zoomed out, names of layers. */
function createHeadings(page) {
  const { plan } = page.data;
  const heading = (text, name) => element('span', name ? { class: name } : {}, text);
  const columns = plan.headings.map(({ text, x }) => ({ x, label: heading(text) }));
  const first = plan.panels.filter((panel) => panel.position === plan.panels[0].position);
  const layers = first.map((panel) => ({ x: (panel.left + panel.right) / 2, label: heading(`layer ${panel.layer}`, 'layer') }));
  const rows = plan.panels.filter((panel) => panel.layer === plan.panels[0].layer);
  const names = rows.length > 1 ? rows.map((panel) => ({ y: panel.top, label: heading(positionText(page.data, panel)) })) : [];
  fill(page, 'heads', ...[...columns, ...layers].map(({ label }) => label));
  fill(page, 'rows', ...names.map(({ label }) => label));
  page.headings = { columns, layers, names };
}

/** One size for all headings, at which no two neighbours touch. */
function headingScale(columns, column) {
  for (const heading of columns) {
    if (heading.width) continue;
    heading.label.hidden = false;
    heading.width = heading.label.offsetWidth;
  }
  const inOrder = [...columns].sort((one, other) => one.x - other.x);
  const room = ({ x, width }, next) => (2 * ((next.x - x) * column - HEADING_GAP)) / (width + next.width || 1);
  return clamp(0.5, Math.min(1, ...inOrder.slice(1).map((next, i) => room(inOrder[i], next))), 1);
}

function drawHeadings(page) {
  const { cy, fit, stage, headings } = page;
  const [zoom, pan] = [cy.zoom(), cy.pan()];
  const isNear = fit.column * zoom >= HEADING_ROOM;
  const scale = isNear ? headingScale(headings.columns, fit.column * zoom) : 1;
  const put = ({ x, label }, isWanted) => {
    const at = (fit.left + x * fit.column) * zoom + pan.x;
    label.hidden = !isWanted || at < -60 || at > stage.clientWidth + 60;
    label.style.transform = `translate(${at}px, 0) translate(-50%, 0) scale(${scale})`;
  };
  for (const heading of headings.columns) put(heading, isNear);
  const every = Math.ceil(60 / (page.data.plan.step * fit.column * zoom));
  headings.layers.forEach((heading, i) => put(heading, !isNear && i % every === 0));
  for (const { y, label } of headings.names) label.style.transform = `translate(0, ${(fit.top + y * fit.row) * zoom + pan.y - 19}px)`;
}

/** The panel in the middle of the stage is the one that the controls name. */
function followViewport(page) {
  const { cy, fit, data } = page;
  const { x1, x2, y1, y2 } = cy.extent();
  const x = ((x1 + x2) / 2 - fit.left) / fit.column;
  const y = ((y1 + y2) / 2 - fit.top) / fit.row;
  const away = (low, high, at) => Math.max(low - at, at - high, 0);
  let best = [Infinity, 0];
  data.plan.panels.forEach((panel, i) => {
    const distance = away(panel.left, panel.right - 1, x) + away(panel.top, panel.line, y);
    if (distance < best[0]) best = [distance, i];
  });
  setPanel(page, best[1]);
}

function watchViewport(page) {
  hear(page, 'viewport', () => {
    hideTip(page);
    if (!page.fit || !page.data.plan.panels.length) return;
    nextFrame(page, () => {
      drawHeadings(page);
      followViewport(page);
    });
  });
}
