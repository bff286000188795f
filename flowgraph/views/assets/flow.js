/* Start: read the data, draw the picture, connect the controls. */

function moveSlider(page, level) {
  page.keep.value = level;
  setLevel(page, level);
}

function watchControls(page) {
  page.keep.addEventListener('input', () => setLevel(page, Number(page.keep.value)));
  document.getElementById('theme').addEventListener('click', () => setTheme(page, currentTheme() === 'dark' ? 'light' : 'dark'));
  for (const choice of document.querySelectorAll('input[name=width]')) {
    choice.addEventListener('change', () => setWidth(page, choice.value));
  }
  for (const choice of document.querySelectorAll('input[name=orientation]')) {
    choice.addEventListener('change', () => {
      page.wanted = choice.value;
      arrange(page);
    });
  }
}

function watchTaps(page) {
  page.cy.on('tap', (event) => {
    page.stage.focus({ preventScroll: true });
    if (event.target === page.cy) return clearSelection(page);
    const { ctrlKey, metaKey } = event.originalEvent;
    if ((ctrlKey || metaKey) && event.target.isNode()) event.target.toggleClass('pin');
    else select(page, event.target);
    return undefined;
  });
}

function arrange(page) {
  placeNodes(page);
  if (page.geometry) arrangeAxes(page);
}

function markPrediction() {
  for (const found of document.querySelectorAll('b.token')) found.replaceWith(tokenText(found.textContent, 'b'));
}

function start() {
  const data = JSON.parse(document.getElementById('data').textContent);
  setTheme(null, matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  document.getElementById('app').classList.toggle('signed', data.signed);
  const stage = document.getElementById('stage');
  const cy = createPicture(data, document.getElementById('picture'));
  const page = { data, cy, stage, wanted: 'auto', chosen: null, keep: document.getElementById('keep') };
  page.graph = createGraph(data);
  page.filter = createFilter(cy, data);
  page.axes = createAxes(page);
  markPrediction();
  fillTable(page);
  clearSelection(page);
  setLevel(page, data.level);
  cy.on('zoom', () => showNearLabels(page));
  watchControls(page);
  watchTaps(page);
  watchPointer(page);
  watchSearch(page);
  watchKeys(page);
  arrange(page);
  new ResizeObserver(() => arrange(page)).observe(stage);
}

start();
