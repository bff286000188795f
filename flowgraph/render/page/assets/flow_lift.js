/* Which elements matter to a node or an edge, and what the tip says of it. */

const TIP_TOKENS = 3;

function isShown(page, edge) {
  return edge.i < page.filter.edges.shown;
}

function strongest(page, edges) {
  // Among parts the stream carries no number; edges come from the strongest, and its lines with the parts they lead to.
  if (page.data.parts) return edges.find((edge) => isShown(page, edge)) ?? null;
  let best = null;
  for (const edge of edges) {
    if (isShown(page, edge) && (!best || edge.flow > best.flow)) best = edge;
  }
  return best;
}

/** The strongest route from a node up to the start. */
function addRouteUp(page, node, found) {
  for (let edge = strongest(page, page.graph.outgoing[node]); edge; edge = strongest(page, page.graph.outgoing[edge.target])) {
    addEdge(edge, found);
  }
}

/** The node's own column below it, and what attention brought into that column. */
function addColumn(page, node, found) {
  const { graph } = page;
  const column = columnOf(page, node);
  const isOwn = (edge) => columnOf(page, edge.source) === column;
  for (let at = node, edge; at !== undefined; at = edge?.source) {
    found.nodes.add(at);
    addArrivals(page, at, found);
    edge = strongest(page, graph.incoming[at].filter((one) => isOwn(one) && graph.kinds[one.source] !== 'head'));
    if (edge) addEdge(edge, found);
  }
}

/** Nodes without a position of their own belong to the column that is explained. */
function columnOf({ graph, data }, node) {
  return graph.positions[node] ?? data.position;
}

function addArrivals(page, node, found) {
  const { graph } = page;
  for (const edge of graph.incoming[node]) {
    if (!isShown(page, edge)) continue;
    const isHead = graph.kinds[edge.source] === 'head';
    if (!isHead && columnOf(page, edge.source) === columnOf(page, node)) continue;
    addEdge(edge, found);
    if (isHead) addNeighbours(page, graph.incoming[edge.source], found);
  }
}

function addNeighbours(page, edges, found) {
  for (const edge of edges) if (isShown(page, edge)) addEdge(edge, found);
}

function addEdge(edge, found) {
  found.edges.add(edge.i);
  found.nodes.add(edge.source);
  found.nodes.add(edge.target);
}

function liftedByNode(page, node) {
  const found = { nodes: new Set([node]), edges: new Set() };
  addRouteUp(page, node, found);
  addColumn(page, node, found);
  addNeighbours(page, page.graph.incoming[node], found);
  addNeighbours(page, page.graph.outgoing[node], found);
  return found;
}

function liftedByEdge(page, i) {
  const { graph } = page;
  const edge = graph.edges[i];
  const found = { nodes: new Set(), edges: new Set() };
  addEdge(edge, found);
  addRouteUp(page, edge.target, found);
  for (let down = strongest(page, graph.incoming[edge.source]); down; down = strongest(page, graph.incoming[down.source])) {
    addEdge(down, found);
  }
  return found;
}

/** Among what is shown; pinned and chosen elements stay as they are. */
function liftShown(page, item, i) {
  const found = item.isEdge() ? liftedByEdge(page, i) : liftedByNode(page, i);
  const { nodes, edges } = page.filter;
  page.cy.batch(() => {
    for (const one of [...nodes.items.slice(0, nodes.shown), ...edges.items.slice(0, edges.shown)]) {
      const isIn = (one.isEdge() ? found.edges : found.nodes).has(numberOf(one.id()));
      one.addClass(isIn ? 'lift' : one.hasClass('pin') || one.hasClass('chosen') ? '' : 'dim');
    }
  });
}

function tipPlace({ renderedPosition: { x, y } }) {
  return { x, y, left: x };
}

function nodeTip(page, node) {
  const { graph, data } = page;
  const lines = [line(...nodeTitle(graph, node)), ...rolesNote(graph, node)];
  const reading = graph.readings[node];
  if (reading) lines.push(...readingTip(data, graph, node, reading));
  else if (graph.kinds[node] !== 'logit') lines.push(note('not read'));
  const [name, says] = nodeNumber(page, node);
  if (name) lines.push(note(`${name} ${says}${data.parts ? ` ${data.unit}` : ''}`));
  return lines;
}

function readingTip(data, graph, node, [norm, entropy, rank, probability, , top]) {
  const lines = [];
  if (top.length) {
    const words = top.slice(0, TIP_TOKENS).map(([token, p]) => element('span', {}, tokenText(data.vocabulary[token], 'b'), ` ${number(p)}`));
    lines.push(line(`${readingVerb(graph.kinds[node])} `, ...between(words, ' · ')));
  }
  if (rank !== null) lines.push(note('rank of ', tokenText(data.target ?? 'the target'), ` ${count(rank)} · probability ${number(probability)}`));
  lines.push(note(`${entropy === null ? '' : `entropy ${number(entropy)} nats · `}norm ${number(norm)}`));
  return lines;
}

/** States are read; heads and MLPs write. */
function readingVerb(kind) {
  return kind.startsWith('resid') || kind.includes('embed') || kind === 'logit' ? 'reads' : 'writes';
}

/** What a node carries and what that is called; nothing for a state between parts. */
function nodeNumber({ data, graph }, node) {
  if (!data.parts) return [data.carried.node, part(graph.flows[node])];
  const effect = data.node_effects[node];
  return effect === null ? [] : ['effect', weight(effect, data.unit)];
}

function edgeTip(page, i) {
  const { graph, data } = page;
  const edge = graph.edges[i];
  const lines = [line(...nodeTitle(graph, edge.source)), line('→ ', ...nodeTitle(graph, edge.target)), line(kindName(edge.kind))];
  if (edge.isStructural) return [...lines, note('no number under this method')];
  if (data.parts) return [...lines, line(`effect ${weight(edge.weight, data.unit)} ${data.unit}`)];
  return [...lines, line(`weight ${weight(edge.weight, data.unit)} ${data.unit}`), note(`share ${measured(data, edge, 'share')} · ${data.carried.name} ${measured(data, edge, 'flow')}`)];
}
