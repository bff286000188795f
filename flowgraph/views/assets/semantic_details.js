/* The panel on the right, the block on the left, the table for those who cannot see the canvas. */

const MOST_ROWS = 12;
const TABLE_ROWS = 400;

function select(page, item) {
  clearChoice(page);
  drop(page);
  page.chosen = item;
  item.addClass('chosen');
  const i = Number(item.id().slice(1));
  showDetails(item.isEdge() ? edgeDetails(page, i) : nodeDetails(page, i));
  // Where the panel lies over the picture, it must not cover what was chosen.
  const { x1, x2 } = item.renderedBoundingBox();
  document.getElementById('app').classList.toggle('flip', (x1 + x2) / 2 > page.cy.width() / 2);
}

function clearChoice(page) {
  if (page.chosen) page.chosen.removeClass('chosen');
  page.chosen = null;
}

function clearSelection(page) {
  clearChoice(page);
  document.getElementById('details').replaceChildren(hint());
  document.getElementById('app').classList.remove('open');
}

function showDetails(children) {
  const panel = document.getElementById('details');
  panel.replaceChildren(...children);
  panel.parentElement.scrollTop = 0;
  document.getElementById('app').classList.add('open');
}

function hint() {
  const key = (text) => element('kbd', {}, text);
  return element(
    'div', { class: 'hint' },
    line('Click a pill or an edge for its numbers.'),
    line('Hover to see what it is made of and what it goes into.'),
    line(key('←'), ' ', key('→'), ' follow the strongest edge, ', key('↑'), ' ', key('↓'), ' walk along a column.'),
    line(key('Page Up'), ' ', key('Page Down'), ' change the layer.'),
    line(key('+'), ' ', key('−'), ' zoom, ', key('0'), ' fits the layer, ', key('A'), ' shows all, ', key('Esc'), ' clears.'),
  );
}

function facts(rows) {
  return element('dl', { class: 'facts' }, ...rows.flatMap(([name, ...value]) => [element('dt', {}, ...[name].flat()), element('dd', {}, ...value)]));
}

function nodeDetails(page, node) {
  const { graph, data } = page;
  const reading = graph.readings[node];
  const kind = graph.kinds[node];
  return [
    element('h3', {}, ...nodeTitle(graph, node, 'span')),
    note(WHAT[kind] ?? ''),
    ...(reading ? [facts(readingFacts(data, kind, reading)), ...tokenTables(data, kind, reading)] : []),
    ...edgeTable(page, 'in', graph.incoming[node], 'source'),
    ...edgeTable(page, 'out', graph.outgoing[node], 'target'),
  ];
}

function tokenTables(data, kind, { top, bottom }) {
  const rows = (entries, classes) => {
    const most = Math.max(...entries.map(([, , logit]) => Math.abs(logit)), 1e-9);
    return entries.map(([token, probability, logit]) => barRow(tokenText(data.vocabulary[token]), Math.abs(logit) / most, classes, number(probability), `logit ${signed(logit.toFixed(2))}`));
  };
  return [...titled(`${readingVerb(kind)} (probability; bar: logit)`, rows(top, '')), ...titled('least (probability; bar: logit)', rows(bottom, 'down'))];
}

function titled(title, rows) {
  return rows.length ? [element('h4', {}, title), element('table', {}, element('tbody', {}, ...rows))] : [];
}

function barRow(name, width, classes, text, title = '') {
  const gauge = element('i', { class: `gauge ${classes}`, style: `width:${(100 * Math.min(1, width)).toFixed(1)}%` });
  return element('tr', title ? { title } : {}, element('td', {}, name), element('td', {}, gauge), element('td', { class: 'number' }, text));
}

/** Edges at one end of a node, one table for each unit, the strongest first. */
function edgeTable(page, way, edges, end) {
  const units = [...new Set(edges.map((edge) => edge.unit))];
  return units.flatMap((name) => {
    const ranked = edges.filter((edge) => edge.unit === name).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
    const most = Math.abs(ranked[0].weight) || 1;
    const rows = ranked.slice(0, MOST_ROWS).map((edge) => edgeRow(page, edge, end, most));
    const rest = ranked.length - rows.length;
    return [...titled(`${way}, ${name}`, rows), ...(rest > 0 ? [note(`and ${plural(rest, 'weaker edge')}`)] : [])];
  });
}

function edgeRow(page, edge, end, most) {
  const go = element('button', { type: 'button', class: 'link', click: () => openNode(page, edge[end]) }, ...nodeTitle(page.graph, edge[end], 'span'));
  return barRow(go, Math.abs(edge.weight) / most, edge.classes, weight(edge.weight, edge.unit), `${kindName(edge.kind)}: share ${part(edge.share)}`);
}

function edgeDetails(page, i) {
  const { graph } = page;
  const edge = graph.edges[i];
  const link = (node) => element('button', { type: 'button', class: 'link', click: () => openNode(page, node) }, ...nodeTitle(graph, node));
  const rows = edge.isStructural ? [['weight', 'no number']] : [['weight', weight(edge.weight, edge.unit), unit(edge.unit)], ['share within the unit', part(edge.share)]];
  return [
    element('h3', {}, `${kindName(edge.kind)} edge`),
    note(MEANING[edge.unit] ?? ''),
    facts([['from', link(edge.source)], ['to', link(edge.target)], ...rows]),
    ...(edge.weight < 0 ? [note('Negative: it points against its target.')] : []),
  ];
}

/** The controls, the block on the left and the hidden table speak of one panel. */
function setPanel(page, i) {
  if (page.panel === i) return;
  page.panel = i;
  const { panels } = page.data.plan;
  const panel = panels[i];
  document.getElementById('layer').value = String(panel.layer);
  document.getElementById('position').value = String(panel.position);
  const has = (step) => panels.some((one) => one.layer === panel.layer + step && one.position === panel.position);
  document.getElementById('earlier').disabled = !has(-1);
  document.getElementById('later').disabled = !has(1);
  document.getElementById('where').replaceChildren(`layer ${panel.layer}, position ${panel.position} `, tokenText(page.data.tokens[panel.position] ?? ''));
  document.getElementById('coverage').replaceChildren(...page.data.blocks[i].map((text) => line(...emphasised(text))));
  fillTable(page, panel);
}

/** Numbers of a statement in bold. */
function emphasised(text) {
  return text.split(/([+−]?\d[\d,.]*(?:–\d[\d,.]*)?(?: %)?)/).map((piece, i) => (i % 2 ? element('b', {}, piece) : piece));
}

function movePanel(page, layer, position) {
  const i = page.data.plan.panels.findIndex((panel) => panel.layer === layer && panel.position === position);
  if (i >= 0) showPanel(page, i);
}

function stepLayer(page, step) {
  const { layer, position } = page.data.plan.panels[page.panel];
  movePanel(page, layer + step, position);
}

/** Edges of one panel as a table. */
function fillTable(page, panel) {
  const { graph, data } = page;
  const edges = graph.edges.filter((edge) => data.edge_panels[edge.i] === page.panel);
  document.querySelector('#table caption').textContent = `Edges of layer ${panel.layer} at position ${panel.position}: ${Math.min(TABLE_ROWS, edges.length)} of ${edges.length}`;
  const rows = edges.slice(0, TABLE_ROWS).map((edge) => {
    const numbers = edge.isStructural ? ['none', '', 'none'] : [weight(edge.weight, edge.unit), edge.unit, part(edge.share)];
    return element('tr', {}, ...[nodeName(graph, edge.source), nodeName(graph, edge.target), kindName(edge.kind), ...numbers].map((cell) => element('td', {}, cell)));
  });
  document.querySelector('#table tbody').replaceChildren(...rows);
}

function announce(text) {
  document.getElementById('live').textContent = text;
}
