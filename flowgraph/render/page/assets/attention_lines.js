/* Lines between two columns of tokens. The canvas covers what is visible and is drawn again when the columns are scrolled. */

const ROW = 20;
const HUES = 7;
/** Of many lines the weak ones would add up to a haze and the strong ones to a block. */
const FEW = { faintest: 0.15, boldest: 0.94, power: 0.5, widest: 3 };
const CROWD = { faintest: 0.04, boldest: 0.7, power: 0.8, widest: 2 };
const SIDES = ['query', 'key'];

function other(side) {
  return side === 'query' ? 'key' : 'query';
}

/** Name of the colour of a head: its own, or that of what the panel has instead of heads. */
function hueOf(panel, head) {
  return panel.hue ?? `hue-${panel.heads[head] % HUES}`;
}

/** A token and its position; what stands for many tokens has none. */
function nameOf(panel, side, index) {
  const text = (side === 'query' ? panel.queries : panel.keys)[index];
  return `${text} ${positionOf(panel, side, index)}`.trimEnd();
}

function positionOf({ K, first = 0, others = 0 }, side, index) {
  return side === 'key' && others && index === K - 1 ? '' : String(first + index);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Two columns of tokens with a canvas between them, empty. */
function createLines(host) {
  const view = {
    host, panel: null, layer: 0, heads: [], least: 0, hover: null, filter: '', split: null,
    pins: { query: new Set(), key: new Set() }, rows: { query: [], key: [] }, marks: { query: [], key: [] }, found: null, apart: null, changed: () => {},
  };
  view.canvas = element('canvas', { 'aria-hidden': 'true' });
  view.lists = Object.fromEntries(SIDES.map((side) => [side, element('div', { class: `tokens ${side}`, role: 'group', 'aria-label': `${side} tokens` })]));
  view.scroller = element('div', { class: 'scroller', tabindex: '-1' }, view.lists.query, element('div', { class: 'gap' }, view.canvas), view.lists.key);
  view.status = element('p', { class: 'status' });
  view.live = element('p', { class: 'hidden', 'aria-live': 'polite' });
  view.headings = element('div', { class: 'headings', 'aria-hidden': 'true' }, element('span', {}, 'query: attends from'), element('span'), element('span', {}, 'key: attends to'));
  view.tip = element('div', { class: 'tip', hidden: '' });
  host.replaceChildren(view.status, view.headings, view.scroller, view.tip, view.live);
  view.scroller.addEventListener('scroll', () => drawLines(view), { passive: true });
  new ResizeObserver(() => drawLines(view)).observe(view.scroller);
  watchTokens(view);
  return view;
}

/** The part of a side that the chosen pair of sentences has: `A-B` means queries of A, keys of B. */
function rowsOf(view, side) {
  const { panel, split, filter } = view;
  const length = side === 'query' ? panel.Q : panel.K;
  const part = filter.split('-')[side === 'query' ? 0 : 1];
  const first = part === 'B' ? split : 0;
  const end = part === 'A' ? split : length;
  return Array.from({ length: end - first }, (_, n) => first + n);
}

function tokenButton(view, side, index) {
  const text = (side === 'query' ? view.panel.queries : view.panel.keys)[index];
  const position = element('span', { class: 'position' }, positionOf(view.panel, side, index));
  const value = element('span', { class: 'value' });
  const bar = element('i', { class: 'share' });
  const word = tokenText(text);
  const made = element('button', { type: 'button', 'aria-pressed': 'false', tabindex: '-1', title: text, 'data-side': side, 'data-index': index });
  made.append(...(side === 'query' ? [bar, value, position, word] : [word, position, value, bar]));
  return { button: made, value, bar };
}

/** Build the columns: after a change of panel or of the pair of sentences. */
function layTokens(view) {
  for (const side of SIDES) {
    view.rows[side] = rowsOf(view, side);
    view.marks[side] = view.rows[side].map((index) => tokenButton(view, side, index));
    view.lists[side].replaceChildren(...view.marks[side].map((mark) => mark.button));
    const kept = new Set(view.rows[side]);
    for (const pin of view.pins[side]) if (!kept.has(pin)) view.pins[side].delete(pin);
  }
  view.hover = null;
  view.lists.query.firstElementChild.tabIndex = 0;
  refreshLines(view);
}

/** Which tokens count: those pinned, or else the one under the pointer. */
function chosenTokens(view) {
  const { pins, hover } = view;
  if (pins.query.size || pins.key.size) return pins;
  const none = { query: new Set(), key: new Set() };
  if (hover) none[hover.side].add(hover.index);
  return none;
}

/** Count and draw again: after a change of layer, heads, tokens chosen or least weight. */
function refreshLines(view) {
  const chosen = chosenTokens(view);
  const [queries, keys] = SIDES.map((side) => (chosen[side].size ? [...chosen[side]] : view.rows[side]));
  view.found = strongest(view.panel, view.layer, view.heads, queries, keys, view.least);
  view.order = Object.fromEntries(SIDES.map((side) => [side, new Map(view.rows[side].map((index, row) => [index, row]))]));
  writeStatus(view, chosen);
  writeValues(view, chosen);
  drawLines(view);
  view.changed();
}

/** Line and text are drawn to the device's own pixels. */
function sizeCanvas(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext('2d');
  pen.scale(canvas.width / width, canvas.height / height);
  return pen;
}

function drawLines(view) {
  if (!view.found || !view.scroller.clientHeight) return;
  const width = view.canvas.parentElement.clientWidth;
  const height = view.scroller.clientHeight;
  const pen = sizeCanvas(view.canvas, width, height);
  const colours = new Map(view.heads.map((head) => [head, colour(hueOf(view.panel, head))]));
  const heads = view.heads;
  // Heads leave a token at different heights, so that lines of two heads between the same tokens do not cover each other.
  const shift = new Map(heads.map((head, n) => [head, ((n + 0.5) / heads.length - 0.5) * ROW * 0.6]));
  const { faintest, boldest, power, widest } = view.found.lines.length > 200 ? CROWD : FEW;
  const at = (side, index, head) => (view.order[side].get(index) + 0.5) * ROW + shift.get(head) - view.scroller.scrollTop;
  // A line that only passes through says nothing here, and of a long text hundreds do.
  const isSeen = (y) => y >= -ROW / 2 && y <= height + ROW / 2;
  for (const { code: found, head, query, key } of view.found.lines) {
    const from = at('query', query, head);
    const to = at('key', key, head);
    if (!isSeen(from) && !isSeen(to)) continue;
    const strength = found / view.panel.top;
    pen.globalAlpha = faintest + (boldest - faintest) * strength ** power;
    pen.lineWidth = 0.8 + (widest - 0.8) * strength;
    pen.strokeStyle = colours.get(head);
    pen.beginPath();
    pen.moveTo(0, from);
    pen.lineTo(width, to);
    pen.stroke();
  }
}

function percentText(share) {
  if (share === 1) return 'all';
  return share > 0.995 ? 'over 99 %' : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
}

/** Over which tokens the numbers of the other side are summed. */
function sumText(view, side, size) {
  const nouns = { query: ['from', 'query', 'queries'], key: ['to', 'key', 'keys'] };
  const [way, one, many] = nouns[side];
  const pinned = view.pins[side].size ? 'pinned ' : '';
  return size === 1 ? `${way} 1 ${pinned}${one}` : `sum over ${size} ${pinned}${many}`;
}

function writeStatus(view, chosen) {
  const { lines, count: all, share, limited, cut } = view.found;
  let text = `${count(lines.length)} of ${plural(all, 'line')} drawn`;
  if (lines.length < all) text += lines.length ? `, those from ${weightText(view.panel, cut)} up: ${percentText(share)} of the attention` : '';
  if (limited) text += ` (at most ${count(MOST_LINES)} at once)`;
  if (!view.heads.length) text = 'No head is on';
  const sums = SIDES.filter((side) => chosen[side].size).map((side) => sumText(view, side, chosen[side].size));
  if (sums.length && view.heads.length) {
    const heads = view.panel.said ?? (view.heads.length === 1 ? `head ${view.panel.heads[view.heads[0]]}` : `mean of ${view.heads.length} heads`);
    text += `. Numbers: ${sums.join('; ')}; ${heads}`;
  }
  const isLong = view.scroller.scrollHeight > view.scroller.clientHeight + 1;
  view.status.textContent = `${text}.${isLong ? ' Scroll: lines are shown where one of their tokens is in view.' : ''}`;
}
