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
    const items = found.toArray().sort(byLevel);
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
  if (page.keep) page.keep.value = level;
  cy.batch(() => {
    toggleBetween(filter.edges, countUpTo(filter.edges.levels, level));
    toggleBetween(filter.nodes, countUpTo(filter.nodes.levels, level));
  });
  showCounter(page);
  showRows(page);
  markSilentTokens(page);
}

function counterText({ data, filter }) {
  const all = filter.edges.items.length;
  const { shown } = filter.edges;
  if (data.parts) {
    const [parts, sum] = shown ? [data.parts[shown - 1], data.effects[shown - 1]] : [0, 0];
    return [count(parts), ` of ${plural(data.total_edges, 'part')}, `, weight(sum, data.unit), ` ${data.unit} together`];
  }
  const numbered = shown === all ? filter.weighted : shown;
  const mass = shown ? data.mass[shown - 1] : 0;
  return [count(numbered), ` of ${plural(data.total_edges, 'edge')}, `, percent(mass / 100), ` ${data.mass_of}`];
}

function showCounter(page) {
  const [shown, of, mass, end] = counterText(page);
  fill(page, 'counter', element('b', {}, shown), of, element('br'), element('b', {}, mass), end);
  setAttribute(page, page.keep, 'aria-valuetext', shown + of + mass + end);
  later(page, 'counter', () => announce(page, shown + of + mass + end), QUIET_MS);
}

function fillEdges(page) {
  const { graph, data } = page;
  const rows = graph.edges.slice(0, TABLE_ROWS).map((edge) => {
    const all = edge.isStructural ? ['none', 'none', 'none'] : [weight(edge.weight, data.unit), measured(data, edge, 'share'), measured(data, edge, 'flow')];
    const numbers = data.parts ? all.slice(0, 1) : all;
    return [nodeName(graph, edge.source), nodeName(graph, edge.target), kindName(edge.kind), ...numbers];
  });
  const heads = ['source', 'target', 'kind', ...(data.parts ? [`effect in ${data.unit}`] : [`weight in ${data.unit}`, 'share', data.carried.short])];
  fillTable(page, `The strongest edges shown, at most ${TABLE_ROWS}`, heads, rows);
}

function showRows(page) {
  const rows = partOf(page, 'table')?.querySelectorAll('tbody tr') ?? [];
  rows.forEach((row, i) => { row.hidden = i >= page.filter.edges.shown; });
}
