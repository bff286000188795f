/* The panel: heads of one layer are averaged, and drawn as a map and as lines between tokens, both of the same mean. */

/** Weaker lines are left out: of a mean of heads nearly every pair has one. */
const LEAST_MEAN = 0.01;

/** As Python writes a probability. */
function probability(value) {
  if (value >= 0.9995 && value < 1) return '> .999';
  if (value >= 0.001) return value.toFixed(3).replace(/^0/, '');
  return value === 0 ? '0' : '< .001';
}

/** Mean of the chosen heads as a panel of one head; with the first token hidden each row is divided by what is left of it. */
function meanPanel({ whole, chosen, sink }) {
  const { Q, K, top } = whole;
  const codes = new Uint16Array(Q * K);
  const hidden = new Float32Array(Q);
  for (let query = 0; query < Q; query += 1) {
    const row = Float64Array.from({ length: K }, (_, key) => [...chosen].reduce((sum, head) => sum + code(whole, 0, head, query, key), 0) / chosen.size);
    hidden[query] = toWeight(whole, row[0]);
    if (sink) {
      row[0] = 0;
      const left = row.reduce((sum, value) => sum + value, 0);
      row.forEach((value, key) => { row[key] = left > 1e-9 * top ? (value / left) * top / whole.scale : 0; });
    }
    row.forEach((value, key) => { codes[query * K + key] = Math.round(value); });
  }
  return { ...whole, heads: [0], codes, causal: false, block: Q * K, hue: 'attention', write: probability, hidden };
}

function headName({ model }, head) {
  return `${model.prefix}${head}`;
}

function headsText(state) {
  const { chosen, whole, model } = state;
  const list = [...chosen].sort((a, b) => a - b);
  return list.length === whole.heads.length && list.length > 1 ? `all ${list.length} heads of layer ${model.layer}` : list.map((head) => headName(state, head)).join(', ');
}

function say(state) {
  const { chosen, sink, mean, lines } = state;
  const how = `${chosen.size > 1 ? 'Mean of ' : ''}${headsText(state)}; what a query reads adds up to 1.`;
  const at = [...lines.pins.query].at(-1) ?? mean.Q - 1;
  const left = sink ? ` First token hidden, rows renormalised: it holds ${probability(mean.hidden[at])} of what ${nameOf(mean, 'query', at)} reads.` : '';
  state.said.textContent = how + left;
}

function chooseHead(state, name) {
  const { host, model, whole, tell } = state;
  const every = whole.heads.map((_, head) => head);
  const isAll = state.chosen.size === every.length;
  if (name === 'all') state.chosen = new Set(every);
  else if (isAll) state.chosen = new Set([Number(name)]);
  else if (!state.chosen.delete(Number(name))) state.chosen.add(Number(name));
  if (!state.chosen.size) state.chosen = new Set(every);
  const isWhole = state.chosen.size === every.length;
  for (const chip of host.querySelectorAll('[data-head]')) {
    chip.setAttribute('aria-pressed', String(chip.dataset.head === 'all' ? isWhole : !isWhole && state.chosen.has(Number(chip.dataset.head))));
  }
  // The address names heads of the model's own attention alone.
  if (model.named) tell.set('heads', isWhole ? [] : [...state.chosen].sort((a, b) => a - b));
  showMean(state);
}

/** After a change of heads, or of what is hidden. */
function showMean(state) {
  state.mean = meanPanel(state);
  const { lines, chosen, whole } = state;
  lines.panel = { ...state.mean, said: chosen.size === 1 ? `head ${[...chosen][0]}` : `mean of ${chosen.size} heads` };
  lines.apart = { panel: { ...whole, hue: 'attention', write: probability }, layer: 0, heads: [...chosen] };
  if (lines.order) refreshLines(lines);
  else layTokens(lines);
  drawMap(state);
}

/** A query alone is what the numbers are of. */
function lookFrom({ lines }, query) {
  for (const side of SIDES) lines.pins[side].clear();
  lines.pins.query.add(query);
  refreshLines(lines);
}

/** The query of a node that is selected elsewhere becomes the one that is looked from. */
function followKey(state, key) {
  const { model, mean, lines } = state;
  const stack = key?.includes('/') ? key.slice(0, key.indexOf('/')) : null;
  if (stack !== model.stack) return;
  const query = Number(key?.split('.')[3] ?? NaN) - model.first;
  if (!(query >= 0 && query < mean.Q) || (lines.pins.query.size === 1 && lines.pins.query.has(query))) return;
  lookFrom(state, query);
  showQuery(state);
}

/** Bring the query that is looked from into view, in both pictures. */
function showQuery({ host, size, lines }) {
  const [query] = lines.pins.query;
  const map = host.querySelector('.map-box');
  for (const [box, step] of [[map, size], [lines.scroller, ROW]]) box.scrollTop = (query + 0.5) * step - box.clientHeight / 2;
  map.scrollLeft = (query + 0.5) * size - map.clientWidth / 2;
}

/** Draw into the places of a panel, and say what is picked and set in it: `tell.pick(key)`, `tell.set(name, value)`. */
function mount(host, model, tell) {
  const state = { host, model, tell, whole: readPanel(model), chosen: new Set(model.chosen), sink: false, cursor: null, said: host.querySelector('[data-role=says]') };
  createMap(state);
  state.lines = createLines(host.querySelector('[data-role=lines]'));
  Object.assign(state.lines, { heads: [0], least: LEAST_MEAN, changed: () => { say(state); markNames(state); } });
  state.lines.pins.query.add(model.query);
  host.querySelector('.toggles').addEventListener('click', ({ target }) => { if (target.dataset.head) chooseHead(state, target.dataset.head); });
  host.querySelector('[data-role=sink]').addEventListener('change', ({ target }) => { state.sink = target.checked; showMean(state); });
  showMean(state);
  showQuery(state);
  const repaint = () => { drawMap(state); drawLines(state.lines); };
  const again = new ResizeObserver(() => { if (host.clientWidth !== state.width) drawMap(state); });
  again.observe(host);
  return { select: (key) => followKey(state, key), setTheme: repaint, destroy: () => again.disconnect() };
}

flowgraph.attention = { mount };
