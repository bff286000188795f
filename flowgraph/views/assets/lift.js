/* Hover: lift what matters to a node or edge, dim the rest, and say the numbers. */

const LIFT_MS = 60;
const DROP_MS = 90;
const TIP_TOKENS = 3;

/** Plain arrays beside Cytoscape: routes are followed thousands of times. */
function createGraph(data) {
  const edges = data.edges.map((item, i) => ({
    i,
    source: Number(item.data.source.slice(1)),
    target: Number(item.data.target.slice(1)),
    kind: data.edge_kinds[i],
    classes: item.classes,
    level: item.data.c,
    isStructural: !('s' in item.data),
    weight: item.data.v,
    share: item.data.s ?? 0,
    flow: item.data.f ?? 0,
  }));
  const incoming = data.nodes.map(() => []);
  const outgoing = data.nodes.map(() => []);
  for (const edge of edges) {
    incoming[edge.target].push(edge);
    outgoing[edge.source].push(edge);
  }
  const { labels, kinds, positions, flows, readings, tokens } = data;
  return { edges, incoming, outgoing, labels, kinds, positions, flows, readings, tokens, places: data.nodes.map((node) => node.data) };
}

function isShown(page, edge) {
  return edge.i < page.filter.edges.shown;
}

function strongest(page, edges) {
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

function lift(page, item) {
  drop(page);
  const i = Number(item.id().slice(1));
  const found = item.isEdge() ? liftedByEdge(page, i) : liftedByNode(page, i);
  const { nodes, edges } = page.filter;
  page.cy.batch(() => {
    for (const one of [...nodes.items.slice(0, nodes.shown), ...edges.items.slice(0, edges.shown)]) {
      const isIn = (one.isEdge() ? found.edges : found.nodes).has(Number(one.id().slice(1)));
      one.addClass(isIn ? 'lift' : one.hasClass('pin') || one.hasClass('chosen') ? '' : 'dim');
    }
  });
}

function drop(page) {
  page.cy.batch(() => page.cy.elements('.dim, .lift').removeClass('dim lift'));
  document.getElementById('tip').style.display = 'none';
}

function watchPointer(page) {
  let timer = null;
  page.cy.on('mouseover', 'node, edge', (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      lift(page, event.target);
      showTip(page, event.target, event.renderedPosition);
    }, LIFT_MS);
  });
  page.cy.on('mouseout', 'node, edge', () => {
    clearTimeout(timer);
    timer = setTimeout(() => drop(page), DROP_MS);
  });
  page.cy.on('viewport', () => clearTimeout(timer));
  // The canvas does not hear a pointer that leaves it from on top of a node.
  page.stage.addEventListener('pointerleave', () => {
    clearTimeout(timer);
    timer = setTimeout(() => drop(page), DROP_MS);
  });
}

function showTip(page, item, at) {
  const tip = document.getElementById('tip');
  const i = Number(item.id().slice(1));
  tip.replaceChildren(...(item.isEdge() ? edgeTip(page, i) : nodeTip(page, i)));
  tip.style.display = 'block';
  const { clientWidth: width, clientHeight: height } = page.stage;
  const isLeft = at.x + 16 + tip.offsetWidth > width;
  tip.style.left = `${Math.max(4, isLeft ? at.x - 16 - tip.offsetWidth : at.x + 16)}px`;
  tip.style.top = `${clamp(4, at.y - tip.offsetHeight - 10, Math.max(4, height - tip.offsetHeight - 4))}px`;
}

function kindName(kind) {
  return { mlp_in: 'MLP input', mlp: 'MLP output', head: 'head output', unembed: 'unembedding' }[kind] ?? kind;
}

function line(...children) {
  return element('p', {}, ...children);
}

function note(...children) {
  return element('p', { class: 'note' }, ...children);
}

function between(items, separator) {
  return items.flatMap((item, i) => (i ? [separator, item] : [item]));
}

/** Label of a node and the token it belongs to. */
function nodeTitle(graph, node, tag = 'b') {
  const position = graph.positions[node];
  const token = position === null || graph.kinds[node] === 'logit' ? [] : [' ', tokenText(graph.tokens[position] ?? '')];
  return [element(tag, {}, graph.labels[node]), ...token];
}

function nodeName(graph, node) {
  const position = graph.positions[node];
  return graph.labels[node] + (position === null || graph.kinds[node] === 'logit' ? '' : ` ${graph.tokens[position] ?? ''}`);
}

function nodeTip(page, node) {
  const { graph, data } = page;
  const lines = [line(...nodeTitle(graph, node))];
  const reading = graph.readings[node];
  if (reading) lines.push(...readingTip(data, graph, node, reading));
  else if (graph.kinds[node] !== 'logit') lines.push(note('not read'));
  lines.push(note(`flow to the start ${part(graph.flows[node])}`));
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

function edgeTip(page, i) {
  const { graph, data } = page;
  const edge = graph.edges[i];
  const lines = [line(...nodeTitle(graph, edge.source)), line('→ ', ...nodeTitle(graph, edge.target)), line(kindName(edge.kind))];
  if (edge.isStructural) return [...lines, note('no number under this method')];
  return [...lines, line(`weight ${weight(edge.weight, data.unit)} ${data.unit}`), note(`share ${part(edge.share)} · flow to the start ${part(edge.flow)}`)];
}
