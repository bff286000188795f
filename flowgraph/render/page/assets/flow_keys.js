/* Walking with the arrow keys over the nodes that are shown. */

const STEPS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

/** A step on the screen as a step along tokens or along layers. */
function asWalk([right, down], orientation) {
  return orientation === 'columns' ? { token: right, layer: -down } : { token: down, layer: right };
}

function shownNodes({ filter, graph }) {
  return filter.nodes.items.slice(0, filter.nodes.shown).map((item) => numberOf(item.id())).map((node) => ({ node, ...graph.places[node] }));
}

/** Along the layers: the next shown node of the same column, nodes beside the line in between. */
function stepLayer(nodes, here, step) {
  const column = nodes.filter((one) => one.x === here.x).sort((a, b) => a.y - b.y || b.k - a.k || a.node - b.node);
  return column[column.findIndex((one) => one.node === here.node) + step];
}

/** Along the tokens: the next column that shows anything, at the nearest height. */
function stepToken(nodes, here, step) {
  const ahead = nodes.filter((one) => (one.x - here.x) * step > 0);
  const nearest = Math.min(...ahead.map((one) => (one.x - here.x) * step));
  const column = ahead.filter((one) => (one.x - here.x) * step === nearest);
  return column.sort((a, b) => Math.abs(a.y - here.y) - Math.abs(b.y - here.y) || a.k - b.k)[0];
}

/** The node that an arrow key leads to; the first leads to the start. */
function nextNode(page, key) {
  const nodes = shownNodes(page);
  const here = nodes.find(({ node }) => page.chosen?.id() === `n${node}`);
  const { token, layer } = asWalk(STEPS[key], page.geometry.orientation);
  if (!here) return nodes.find(({ node }) => node === page.data.start)?.node;
  return (layer ? stepLayer(nodes, here, layer) : stepToken(nodes, here, token))?.node;
}
