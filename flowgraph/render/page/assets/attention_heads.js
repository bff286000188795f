/* The head view: which layer, which heads. */

function createView(page) {
  const chips = element('div', { class: 'chips', role: 'group', 'aria-label': 'Heads' });
  const bar = element('div', { class: 'heads' }, element('span', { class: 'name' }, 'Heads'), chips,
    element('button', { type: 'button', id: 'all', click: () => setHeads(page, page.panel.heads.map((_, n) => n)) }, 'all'),
    element('button', { type: 'button', id: 'none', click: () => setHeads(page, []) }, 'none'));
  const picture = element('div', { class: 'picture' });
  document.getElementById('stage').append(bar, picture);
  page.chips = chips;
  page.lines = createLines(picture);
  addLayerPicker(page);
  return page;
}

function addLayerPicker(page) {
  page.layerPicker = element('select', { id: 'layer', change: () => setLayer(page, page.layerPicker.selectedIndex) });
  const step = (by) => setLayer(page, Math.max(0, Math.min(page.panel.layers.length - 1, page.lines.layer + by)));
  page.controls.prepend(element('span', { class: 'control' }, element('label', { for: 'layer' }, 'Layer'),
    element('button', { type: 'button', id: 'earlier', 'aria-label': 'Layer before', click: () => step(-1) }, '‹'), page.layerPicker,
    element('button', { type: 'button', id: 'later', 'aria-label': 'Layer after', click: () => step(1) }, '›')));
}

function setLayer(page, layer) {
  page.lines.layer = layer;
  page.layerPicker.selectedIndex = layer;
  document.getElementById('earlier').disabled = layer === 0;
  document.getElementById('later').disabled = layer === page.panel.layers.length - 1;
  refreshLines(page.lines);
}

function setHeads(page, heads) {
  page.lines.heads = heads;
  const on = new Set(heads);
  [...page.chips.children].forEach((chip, n) => chip.setAttribute('aria-pressed', String(on.has(n))));
  refreshLines(page.lines);
}

function toggleHead(page, head) {
  const heads = page.lines.heads;
  setHeads(page, heads.includes(head) ? heads.filter((one) => one !== head) : [...heads, head].sort((a, b) => a - b));
}

/** One head alone, or all again if it was. */
function soloHead(page, head) {
  const alone = page.lines.heads.length === 1 && page.lines.heads[0] === head;
  setHeads(page, alone ? page.panel.heads.map((_, n) => n) : [head]);
}

function headChip(page, head) {
  const name = page.panel.heads[head];
  const click = (event) => {
    if (event.shiftKey) soloHead(page, head);
    else toggleHead(page, head);
  };
  const title = `Head ${name}. Click: on or off. Double-click or Shift + click: alone`;
  return element('button', { type: 'button', class: `chip ${hueOf(page.panel, head)}`, title, 'aria-label': `Head ${name}`, click, dblclick: () => soloHead(page, head) }, String(name));
}

/** A panel opens with the layer and heads that were asked for, where it has them. */
function openPanel(page) {
  const { panel, data, lines } = page;
  page.layerPicker.replaceChildren(...panel.layers.map((layer) => element('option', {}, String(layer))));
  page.chips.replaceChildren(...panel.heads.map((_, head) => headChip(page, head)));
  const asked = data.heads ? data.heads.filter((head) => head < panel.heads.length) : panel.heads.map((_, n) => n);
  lines.layer = Math.max(0, panel.layers.indexOf(data.layer));
  lines.heads = asked;
  layTokens(lines);
  setLayer(page, lines.layer);
  setHeads(page, asked);
}

function repaint(page) {
  drawLines(page.lines);
}

function showLeast(page) {
  refreshLines(page.lines);
}

function showFilter(page) {
  layTokens(page.lines);
}

function escapeView(page) {
  clearPins(page.lines);
}
