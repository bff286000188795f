/* The slider: an element is shown while its level c is at most the slider's value. */

const TABLE_ROWS = 200;
const QUIET_MS = 400;

/** How many of the ascending numbers are at most x. */
function countUpTo(numbers, x) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function createFilter(cy, data) {
  const byLevel = (a, b) => a.data('c') - b.data('c');
  const order = (found) => {
    const items = found.not('.scaffold').toArray().sort(byLevel);
    return { items, levels: items.map((item) => item.data('c')), shown: items.length };
  };
  return { edges: order(cy.edges()), nodes: order(cy.nodes()), weighted: data.edges.filter((edge) => 's' in edge.data).length };
}

/** Touch only what lies between the old value and the new one. */
function toggleBetween(order, shown) {
  const [low, high] = [Math.min(shown, order.shown), Math.max(shown, order.shown)];
  const isHiding = shown < order.shown;
  for (let i = low; i < high; i++) order.items[i].toggleClass('off', isHiding);
  order.shown = shown;
}

function setLevel(page, level) {
  const { cy, filter } = page;
  page.level = level;
  cy.batch(() => {
    toggleBetween(filter.edges, countUpTo(filter.edges.levels, level));
    toggleBetween(filter.nodes, countUpTo(filter.nodes.levels, level));
  });
  showCounter(page);
  showTable(page);
  markSilentTokens(page);
}

function counterText({ data, filter }) {
  const all = filter.edges.items.length;
  const { shown } = filter.edges;
  const numbered = shown === all ? filter.weighted : shown;
  const mass = shown ? data.mass[shown - 1] : 0;
  return [count(numbered), ` of ${plural(data.total_edges, 'edge')}, `, percent(mass), ' of the mass'];
}

function percent(value) {
  if (value > 0 && value < 0.1) return '< 0.1 %';
  if (value >= 99.95 && value < 99.995) return '99.9 %';
  return `${value.toFixed(1).replace(/\.0$/, '')} %`;
}

function showCounter(page) {
  const [shown, of, mass, end] = counterText(page);
  document.getElementById('counter').replaceChildren(element('b', {}, shown), of, element('br'), element('b', {}, mass), end);
  page.keep.setAttribute('aria-valuetext', shown + of + mass + end);
  clearTimeout(page.quiet);
  page.quiet = setTimeout(() => announce(shown + of + mass + end), QUIET_MS);
}

function announce(text) {
  document.getElementById('live').textContent = text;
}

/** The strongest edges as a table, for those who cannot see the canvas. */
function fillTable(page) {
  const { graph, data } = page;
  const rows = graph.edges.slice(0, TABLE_ROWS).map((edge) => {
    const numbers = edge.isStructural ? ['none', 'none', 'none'] : [weight(edge.weight, data.unit), part(edge.share), part(edge.flow)];
    const cells = [nodeName(graph, edge.source), nodeName(graph, edge.target), kindName(edge.kind), ...numbers];
    return element('tr', {}, ...cells.map((cell) => element('td', {}, cell)));
  });
  document.querySelector('#table tbody').append(...rows);
}

function showTable({ filter }) {
  const rows = document.querySelectorAll('#table tbody tr');
  rows.forEach((row, i) => { row.hidden = i >= filter.edges.shown; });
}
