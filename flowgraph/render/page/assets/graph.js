/* The graph as plain arrays beside Cytoscape: routes are followed thousands of times. */

/** Data of a self-contained page, whose edges are columns, with edges as Cytoscape takes them. */
function unpacked(data) {
  if (Array.isArray(data.edges)) return data;
  const { names, classes, ends, columns } = data.edges;
  const edges = classes.map((name, i) => {
    const fields = Object.entries(columns).filter(([, column]) => column[i] !== null).map(([field, column]) => [field, column[i]]);
    return { data: { id: `e${i}`, source: `n${ends.source[i]}`, target: `n${ends.target[i]}`, ...Object.fromEntries(fields) }, classes: names[name] };
  });
  return { ...data, edges };
}

function createGraph(data) {
  const edges = data.edges.map((item, i) => ({
    i,
    source: numberOf(item.data.source),
    target: numberOf(item.data.target),
    kind: data.edge_kinds[i],
    unit: data.edge_units?.[i] ?? data.unit,
    classes: item.classes,
    width: item.data.w,
    isStructural: !('s' in item.data),
    weight: item.data.v,
    size: Math.abs(item.data.v ?? 0),
    share: item.data.s ?? 0,
    flow: item.data.f ?? 0,
  }));
  const incoming = data.nodes.map(() => []);
  const outgoing = data.nodes.map(() => []);
  for (const edge of edges) {
    incoming[edge.target].push(edge);
    outgoing[edge.source].push(edge);
  }
  const { labels, kinds, positions, flows, readings, roles, tokens, numbers = [], notes = [] } = data;
  return { edges, incoming, outgoing, labels, kinds, positions, flows, readings, roles, tokens, numbers, notes, places: data.nodes.map((node) => node.data) };
}

/** Number of a node or edge from its id: n17, e5. */
function numberOf(id) {
  return Number(id.slice(1));
}

function kindName(kind) {
  return { mlp_in: 'MLP input', mlp: 'MLP output', head: 'head output', unembed: 'unembedding', attn: 'attention output' }[kind] ?? kind;
}

/** Label of a node and the token it belongs to; of a key or value, its source. */
function nodeTitle(graph, node, tag = 'b') {
  const position = graph.positions[node];
  const token = position === null || graph.kinds[node] === 'logit' ? [] : [' ', tokenText(graph.tokens[position] ?? '')];
  return [element(tag, {}, graph.labels[node]), ...token];
}

/** Roles of a head with the scores behind them; nothing where none were asked for. */
function rolesNote(graph, node) {
  const roles = graph.roles[node] ?? null;
  return roles === null ? [] : [note(`roles: ${roles}`)];
}

function nodeName(graph, node) {
  const position = graph.positions[node];
  return graph.labels[node] + (position === null || graph.kinds[node] === 'logit' ? '' : ` ${graph.tokens[position] ?? ''}`);
}
