/* The keyboard: follow edges, walk along columns, change the layer. */

function strongestEnd(edges, end, places, isRight, here) {
  const ahead = edges.filter((edge) => (places[edge[end]].x - places[here].x) * (isRight ? 1 : -1) >= 0);
  return ahead.sort((a, b) => b.width - a.width || a.i - b.i)[0]?.[end];
}

/** The next pill above or below in the same column. */
function stepColumn({ graph }, here, step) {
  const { x, y } = graph.places[here];
  const column = graph.places.map((place, node) => ({ ...place, node })).filter((place) => Math.abs(place.x - x) < 0.1 && (place.y - y) * step > 0);
  return column.sort((a, b) => (a.y - b.y) * step)[0]?.node;
}

function nextNode(page, key) {
  const { graph } = page;
  if (!graph.labels.length) return undefined;
  if (!page.chosen?.isNode()) return firstNode(page);
  const here = numberOf(page.chosen.id());
  if (key === 'ArrowRight') return strongestEnd(graph.outgoing[here], 'target', graph.places, true, here);
  if (key === 'ArrowLeft') return strongestEnd(graph.incoming[here], 'source', graph.places, false, here);
  return stepColumn(page, here, key === 'ArrowDown' ? 1 : -1);
}

/** Where a walk begins: what attention adds in the panel shown, or the first node. */
function firstNode({ data, graph, panel }) {
  const { layer, position } = data.plan.panels[panel];
  const start = graph.labels.indexOf(`L${layer}.attn@${position}`);
  return start >= 0 ? start : 0;
}
