/* Attention of one layer: heads are averaged, tokens summed, and drawn as a map and as lines, all from one table of numbers. */

(() => {
  'use strict';
  const flowgraph = (window.flowgraph ??= {});
  const widgets = (flowgraph.widgets ??= {});
  const SVG = 'http://www.w3.org/2000/svg';
  const ROW = 19;
  const LINES = 170;
  const MOST_LINES = 600;
  const LEAST = 0.01;
  const CELL = [11, 34];
  /** Px beside the map: its row labels; and the lines, where they stand to its right. */
  const LABELS = 116;
  const BESIDE = 520;
  const WIDE = 940;
  const MOST_IN_TIP = 8;

  /** Flowgraph’s page scripts come after this. */
  const element = (...given) => flowgraph.element(...given);

  /** As Python writes a probability. */
  function probability(value) {
    if (value >= 0.9995 && value < 1) return '> .999';
    if (value >= 0.001) return value.toFixed(3).replace(/^0/, '');
    return value === 0 ? '0' : '< .001';
  }

  /** Little-endian pairs of bytes, whatever the machine. */
  function numbersOf({ pattern, levels }) {
    const bytes = atob(pattern);
    const numbers = new Float32Array(bytes.length / 2);
    for (let i = 0; i < numbers.length; i += 1) numbers[i] = (bytes.charCodeAt(2 * i) + 256 * bytes.charCodeAt(2 * i + 1)) / levels;
    return numbers;
  }

  /** Mean of the chosen heads, [query × key]; with the first token hidden each row is divided by what is left of it. */
  function average(state) {
    const { queries, keys, numbers, chosen, sink } = state;
    const mean = new Float32Array(queries * keys);
    for (const head of chosen) {
      const start = head * queries * keys;
      for (let i = 0; i < mean.length; i += 1) mean[i] += numbers[start + i] / chosen.size;
    }
    state.hidden = new Float32Array(queries);
    if (!sink) return mean;
    for (let query = 0; query < queries; query += 1) {
      const row = query * keys;
      state.hidden[query] = mean[row];
      const left = mean.subarray(row + 1, row + keys).reduce((sum, value) => sum + value, 0);
      mean[row] = 0;
      for (let key = 1; key < keys; key += 1) mean[row + key] = left > 1e-9 ? mean[row + key] / left : 0;
    }
    return mean;
  }

  /** Keys are the queries' own tokens, unless the heads read another stack. */
  const keysOf = (model) => model.keys ?? model.tokens;
  const keyName = ({ model }, key) => (key < keysOf(model).length ? `${keysOf(model)[key]} ${model.first + key}` : `${model.others.toLocaleString('en')} others`);
  const headName = ({ model }, head) => `${model.prefix ?? `L${model.layer}H`}${head}`;
  const queryName = ({ model }, query) => `${model.tokens[query]} ${model.first + query}`;
  const visible = ({ model, queries, keys }, query, key) => key >= queries || !model.causal || key <= query;

  function says(state) {
    const { model, chosen, sink, hidden, queries } = state;
    const list = [...chosen].sort((a, b) => a - b);
    const isAll = list.length === model.heads && list.length > 1;
    const which = isAll ? `all ${list.length} heads of layer ${model.layer}` : list.map((head) => headName(state, head)).join(', ');
    const how = `${list.length > 1 ? 'Mean of ' : ''}${which}; what a query reads adds up to 1.`;
    const from = [...state.chosenQueries];
    const at = from.length ? from.at(-1) : queries - 1;
    const left = sink ? ` First token hidden, rows renormalised: it holds ${probability(hidden[at])} of what ${queryName(state, at)} reads.` : '';
    state.host.querySelector('[data-role=says]').textContent = how + left;
  }

  /* The map */

  function createMap(state) {
    const box = state.host.querySelector('[data-role=map]');
    const canvas = element('canvas', { tabindex: '0', role: 'application', 'data-own-tip': '' });
    const rows = element('div', { class: 'map-rows', 'aria-hidden': 'true' });
    const columns = element('div', { class: 'map-columns', 'aria-hidden': 'true' });
    const grid = element('div', { class: 'map-grid' }, rows, canvas, element('div', { class: 'map-corner' }), columns);
    box.append(element('div', { class: 'map-title' }, 'queries ↓ read keys →'), element('div', { class: 'map-box' }, grid));
    Object.assign(state, { canvas, rows, columns, mapBox: box });
    canvas.addEventListener('pointermove', (event) => point(state, cellAt(state, event), event.clientX, event.clientY));
    canvas.addEventListener('pointerleave', () => flowgraph.tips.hideTip());
    canvas.addEventListener('click', (event) => take(state, cellAt(state, event)));
    canvas.addEventListener('keydown', (event) => walk(state, event));
  }

  function cellAt({ canvas, size, queries, keys }, event) {
    const box = canvas.getBoundingClientRect();
    const at = (value, most) => Math.max(0, Math.min(most - 1, Math.floor(value / size)));
    return [at(event.clientY - box.top, queries), at(event.clientX - box.left, keys)];
  }

  function pairTip(state, query, key) {
    if (!visible(state, query, key)) return `${queryName(state, query)} comes before ${keyName(state, key)}: it cannot see it`;
    const { numbers, queries, keys, chosen, mean, model } = state;
    const value = (head) => numbers[(head * queries + query) * keys + key];
    const heads = [...chosen].sort((a, b) => value(b) - value(a)).slice(0, MOST_IN_TIP);
    const lines = [`${queryName(state, query)} → ${keyName(state, key)}`];
    if (chosen.size > 1 || state.sink) lines.push(`${state.sink ? 'without the first token' : 'mean'}\t${probability(mean[query * keys + key])}`);
    lines.push(...heads.map((head) => `${headName(state, head)}\t${probability(value(head))}`));
    if (heads.length < chosen.size) lines.push(`and ${chosen.size - heads.length} heads with less`);
    return lines.join('\n');
  }

  function point(state, [query, key], x, y) {
    const text = pairTip(state, query, key);
    flowgraph.tips.showTip(text, x, y);
    return text;
  }

  /** A click selects the head, or with several the attention of the layer, at the query, and looks from there. */
  function take(state, [query]) {
    state.chosenQueries = new Set([query]);
    state.cursor = [query, state.cursor?.[1] ?? 0];
    drawLines(state);
    says(state);
    const position = state.model.first + query;
    const [head] = state.chosen;
    const { kind = 'head', stack = null, layer } = state.model;
    const prefix = stack ? `${stack}/` : '';
    if (state.chosen.size === 1) state.tell.pick(`${prefix}${kind}.${layer}.${head}.${position}.-`);
    else if (kind === 'head') state.tell.pick(`${prefix}attn.${layer}.-.${position}.-`);
  }

  function walk(state, event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const [query, key] = state.cursor ?? [state.model.query, state.model.query];
    if (event.key === 'Enter') take(state, [query, key]);
    if (!steps[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    const [down, right] = steps[event.key];
    state.cursor = [Math.max(0, Math.min(state.queries - 1, query + down)), Math.max(0, Math.min(state.keys - 1, key + right))];
    drawMap(state);
    const box = state.canvas.getBoundingClientRect();
    const text = point(state, state.cursor, box.left + (state.cursor[1] + 1) * state.size, box.top + (state.cursor[0] + 1) * state.size);
    state.host.querySelector('[data-role=says]').textContent = text.replaceAll('\t', ' ').replaceAll('\n', ', ');
  }

  function drawMap(state) {
    const { canvas, mean, queries, keys, model, host } = state;
    const style = getComputedStyle(host);
    const width = host.clientWidth;
    state.width = width;
    const room = Math.max(200, width - LABELS - (width > WIDE ? BESIDE : 0));
    const size = Math.max(CELL[0], Math.min(CELL[1], Math.floor(room / keys)));
    const scale = window.devicePixelRatio || 1;
    state.size = size;
    canvas.width = keys * size * scale;
    canvas.height = queries * size * scale;
    canvas.style.width = `${keys * size}px`;
    canvas.style.height = `${queries * size}px`;
    const pen = canvas.getContext('2d');
    pen.scale(scale, scale);
    const colour = (name) => style.getPropertyValue(name).trim();
    pen.fillStyle = colour('--pane');
    pen.fillRect(0, 0, keys * size, queries * size);
    paint(state, pen, colour('--background'), () => 1);
    paint(state, pen, colour('--attention'), (query, key) => Math.sqrt(mean[query * keys + key]));
    pen.globalAlpha = 1;
    if (state.cursor) outline(pen, state.cursor, size, colour('--ink'));
    canvas.setAttribute('aria-label', `Attention of layer ${model.layer}, ${queries} queries by ${keys} keys; arrow keys walk, Enter selects`);
    label(state);
  }

  /** Every pair that can be seen, in one colour. */
  function paint(state, pen, colour, opacity) {
    const { queries, keys, size, sink } = state;
    const side = size - (size > 13 ? 1 : 0.5);
    pen.fillStyle = colour;
    for (let query = 0; query < queries; query += 1) {
      for (let key = sink ? 1 : 0; key < keys; key += 1) {
        if (!visible(state, query, key)) continue;
        pen.globalAlpha = opacity(query, key);
        pen.fillRect(key * size, query * size, side, side);
      }
    }
  }

  function outline(pen, [query, key], size, colour) {
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.strokeRect(key * size + 1, query * size + 1, size - 2, size - 2);
  }

  function label(state) {
    const { rows, columns, queries, keys, size } = state;
    const names = (count, name) => Array.from({ length: count }, (_, i) => element('span', {}, name(state, i)));
    rows.replaceChildren(...names(queries, queryName));
    columns.replaceChildren(...names(keys, keyName));
    for (const axis of [rows, columns]) axis.style.setProperty('--pitch', `${size}px`);
    for (const query of state.chosenQueries) rows.children[query]?.classList.add('on');
    for (const key of state.chosenKeys) columns.children[key]?.classList.add('on');
  }

  /* The lines */

  function createLines(state) {
    const box = state.host.querySelector('[data-role=lines]');
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('aria-hidden', 'true');
    const left = element('div', { class: 'ends', role: 'group', 'aria-label': 'Queries; chosen ones are summed' });
    const right = element('div', { class: 'ends', role: 'group', 'aria-label': 'Keys; chosen ones are summed' });
    const title = element('div', { class: 'map-title' });
    box.append(title, element('div', { class: 'lines-box' }, left, svg, right));
    Object.assign(state, { svg, left, right, linesTitle: title });
    fillEnds(state, left, state.queries, queryName, 'chosenQueries');
    fillEnds(state, right, state.keys, keyName, 'chosenKeys');
  }

  function fillEnds(state, box, count, name, set) {
    for (let i = 0; i < count; i += 1) {
      const button = element('button', { type: 'button', 'aria-pressed': 'false', title: name(state, i) }, element('span', { class: 'name' }, name(state, i)), element('span', { class: 'number' }));
      button.addEventListener('click', () => {
        if (!state[set].delete(i)) state[set].add(i);
        drawLines(state);
        drawMap(state);
        says(state);
      });
      box.append(button);
    }
  }

  /** Lines between the chosen queries and keys; none chosen on a side stands for all. */
  function shownPairs({ mean, queries, keys, chosenQueries, chosenKeys }) {
    const found = [];
    for (let query = 0; query < queries; query += 1) {
      if (chosenQueries.size && !chosenQueries.has(query)) continue;
      for (let key = 0; key < keys; key += 1) {
        if (chosenKeys.size && !chosenKeys.has(key)) continue;
        const value = mean[query * keys + key];
        if (value >= LEAST) found.push({ query, key, value });
      }
    }
    return found.sort((a, b) => b.value - a.value);
  }

  function drawLines(state) {
    const pairs = shownPairs(state);
    const shown = pairs.slice(0, MOST_LINES);
    const height = ROW * Math.max(state.queries, state.keys);
    state.svg.setAttribute('viewBox', `0 0 ${LINES} ${height}`);
    state.svg.setAttribute('width', LINES);
    state.svg.setAttribute('height', height);
    state.svg.replaceChildren(...shown.reverse().map((pair) => line(state, pair)));
    const cut = pairs.length > MOST_LINES ? `the strongest ${MOST_LINES} of ${pairs.length.toLocaleString('en')} lines` : `${pairs.length} line${pairs.length === 1 ? '' : 's'}`;
    state.linesTitle.textContent = `query — key, ${cut} of at least .01; click tokens to sum over them`;
    showSums(state);
  }

  function line(state, { query, key, value }) {
    const made = document.createElementNS(SVG, 'line');
    const root = Math.sqrt(value);
    const about = { x1: 0, y1: (query + 0.5) * ROW, x2: LINES, y2: (key + 0.5) * ROW, 'stroke-width': (0.6 + 7 * root).toFixed(1), 'stroke-opacity': (0.25 + 0.7 * Math.min(1, root / 0.5)).toFixed(2) };
    for (const [name, set] of Object.entries(about)) made.setAttribute(name, set);
    made.dataset.tip = pairTip(state, query, key);
    return made;
  }

  /** Beside each key what the chosen queries give it together; beside each query what it gives to the chosen keys. */
  function showSums(state) {
    const { mean, queries, keys, chosenQueries, chosenKeys } = state;
    const sum = (over, value) => [...over].reduce((total, i) => total + value(i), 0);
    fillSums(state.right, chosenKeys, chosenQueries.size ? (key) => sum(chosenQueries, (query) => mean[query * keys + key]) : null, keys);
    fillSums(state.left, chosenQueries, chosenKeys.size ? (query) => sum(chosenKeys, (key) => mean[query * keys + key]) : null, queries);
  }

  function fillSums(box, on, value, count) {
    for (let i = 0; i < count; i += 1) {
      const button = box.children[i];
      button.setAttribute('aria-pressed', String(on.has(i)));
      const total = value ? value(i) : null;
      button.lastElementChild.textContent = total === null ? '' : total > 1 ? total.toFixed(2) : probability(total);
      button.style.setProperty('--part', total === null ? 0 : Math.min(1, total).toFixed(3));
    }
  }

  /* Controls */

  function chooseHead(state, name) {
    const every = Array.from({ length: state.model.heads }, (_, head) => head);
    const isAll = state.chosen.size === state.model.heads;
    if (name === 'all') state.chosen = new Set(every);
    else if (isAll) state.chosen = new Set([Number(name)]);
    else if (!state.chosen.delete(Number(name))) state.chosen.add(Number(name));
    if (!state.chosen.size) state.chosen = new Set(every);
    const whole = state.chosen.size === state.model.heads;
    for (const chip of state.host.querySelectorAll('[data-head]')) {
      chip.setAttribute('aria-pressed', String(chip.dataset.head === 'all' ? whole : !whole && state.chosen.has(Number(chip.dataset.head))));
    }
    // The address names heads of the model's own attention alone.
    if (!state.model.keys) state.tell.set('heads', whole ? [] : [...state.chosen].sort((a, b) => a - b));
    refresh(state);
  }

  function refresh(state) {
    state.mean = average(state);
    drawMap(state);
    drawLines(state);
    says(state);
  }

  /** The query of a node that is selected elsewhere becomes the one that is looked from. */
  function follow(state, key) {
    const stack = key?.includes('/') ? key.slice(0, key.indexOf('/')) : null;
    if (stack !== (state.model.stack ?? null)) return;
    const position = Number(key?.split('.')[3] ?? NaN);
    const query = position - state.model.first;
    if (!(query >= 0 && query < state.queries) || (state.chosenQueries.size === 1 && state.chosenQueries.has(query))) return;
    state.chosenQueries = new Set([query]);
    drawLines(state);
    drawMap(state);
    says(state);
    showQuery(state);
  }

  /** Bring the query that is looked from into view, in both pictures. */
  function showQuery({ host, size, chosenQueries }) {
    const [query] = chosenQueries;
    for (const [box, step] of [['.map-box', size], ['.lines-box', ROW]]) {
      const found = host.querySelector(box);
      found.scrollTop = (query + 0.5) * step - found.clientHeight / 2;
      found.scrollLeft = (query + 0.5) * size - found.clientWidth / 2;
    }
  }

  widgets.attention = (host, model, tell) => {
    const queries = model.tokens.length;
    const state = {
      host, model, tell, queries, keys: keysOf(model).length + (model.others > 0), numbers: numbersOf(model), sink: false, cursor: null,
      chosen: new Set(model.chosen), chosenQueries: new Set([model.query]), chosenKeys: new Set(),
    };
    createMap(state);
    createLines(state);
    host.querySelector('.toggles').addEventListener('click', ({ target }) => { if (target.dataset.head) chooseHead(state, target.dataset.head); });
    host.querySelector('[data-role=sink]').addEventListener('change', ({ target }) => { state.sink = target.checked; refresh(state); });
    refresh(state);
    showQuery(state);
    const again = new ResizeObserver(() => { if (host.clientWidth !== state.width) drawMap(state); });
    again.observe(host);
    const theme = new MutationObserver(() => drawMap(state));
    theme.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] });
    return { select: (key) => follow(state, key), destroy: () => { again.disconnect(); theme.disconnect(); } };
  };
})();
