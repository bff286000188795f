/* Weights: whole numbers ("codes") of 8 or 16 bits, and what is counted and summed over them. Sums are of codes, so they are exact. */

/** More lines than this are neither readable nor quick to draw; the weakest are left out, and the page says so. */
const MOST_LINES = 4000;

/** The codes of a panel as an array of numbers. Every browser of today runs on little-endian machines, as the codes are. */
function readPanel(panel) {
  const text = atob(panel.codes);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  const Q = panel.queries.length;
  const K = panel.keys.length;
  return {
    ...panel, Q, K, codes: panel.bits === 16 ? new Uint16Array(bytes.buffer) : bytes, top: 2 ** panel.bits - 1,
    block: panel.causal ? (Q * (Q + 1)) / 2 : Q * K,
  };
}

/** Where the row of a query starts; key k is k places further. Of causal weights a row ends with the query itself. */
function rowStart(panel, layer, head, query) {
  const row = panel.causal ? (query * (query + 1)) / 2 : query * panel.K;
  return (layer * panel.heads.length + head) * panel.block + row;
}

function code(panel, layer, head, query, key) {
  return panel.causal && key > query ? 0 : panel.codes[rowStart(panel, layer, head, query) + key];
}

function toWeight(panel, total) {
  return (total / panel.top) * panel.scale;
}

/** A weight with as many digits as its bits carry, and never 0 for something that is there. */
function weightText(panel, value) {
  if (panel.write) return panel.write(value);
  const digits = panel.bits === 16 ? 4 : 3;
  return value > 0 && value < 0.5 / 10 ** digits ? `< .${'1'.padStart(digits, '0')}` : value.toFixed(digits);
}

/** Sum of codes of one head over the chosen tokens, as seen from one token of the other side. */
function sumFor(panel, layer, head, side, token, chosen) {
  let total = 0;
  for (const other of chosen) {
    total += side === 'key' ? code(panel, layer, head, other, token) : code(panel, layer, head, token, other);
  }
  return total;
}

function eachCode(panel, layer, heads, queries, keys, act) {
  for (const head of heads) {
    for (const query of queries) {
      const start = rowStart(panel, layer, head, query);
      for (const key of keys) {
        if (panel.causal && key > query) continue;
        const found = panel.codes[start + key];
        if (found) act(found, head, query, key);
      }
    }
  }
}

/** The strongest lines that reach the least weight, weakest first, and how much of everything they are. */
function strongest(panel, layer, heads, queries, keys, least, most = MOST_LINES) {
  const histogram = new Uint32Array(panel.top + 1);
  let count = 0;
  let mass = 0;
  eachCode(panel, layer, heads, queries, keys, (found) => { histogram[found] += 1; count += 1; mass += found; });
  const asked = Math.max(1, Math.ceil((least / panel.scale) * panel.top));
  let cut = panel.top + 1;
  for (let room = most; cut > asked && histogram[cut - 1] <= room; cut -= 1) room -= histogram[cut - 1];
  const lines = [];
  let drawn = 0;
  eachCode(panel, layer, heads, queries, keys, (found, head, query, key) => {
    if (found < cut) return;
    lines.push({ code: found, head, query, key });
    drawn += found;
  });
  lines.sort((a, b) => a.code - b.code);
  return { lines, count, share: mass ? drawn / mass : 1, limited: cut > asked, cut: toWeight(panel, Math.min(cut, panel.top)) };
}
