/* Axes are HTML beside the canvas: sticky while it moves, crisp, opaque, thinned before they could overlap. */

const TOKEN_ROOM = 11;
const LAYER_ROOM = { columns: 13, rows: 28 };
const WIDE_TOKEN = 46;

function createAxes(page) {
  const { data } = page;
  const tokens = data.tokens.map((text, token) => {
    const label = tokenText(text);
    label.className = token === data.position ? 'tick goal' : 'tick';
    label.title = data.position === null ? text : `${text} at position ${data.numbers?.[token] ?? token}`;
    return label;
  });
  const layers = Array.from({ length: data.layers[1] - data.layers[0] }, (_, i) => element('span', {}, `L${i + data.layers[0]}`));
  const stacks = (data.stacks ?? []).map(([name]) => element('span', { class: 'tick stack' }, name));
  const draw = () => {
    drawTokens(page, tokens);
    drawLayers(page, layers);
    drawStacks(page, stacks);
  };
  // Before the stage has a size there is nothing to stand beside.
  hear(page, 'viewport', () => nextFrame(page, () => { if (page.geometry) draw(); }));
  return { tokens, layers, stacks, draw };
}

/** Hang the labels on the right sides of the stage after its orientation may have changed. */
function arrangeAxes(page) {
  const { tokens, layers } = page.axes;
  const isColumns = page.geometry.orientation === 'columns';
  const { stacks } = page.axes;
  fill(page, 'gutter', ...(isColumns ? layers : [...tokens, ...stacks]));
  fill(page, 'ground', ...(isColumns ? tokens : layers));
  fill(page, 'towers', ...(isColumns ? stacks : []));
  page.axes.draw();
}

function onStage({ cy }, point) {
  const zoom = cy.zoom();
  const pan = cy.pan();
  return { x: point.x * zoom + pan.x, y: point.y * zoom + pan.y };
}

function drawTokens(page, labels) {
  const { data, geometry, cy } = page;
  const pitch = geometry.token * cy.zoom();
  const every = Math.max(1, Math.ceil(TOKEN_ROOM / pitch));
  labels.forEach((label, token) => {
    const at = onStage(page, pixel(data, geometry, { x: token, y: 0, k: 0, n: 1 }));
    const last = labels.length - 1;
    label.hidden = (last - token) % every !== 0;
    if (geometry.orientation === 'rows') styleLabel(label, `translate(90px, ${at.y}px) translate(-100%, -50%)`, 84);
    else if (pitch < WIDE_TOKEN) styleLabel(label, `translate(${at.x}px, 5px) rotate(60deg) translate(0, -50%)`, 64);
    else styleLabel(label, `translate(${at.x}px, 5px) translate(-50%, 0)`, pitch - 6);
  });
}

function drawLayers(page, labels) {
  const { data, geometry, cy } = page;
  const isColumns = geometry.orientation === 'columns';
  const every = Math.max(1, Math.ceil(LAYER_ROOM[geometry.orientation] / (geometry.layer * cy.zoom())));
  labels.forEach((label, layer) => {
    const at = onStage(page, pixel(data, geometry, { x: 0, y: layer + 0.5, k: 0, n: 1 }));
    label.hidden = layer % every !== 0;
    const place = isColumns ? `translate(34px, ${at.y}px) translate(-100%, -50%)` : `translate(${at.x - 96}px, 3px) translate(-50%, 0)`;
    styleLabel(label, place, 60);
  });
}

/** Names of stacks: above their columns, or above the first of their rows. */
function drawStacks(page, labels) {
  const { data, geometry } = page;
  const place = (x, y) => onStage(page, pixel(data, geometry, { x, y, k: 0, n: 1 }));
  labels.forEach((label, n) => {
    const [, first, last] = data.stacks[n];
    const [start, end] = [place(first, 0), place(last, 0)];
    const isRows = geometry.orientation === 'rows';
    if (isRows) styleLabel(label, `translate(90px, ${start.y - Math.min(16, geometry.token * page.cy.zoom())}px) translate(-100%, -50%)`, 84);
    else styleLabel(label, `translate(${(start.x + end.x) / 2 - 40}px, 4px) translate(-50%, 0)`, 120);
  });
}

function styleLabel(label, transform, room) {
  label.style.transform = transform;
  label.style.transformOrigin = '0 0';
  label.style.maxWidth = `${room}px`;
}

/** Tokens from which nothing shown comes are muted. */
function markSilentTokens(page) {
  const { graph, filter } = page;
  const heard = new Set(filter.nodes.items.slice(0, filter.nodes.shown).map((item) => graph.positions[numberOf(item.id())] ?? graph.places[numberOf(item.id())].x));
  page.axes.tokens.forEach((label, token) => label.classList.toggle('silent', !heard.has(token)));
}
