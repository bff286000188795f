/* Start: read the data, draw, connect what both views have: kinds of attention, sentences, least weight, theme. */

const LEAST = [0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9];
const PAIRS = { '': 'all', 'A-A': 'A → A', 'A-B': 'A → B', 'B-A': 'B → A', 'B-B': 'B → B' };

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  const button = document.getElementById('theme');
  button.setAttribute('aria-pressed', String(name === 'dark'));
}

function addTabs(page) {
  const { panels } = page;
  if (panels.length < 2) return;
  const tabs = panels.map((panel, n) => element('button', {
    type: 'button', role: 'tab', id: `tab-${panel.name}`, 'aria-controls': 'stage', click: () => setPanel(page, n),
  }, panel.name));
  const list = element('div', { class: 'tabs', role: 'tablist', 'aria-label': 'Kind of attention' }, ...tabs);
  list.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = (tabs.indexOf(event.target) + step + tabs.length) % tabs.length;
    setPanel(page, next);
    tabs[next].focus();
  });
  page.tabs = tabs;
  page.controls.before(list);
}

function setPanel(page, n) {
  page.panel = page.panels[n];
  page.lines.panel = page.panel;
  for (const side of SIDES) page.lines.pins[side].clear();
  page.tabs?.forEach((tab, m) => {
    tab.setAttribute('aria-selected', String(m === n));
    tab.tabIndex = m === n ? 0 : -1;
  });
  const { bits, error } = page.panel;
  document.getElementById('exact').textContent = `Weights are exact to ±${error.toPrecision(1)} (${bits} bits); a sum of n weights to n times that. Layers and heads count from 0.`;
  openPanel(page);
}

function addSentences(page) {
  const { split } = page.data;
  page.lines.split = split;
  if (split === null) return;
  const picker = element('select', { id: 'sentences', change: () => { page.lines.filter = picker.value; showFilter(page); } },
    ...Object.entries(PAIRS).map(([value, text]) => element('option', { value }, text)));
  page.controls.append(element('span', { class: 'control' }, element('label', { for: 'sentences' }, 'Sentences'), picker));
}

function addLeast(page) {
  const output = element('output', { for: 'least' }, '0');
  const slider = element('input', { type: 'range', id: 'least', min: 0, max: LEAST.length - 1, step: 1, value: 0, input: () => {
    page.lines.least = LEAST[slider.value];
    output.textContent = String(page.lines.least);
    slider.setAttribute('aria-valuetext', output.textContent);
    showLeast(page);
  } });
  page.controls.append(element('span', { class: 'control' }, element('label', { for: 'least' }, 'Lines from'), slider, output));
}

/** Paper is light, whatever the screen is. */
function printLight(page) {
  let onScreen = null;
  addEventListener('beforeprint', () => {
    onScreen ??= document.documentElement.dataset.theme;
    setTheme('light');
    repaint(page);
  });
  addEventListener('afterprint', () => {
    if (onScreen) setTheme(onScreen);
    onScreen = null;
    repaint(page);
  });
}

function start() {
  const data = JSON.parse(document.getElementById('data').textContent);
  const page = { data, panels: data.panels.map(readPanel), controls: document.getElementById('controls') };
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const asAround = () => setTheme(dark.matches ? 'dark' : 'light');
  if (data.theme) setTheme(data.theme);
  else asAround();
  createView(page);
  addSentences(page);
  addLeast(page);
  addTabs(page);
  // The frame may learn only after it has started which theme the notebook has.
  const follow = () => { asAround(); repaint(page); };
  if (!data.theme) dark.addEventListener('change', follow);
  document.getElementById('theme').addEventListener('click', () => {
    dark.removeEventListener('change', follow);
    setTheme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark');
    repaint(page);
  });
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') escapeView(page); });
  printLight(page);
  setPanel(page, 0);
}

start();
