/* The panel: everything about what was clicked. */

/** Before anything is clicked: where attention carried the most, and how to go on. */
function opening(page) {
  const { graph, data } = page;
  if (data.parts) return [...strongestParts(page), hint()];
  const inLogits = data.unit === 'logits';
  const size = (edge) => Math.abs(strengthOf(data, edge));
  // The logit stands at the position that is explained.
  const at = (node) => graph.positions[node] ?? (graph.kinds[node] === 'logit' ? data.position : null);
  const isMove = ({ source, target, ...edge }) => at(source) !== null && at(target) !== null && at(source) !== at(target) && size(edge) > 0;
  const ranked = graph.edges.filter(isMove).sort((a, b) => size(b) - size(a)).slice(0, MOST_ROWS);
  const says = (edge) => (inLogits ? weight(edge.weight, data.unit) : measured(data, edge, 'flow'));
  const rows = ranked.map((edge) => barRow(moveLink(page, edge), size(edge) / size(ranked[0]), edge.classes, says(edge)));
  const by = inLogits ? '|logits|' : data.signed ? '|flow|' : 'flow';
  return [...titled(`strongest moves between tokens, by ${by}`, rows), hint()];
}

/** Of a picture of parts: which head reads what, and the MLPs, each from the largest effect. */
function strongestParts(page) {
  const { graph, data } = page;
  const size = (edge) => Math.abs(edge.weight);
  const list = (title, kinds, name) => {
    const ranked = graph.edges.filter((edge) => kinds.includes(edge.kind) && !edge.isStructural).sort((a, b) => size(b) - size(a));
    const most = ranked.length ? size(ranked[0]) || 1 : 1;
    const rows = ranked.slice(0, MOST_ROWS).map((edge) => barRow(name(edge), size(edge) / most, edge.classes, weight(edge.weight, data.unit)));
    const rest = ranked.length - rows.length;
    return [...titled(title, rows), ...(rest > 0 ? [note(`and ${plural(rest, 'weaker part')}`)] : [])];
  };
  const own = (edge) => edgeLink(page, edge, ...nodeTitle(graph, edge.source, 'span'));
  return [
    ...list(`attention terms, by |effect| in ${data.unit}`, ['attention'], (edge) => moveLink(page, edge)),
    ...list(`MLPs, by |effect| in ${data.unit}`, ['mlp', 'mixer'], own),
  ];
}

function moveLink(page, edge) {
  const { graph, data } = page;
  const [from, to] = [edge.source, edge.target].map((node) => graph.positions[node]);
  const tokens = to === null ? [tokenText(graph.tokens[from])] : [tokenText(graph.tokens[from]), ' → ', tokenText(graph.tokens[to])];
  const place = data.edge_places[edge.i];
  return edgeLink(page, edge, element('span', { class: 'note' }, `${place} `), ...tokens);
}

function edgeLink(page, edge, ...children) {
  return link(() => select(page, page.cy.$id(`e${edge.i}`)), ...children);
}

function hint() {
  return hintOf(
    ['Click a node or an edge for its numbers.'],
    ['Hover to follow its strongest route.'],
    [keyCap('Ctrl'), ' + click pins a node, ', keyCap('Esc'), ' clears.'],
    [keyCap('←'), ' ', keyCap('↑'), ' ', keyCap('↓'), ' ', keyCap('→'), ' walk.'],
    [keyCap('+'), ' ', keyCap('−'), ' ', keyCap('0'), ' zoom and fit.'],
  );
}

function nodeDetails(page, node) {
  const { graph, data } = page;
  const reading = graph.readings[node];
  const carried = nodeNumber(page, node);
  const rows = [...(graph.notes[node] ?? []), ...(carried.length ? [[...carried, unit(data.parts ? data.unit : 'share')]] : [])];
  if (reading) rows.push(...readingFacts(data, reading));
  return [
    element('h3', {}, ...nodeTitle(graph, node, 'span')),
    ...rolesNote(graph, node),
    facts(rows),
    ...(reading ? tokenTables(data, graph.kinds[node], reading) : []),
    ...(data.parts ? partTables(page, node) : flowTables(page, node)),
  ];
}

function partTables(page, node) {
  const { graph } = page;
  const row = (end) => (edge, most) => edgeRow(page, edge, end, 'weight', most);
  return [
    ...rankedTable('in, by |effect|', graph.incoming[node], 'size', row('source')),
    ...rankedTable('out, by |effect|', graph.outgoing[node], 'size', row('target')),
  ];
}

function flowTables(page, node) {
  const { graph, data } = page;
  return [
    ...rankedTable(`in, by ${data.signed ? '|share|' : 'share'}`, graph.incoming[node], 'share', (edge, most) => edgeRow(page, edge, 'source', 'share', most)),
    ...rankedTable(`out, by ${data.signed ? `|${data.carried.short}|` : data.carried.short}`, graph.outgoing[node], 'flow', (edge, most) => edgeRow(page, edge, 'target', 'flow', most)),
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

function edgeRow(page, edge, end, measure, most) {
  const { graph, data } = page;
  const go = edgeLink(page, edge, ...otherEnd(graph, edge, edge[end]));
  if (edge.isStructural) return element('tr', {}, element('td', {}, go), element('td', { colspan: '2', class: 'note' }, 'no number under this method'));
  const says = `${nodeName(graph, edge.source)} → ${nodeName(graph, edge.target)}: weight ${weight(edge.weight, data.unit)} ${data.unit}`;
  const text = measure === 'weight' ? weight(edge.weight, data.unit) : measured(data, edge, measure);
  return barRow(go, Math.abs(edge[measure]) / most, edge.classes, text, says);
}

/** How a row names the other end: by head or logit, by token where attention moved, otherwise by the kind of edge. */
function otherEnd(graph, edge, other) {
  const position = graph.positions[other];
  if (graph.notes[other]) return [graph.labels[other]];
  if (graph.kinds[other] === 'head' || graph.kinds[other] === 'logit' || position === null) return [graph.labels[other]];
  if (edge.kind !== 'attention') return [kindName(edge.kind)];
  return ['attention ', tokenText(graph.tokens[position] ?? ''), `@${graph.numbers[position] ?? position}`];
}

function edgeDetails(page, i) {
  const { graph, data } = page;
  const edge = graph.edges[i];
  const rows = edge.isStructural
    ? [['weight', 'no number under this method']]
    : data.parts ? [['effect', weight(edge.weight, data.unit), unit(data.unit)]]
      : [['weight', weight(edge.weight, data.unit), unit(data.unit)], ['share of the target’s input', measured(data, edge, 'share')], [data.carried.name, measured(data, edge, 'flow'), unit('share')]];
  return [
    element('h3', {}, `${kindName(edge.kind)} edge`),
    facts([['from', nodeLink(page, edge.source)], ['to', nodeLink(page, edge.target)], ...rows]),
    ...(edge.share < 0 ? [note(data.parts ? 'Works against the answer.' : 'Lowers the target.')] : []),
  ];
}
