/* The panel beside the picture, the block that says what is covered, and the hidden table of one panel. */

const TABLE_ROWS = 400;

function opening() {
  return [hintOf(
    ['Click a pill or an edge for its numbers.'],
    ['Hover to see what it is made of and what it goes into.'],
    [keyCap('Ctrl'), ' + click pins a pill.'],
    [keyCap('←'), ' ', keyCap('→'), ' follow the strongest edge, ', keyCap('↑'), ' ', keyCap('↓'), ' walk along a column.'],
    [keyCap('Page Up'), ' ', keyCap('Page Down'), ' change the layer.'],
    [keyCap('+'), ' ', keyCap('−'), ' zoom, ', keyCap('0'), ' fits the layer, ', keyCap('A'), ' shows all, ', keyCap('Esc'), ' clears.'],
  )];
}

function nodeDetails(page, node) {
  const { graph, data } = page;
  const reading = graph.readings[node];
  const kind = graph.kinds[node];
  return [
    element('h3', {}, ...nodeTitle(graph, node, 'span')),
    note(WHAT[kind] ?? ''),
    ...rolesNote(graph, node),
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

/** Edges at one end of a node, one table for each unit. */
function edgeTable(page, way, edges, end) {
  const units = [...new Set(edges.map((edge) => edge.unit))];
  return units.flatMap((name) => {
    const found = edges.filter((edge) => edge.unit === name);
    return rankedTable(`${way}, ${name}`, found, 'weight', (edge, most) => edgeRow(page, edge, end, most));
  });
}

function edgeRow(page, edge, end, most) {
  const go = link(() => openNode(page, edge[end]), ...nodeTitle(page.graph, edge[end], 'span'));
  return barRow(go, Math.abs(edge.weight) / most, edge.classes, weight(edge.weight, edge.unit), `${kindName(edge.kind)}: share ${part(edge.share)}`);
}

function edgeDetails(page, i) {
  const { graph } = page;
  const edge = graph.edges[i];
  const rows = edge.isStructural ? [['weight', 'no number']] : [['weight', weight(edge.weight, edge.unit), unit(edge.unit)], ['share within the unit', part(edge.share)]];
  return [
    element('h3', {}, `${kindName(edge.kind)} edge`),
    note(MEANING[edge.unit] ?? ''),
    facts([['from', nodeLink(page, edge.source)], ['to', nodeLink(page, edge.target)], ...rows]),
    ...(edge.weight < 0 ? [note('Negative: it points against its target.')] : []),
  ];
}

function positionText({ tokens }, { position }) {
  return `position ${position}  ${tokens[position] ?? ''}`;
}

/** The choices of a select, one for each value that a panel has. */
function fillChoices(page, name, text) {
  const values = [...new Set(page.data.plan.panels.map((panel) => panel[name]))].sort((a, b) => a - b);
  fill(page, name, ...values.map((value) => element('option', { value }, text({ [name]: value }))));
}

/** The controls, the block on the left and the hidden table speak of one panel. */
function setPanel(page, i) {
  if (page.panel === i) return;
  page.panel = i;
  const { panels } = page.data.plan;
  const panel = panels[i];
  for (const name of ['layer', 'position']) if (partOf(page, name)) partOf(page, name).value = String(panel[name]);
  const has = (step) => panels.some((one) => one.layer === panel.layer + step && one.position === panel.position);
  setDisabled(page, 'earlier', !has(-1));
  setDisabled(page, 'later', !has(1));
  fill(page, 'where', `layer ${panel.layer}, position ${panel.position} `, tokenText(page.data.tokens[panel.position] ?? ''));
  fill(page, 'coverage', ...page.data.blocks[i].map((text) => line(...emphasised(text))));
  fillPanel(page, panel);
}

function setDisabled(page, name, isDisabled) {
  const button = partOf(page, name);
  if (!button) return;
  restoreLater(page, button, 'disabled');
  button.disabled = isDisabled;
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
  if (page.panel === null) return;
  const { layer, position } = page.data.plan.panels[page.panel];
  movePanel(page, layer + step, position);
}

/** Edges of one panel as a table. */
function fillPanel(page, panel) {
  const { graph, data } = page;
  const edges = graph.edges.filter((edge) => data.edge_panels[edge.i] === page.panel);
  const rows = edges.slice(0, TABLE_ROWS).map((edge) => {
    const numbers = edge.isStructural ? ['none', '', 'none'] : [weight(edge.weight, edge.unit), edge.unit, part(edge.share)];
    return [nodeName(graph, edge.source), nodeName(graph, edge.target), kindName(edge.kind), ...numbers];
  });
  const caption = `Edges of layer ${panel.layer} at position ${panel.position}: ${rows.length} of ${edges.length}`;
  fillTable(page, caption, ['source', 'target', 'kind', 'weight', 'unit', 'share'], rows);
}
