/* The model view: a grid of small pictures, layers down and heads across, and one of them large beside it. */

const THUMB_LINES = 500;

function createView(page) {
  page.grid = element('div', { class: 'grid', role: 'group', 'aria-label': 'Heads: layers down, heads across. Arrow keys walk, Enter opens.' });
  page.large = element('section', { class: 'large', hidden: '', 'aria-label': 'The head that is open' });
  page.largeName = element('h2');
  const picture = element('div', { class: 'picture' });
  page.large.append(element('div', { class: 'title' }, page.largeName, element('button', { type: 'button', id: 'close', 'aria-label': 'Close', click: () => closeLarge(page) }, '×')), picture);
  document.getElementById('stage').append(element('div', { class: 'around' }, page.grid), page.large);
  page.lines = createLines(picture);
  document.getElementById('how').prepend(`Click a head to open it. Small pictures draw at most ${THUMB_LINES} lines each. `);
  page.open = null;
  page.style = 'lines';
  page.seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => drawThumb(page, entry.target)), { rootMargin: '200px' });
  // Small pictures change their size with the grid, and their content with it.
  new ResizeObserver(() => { if (page.thumbs) repaint(page); }).observe(page.grid);
  page.grid.addEventListener('keydown', (event) => walkGrid(page, event));
  addStylePicker(page);
  return page;
}

function addStylePicker(page) {
  const picker = element('select', { id: 'drawn', change: () => { page.style = picker.value; repaint(page); } },
    element('option', { value: 'lines' }, 'lines'), element('option', { value: 'matrix' }, 'matrix'));
  page.controls.prepend(element('span', { class: 'control' }, element('label', { for: 'drawn' }, 'Drawn as'), picker));
}

function thumb(page, layer, head) {
  const { panel } = page;
  const name = `Layer ${panel.layers[layer]}, head ${panel.heads[head]}`;
  return element('button', { type: 'button', class: 'thumb', title: name, 'aria-label': name, 'aria-pressed': 'false', tabindex: '-1',
    'data-layer': layer, 'data-head': head, click: () => openLarge(page, layer, head) }, element('canvas', { 'aria-hidden': 'true' }));
}

function openPanel(page) {
  const { panel, grid } = page;
  closeLarge(page);
  page.seen.disconnect();
  grid.style.setProperty('--heads', panel.heads.length);
  const heading = panel.heads.map((head) => element('span', { class: 'head-name', 'aria-hidden': 'true' }, String(head)));
  const rows = panel.layers.flatMap((name, layer) => [
    element('span', { class: 'layer-name', 'aria-hidden': 'true' }, String(name)),
    ...panel.heads.map((_, head) => thumb(page, layer, head)),
  ]);
  grid.replaceChildren(element('span', { class: 'corner', 'aria-hidden': 'true' }, 'layer ╲ head'), ...heading, ...rows);
  page.thumbs = [...grid.querySelectorAll('.thumb')];
  page.thumbs[0].tabIndex = 0;
  page.thumbs.forEach((one) => page.seen.observe(one));
}

function openLarge(page, layer, head) {
  const { panel, lines } = page;
  const before = page.open;
  page.open = { layer, head };
  page.large.hidden = false;
  page.grid.parentElement.classList.add('beside');
  page.largeName.textContent = `Layer ${panel.layers[layer]}, head ${panel.heads[head]}`;
  lines.layer = layer;
  lines.heads = [head];
  if (before) refreshLines(lines);
  else layTokens(lines);
  for (const one of page.thumbs) one.setAttribute('aria-pressed', String(Number(one.dataset.layer) === layer && Number(one.dataset.head) === head));
  focusThumb(page, layer * panel.heads.length + head);
}

function closeLarge(page) {
  const was = page.open;
  page.open = null;
  page.large.hidden = true;
  page.grid.parentElement.classList.remove('beside');
  for (const side of SIDES) page.lines.pins[side].clear();
  if (!was) return;
  for (const one of page.thumbs) one.setAttribute('aria-pressed', 'false');
}

function focusThumb(page, n) {
  for (const one of page.thumbs) one.tabIndex = -1;
  page.thumbs[n].tabIndex = 0;
  page.thumbs[n].focus({ preventScroll: true });
  page.thumbs[n].scrollIntoView({ block: 'nearest', inline: 'nearest' });
}

function walkGrid(page, event) {
  const here = event.target.closest('.thumb');
  const across = page.panel.heads.length;
  if (!here || !(event.key in ARROWS)) return;
  event.preventDefault();
  const [down, right] = ARROWS[event.key];
  const layer = Number(here.dataset.layer) + down;
  const head = Number(here.dataset.head) + right;
  if (layer < 0 || head < 0 || head >= across || layer >= page.panel.layers.length) return;
  if (page.open) openLarge(page, layer, head);
  else focusThumb(page, layer * across + head);
}

function drawThumb(page, button) {
  const layer = Number(button.dataset.layer);
  const head = Number(button.dataset.head);
  const canvas = button.firstElementChild;
  const { width, height } = button.getBoundingClientRect();
  canvas.style.width = `${width}px`;
  const pen = sizeCanvas(canvas, width, height);
  const [queries, keys] = SIDES.map((side) => rowsOf(page.lines, side));
  const paint = page.style === 'matrix' ? paintMatrix : paintLines;
  paint(pen, page.panel, layer, head, queries, keys, { width, height, least: page.lines.least });
}

function paintLines(pen, panel, layer, head, queries, keys, { width, height, least }) {
  pen.strokeStyle = colour(hueOf(panel, head));
  pen.lineWidth = 1;
  const at = (index, rows) => 3 + ((index - rows[0] + 0.5) / rows.length) * (height - 6);
  for (const { code: found, query, key } of strongest(panel, layer, [head], queries, keys, least, THUMB_LINES).lines) {
    pen.globalAlpha = 0.05 + 0.9 * (found / panel.top);
    pen.beginPath();
    pen.moveTo(4, at(query, queries));
    pen.lineTo(width - 4, at(key, keys));
    pen.stroke();
  }
}

function repaint(page) {
  page.seen.disconnect();
  page.thumbs.forEach((one) => page.seen.observe(one));
  drawLines(page.lines);
}

function showLeast(page) {
  repaint(page);
  if (page.open) refreshLines(page.lines);
}

function showFilter(page) {
  repaint(page);
  if (page.open) layTokens(page.lines);
}

function escapeView(page) {
  if (page.lines.pins.query.size || page.lines.pins.key.size) clearPins(page.lines);
  else closeLarge(page);
}
