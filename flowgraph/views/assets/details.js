/* The panel on the right: everything about what was clicked. */

const MOST_ROWS = 12;

function select(page, item) {
  clearSelection(page);
  page.chosen = item;
  item.addClass('chosen');
  const i = Number(item.id().slice(1));
  const panel = document.getElementById('details');
  panel.replaceChildren(...(item.isEdge() ? edgeDetails(page, i) : nodeDetails(page, i)));
  panel.parentElement.scrollTop = 0;
}

function clearSelection(page) {
  if (page.chosen) page.chosen.removeClass('chosen');
  page.chosen = null;
  document.getElementById('details').replaceChildren(...opening(page));
}

/** Before anything is clicked: where attention carried the most, and how to go on. */
function opening(page) {
  const { graph } = page;
  const moves = graph.edges.filter((edge) => edge.kind === 'attention' && graph.positions[edge.source] !== graph.positions[edge.target] && edge.flow > 0);
  const ranked = moves.sort((a, b) => b.flow - a.flow).slice(0, MOST_ROWS);
  const rows = ranked.map((edge) => barRow(moveLink(page, edge), edge.flow / ranked[0].flow, edge.classes, part(edge.flow)));
  return [...titled('strongest moves between tokens, by flow', rows), hint()];
}

function moveLink(page, edge) {
  const { graph, data } = page;
  const [from, to] = [edge.source, edge.target].map((node) => graph.positions[node]);
  const tokens = to === null ? [tokenText(graph.tokens[from])] : [tokenText(graph.tokens[from]), ' → ', tokenText(graph.tokens[to])];
  const place = data.edge_places[edge.i];
  return element('button', { type: 'button', class: 'link', click: () => select(page, page.cy.$id(`e${edge.i}`)) }, element('span', { class: 'note' }, `${place} `), ...tokens);
}

function hint() {
  const key = (text) => element('kbd', {}, text);
  return element(
    'div', { class: 'hint' },
    line('Click a node or an edge for its numbers.'),
    line('Hover to follow its strongest route.'),
    line(key('Ctrl'), ' + click pins a node, ', key('Esc'), ' clears.'),
    line(key('←'), ' ', key('↑'), ' ', key('↓'), ' ', key('→'), ' walk.'),
    line(key('+'), ' ', key('−'), ' ', key('0'), ' zoom and fit.'),
  );
}

function facts(rows) {
  return element('dl', { class: 'facts' }, ...rows.flatMap(([name, ...value]) => [element('dt', {}, ...[name].flat()), element('dd', {}, ...value)]));
}

function unit(text) {
  return element('span', { class: 'note' }, ` ${text}`);
}

function nodeDetails(page, node) {
  const { graph, data } = page;
  const reading = graph.readings[node];
  const rows = [['flow to the start', part(graph.flows[node]), unit('share')]];
  if (reading) rows.push(...readingFacts(data, reading));
  return [
    element('h3', {}, ...nodeTitle(graph, node, 'span')),
    facts(rows),
    ...(reading ? tokenTables(data, graph.kinds[node], reading) : []),
    ...edgeTable(page, 'in, by share', graph.incoming[node], 'source', 'share'),
    ...edgeTable(page, 'out, by flow', graph.outgoing[node], 'target', 'flow'),
  ];
}

function readingFacts(data, [norm, entropy, rank, probability, logit]) {
  const target = () => tokenText(data.target ?? 'target');
  const rows = [];
  if (rank !== null) rows.push([['rank of ', target()], count(rank)]);
  if (probability !== null) rows.push([['probability of ', target()], number(probability)]);
  if (logit !== null) rows.push([['logit of ', target()], signed(logit.toFixed(2))]);
  if (entropy !== null) rows.push(['entropy', number(entropy), unit('nats')]);
  rows.push(['norm', number(norm)]);
  return rows;
}

function tokenTables(data, kind, [, , , , , top, bottom]) {
  const verb = readingVerb(kind);
  const most = top.length ? top[0][1] : 1;
  const least = Math.max(...bottom.map(([, logit]) => Math.abs(logit)), 1e-9);
  const highest = top.map(([token, probability, logit]) => barRow(tokenText(data.vocabulary[token]), probability / most, '', number(probability), `logit ${signed(logit.toFixed(2))}`));
  const lowest = bottom.map(([token, logit]) => barRow(tokenText(data.vocabulary[token]), Math.abs(logit) / least, 'lowers', signed(logit.toFixed(2)), 'logit'));
  return [
    ...titled(`${verb} (probability)`, highest),
    ...titled('lowest (logit)', lowest),
  ];
}

function titled(title, rows) {
  return rows.length ? [element('h4', {}, title), element('table', {}, element('tbody', {}, ...rows))] : [];
}

function barRow(name, width, classes, text, title = '') {
  const gauge = element('i', { class: `gauge ${classes}`, style: `width:${(100 * Math.min(1, width)).toFixed(1)}%` });
  return element('tr', title ? { title } : {}, element('td', {}, name), element('td', {}, gauge), element('td', { class: 'number' }, text));
}

/** Edges at one end of a node, the strongest first, those that the slider hides included. */
function edgeTable(page, title, edges, end, measure) {
  const ranked = [...edges].sort((a, b) => Math.abs(b[measure]) - Math.abs(a[measure]));
  const most = ranked.length ? Math.abs(ranked[0][measure]) || 1 : 1;
  const rows = ranked.slice(0, MOST_ROWS).map((edge) => edgeRow(page, edge, end, edge[measure], most));
  const rest = ranked.length - rows.length;
  return [...titled(title, rows), ...(rest > 0 ? [note(`and ${plural(rest, 'weaker edge')}`)] : [])];
}

function edgeRow(page, edge, end, value, most) {
  const { graph, data } = page;
  const go = element('button', { type: 'button', class: 'link', click: () => select(page, page.cy.$id(`e${edge.i}`)) }, ...otherEnd(graph, edge, edge[end]));
  if (edge.isStructural) return element('tr', {}, element('td', {}, go), element('td', { colspan: '2', class: 'note' }, 'no number under this method'));
  const says = `${nodeName(graph, edge.source)} → ${nodeName(graph, edge.target)}: weight ${weight(edge.weight, data.unit)} ${data.unit}`;
  return barRow(go, Math.abs(value) / most, edge.classes, part(value), says);
}

/** How a row names the other end: by head or logit, by token where attention moved, otherwise by the kind of edge. */
function otherEnd(graph, edge, other) {
  const position = graph.positions[other];
  if (graph.kinds[other] === 'head' || graph.kinds[other] === 'logit' || position === null) return [graph.labels[other]];
  if (edge.kind !== 'attention') return [kindName(edge.kind)];
  return ['attention ', tokenText(graph.tokens[position] ?? ''), `@${position}`];
}

function edgeDetails(page, i) {
  const { graph, data } = page;
  const edge = graph.edges[i];
  const rows = edge.isStructural
    ? [['weight', 'no number under this method']]
    : [['weight', weight(edge.weight, data.unit), unit(data.unit)], ['share of the target’s input', part(edge.share)], ['flow to the start', part(edge.flow), unit('share')]];
  return [
    element('h3', {}, `${kindName(edge.kind)} edge`),
    facts([['from', nodeLink(page, edge.source)], ['to', nodeLink(page, edge.target)], ...rows]),
    ...(edge.share < 0 ? [note('Lowers the target.')] : []),
  ];
}

function nodeLink(page, node) {
  return element('button', { type: 'button', class: 'link', click: () => select(page, page.cy.$id(`n${node}`)) }, ...nodeTitle(page.graph, node));
}
