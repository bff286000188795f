/* The map: a matrix with a name beside each row and column, which can be walked through and picked from. */

/** Px of the least and the largest side of a cell. */
const CELL = [11, 34];
/** Px beside the map: its row names; and the lines, where they stand to its right. */
const NAMES = 116;
const BESIDE = 520;
const WIDE = 940;
const MOST_IN_TIP = 8;

function createMap(state) {
  const canvas = element('canvas', { tabindex: '0', role: 'application', 'data-own-tip': '' });
  const rows = element('div', { class: 'map-rows', 'aria-hidden': 'true' });
  const columns = element('div', { class: 'map-columns', 'aria-hidden': 'true' });
  const grid = element('div', { class: 'map-grid' }, rows, canvas, element('div', { class: 'map-corner' }), columns);
  state.host.querySelector('[data-role=map]').append(element('div', { class: 'map-title' }, 'queries ↓ read keys →'), element('div', { class: 'map-box' }, grid));
  Object.assign(state, { canvas, rows, columns });
  canvas.addEventListener('pointermove', (event) => point(state, cellAt(state, event), event.clientX, event.clientY));
  canvas.addEventListener('pointerleave', hideFloatingTip);
  canvas.addEventListener('click', (event) => take(state, cellAt(state, event)));
  canvas.addEventListener('keydown', (event) => walkMap(state, event));
}

function cellAt({ canvas, size, mean }, event) {
  const box = canvas.getBoundingClientRect();
  const at = (value, most) => Math.max(0, Math.min(most - 1, Math.floor(value / size)));
  return [at(event.clientY - box.top, mean.Q), at(event.clientX - box.left, mean.K)];
}

/** Keys after the queries' own tokens are those of another stack, or stand for many. */
function isSeen({ model, mean }, query, key) {
  return key >= mean.Q || !model.masked || key <= query;
}

function pairTip(state, query, key) {
  const [from, to] = [nameOf(state.mean, 'query', query), nameOf(state.mean, 'key', key)];
  if (!isSeen(state, query, key)) return `${from} comes before ${to}: it cannot see it`;
  const { whole, chosen, mean } = state;
  const value = (head) => toWeight(whole, code(whole, 0, head, query, key));
  const heads = [...chosen].sort((a, b) => value(b) - value(a)).slice(0, MOST_IN_TIP);
  const lines = [`${from} → ${to}`];
  if (chosen.size > 1 || state.sink) lines.push(`${state.sink ? 'without the first token' : 'mean'}\t${probability(toWeight(mean, code(mean, 0, 0, query, key)))}`);
  lines.push(...heads.map((head) => `${headName(state, head)}\t${probability(value(head))}`));
  if (heads.length < chosen.size) lines.push(`and ${chosen.size - heads.length} heads with less`);
  return lines.join('\n');
}

function point(state, [query, key], x, y) {
  const text = pairTip(state, query, key);
  showFloatingTip(text, x, y);
  return text;
}

/** A click looks from the query, and picks the head there, or with several the attention of the layer. */
function take(state, [query]) {
  state.cursor = [query, state.cursor?.[1] ?? 0];
  lookFrom(state, query);
  const { first, kind, layer, stack } = state.model;
  const [head] = state.chosen;
  const prefix = stack ? `${stack}/` : '';
  if (state.chosen.size === 1) state.tell.pick(`${prefix}${kind}.${layer}.${head}.${first + query}.-`);
  else if (kind === 'head') state.tell.pick(`${prefix}attn.${layer}.-.${first + query}.-`);
}

function walkMap(state, event) {
  const { mean, model } = state;
  const [query, key] = state.cursor ?? [model.query, Math.min(model.query, mean.K - 1)];
  if (event.key === 'Enter') take(state, [query, key]);
  if (!ARROWS[event.key]) return;
  event.preventDefault();
  event.stopPropagation();
  const [down, right] = ARROWS[event.key];
  state.cursor = [Math.max(0, Math.min(mean.Q - 1, query + down)), Math.max(0, Math.min(mean.K - 1, key + right))];
  drawMap(state);
  const box = state.canvas.getBoundingClientRect();
  const text = point(state, state.cursor, box.left + (state.cursor[1] + 1) * state.size, box.top + (state.cursor[0] + 1) * state.size);
  state.said.textContent = text.replaceAll('\t', ' ').replaceAll('\n', ', ');
}

function drawMap(state) {
  const { canvas, mean, host, model } = state;
  const { Q, K } = mean;
  state.width = host.clientWidth;
  const room = Math.max(200, state.width - NAMES - (state.width > WIDE ? BESIDE : 0));
  const size = Math.max(CELL[0], Math.min(CELL[1], Math.floor(room / K)));
  const gap = size > 13 ? 1 : 0.5;
  state.size = size;
  canvas.style.width = `${K * size}px`;
  const pen = sizeCanvas(canvas, K * size, Q * size);
  pen.fillStyle = colour('pane');
  pen.fillRect(0, 0, K * size, Q * size);
  pen.fillStyle = colour('background');
  for (let query = 0; query < Q; query += 1) {
    for (let key = state.sink ? 1 : 0; key < K; key += 1) {
      if (isSeen(state, query, key)) pen.fillRect(key * size, query * size, size - gap, size - gap);
    }
  }
  const [queries, keys] = [Array(Q).keys(), Array(K).keys()].map((all) => [...all]);
  paintMatrix(pen, mean, 0, 0, queries, keys, { width: K * size, height: Q * size, least: 0, inset: 0, gap, shade: Math.sqrt });
  pen.globalAlpha = 1;
  if (state.cursor) outline(pen, state.cursor, size);
  canvas.setAttribute('aria-label', `Attention of layer ${model.layer}, ${Q} queries by ${K} keys; arrow keys walk, Enter selects`);
  nameCells(state);
}

function outline(pen, [query, key], size) {
  pen.strokeStyle = colour('ink');
  pen.lineWidth = 2;
  pen.strokeRect(key * size + 1, query * size + 1, size - 2, size - 2);
}

function nameCells(state) {
  const { mean, rows, columns, size } = state;
  const names = (count, side) => Array.from({ length: count }, (_, i) => element('span', {}, nameOf(mean, side, i)));
  rows.replaceChildren(...names(mean.Q, 'query'));
  columns.replaceChildren(...names(mean.K, 'key'));
  for (const axis of [rows, columns]) axis.style.setProperty('--pitch', `${size}px`);
  markNames(state);
}

function markNames({ rows, columns, lines }) {
  [...rows.children].forEach((name, i) => name.classList.toggle('on', lines.pins.query.has(i)));
  [...columns.children].forEach((name, i) => name.classList.toggle('on', lines.pins.key.has(i)));
}
