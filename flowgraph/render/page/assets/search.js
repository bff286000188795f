/* Find a node by its label or its token. */

const MOST_MATCHES = 8;

function findNodes(graph, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const names = graph.labels.map((label, node) => nodeName(graph, node).toLowerCase().replace(/␣/g, ''));
  const found = names.map((name, node) => ({ node, at: name.indexOf(wanted.replace(/␣/g, '')) })).filter(({ at }) => at >= 0);
  return found.sort((a, b) => graph.flows[b.node] - graph.flows[a.node]).map(({ node }) => node);
}

function showMatches(page, text) {
  const found = findNodes(page.graph, text);
  const rows = found.slice(0, MOST_MATCHES).map((node) => element('li', {}, matchButton(page, node)));
  if (found.length > MOST_MATCHES) rows.push(element('li', {}, note(`and ${plural(found.length - MOST_MATCHES, 'more node')}`)));
  if (text.trim() && !found.length) rows.push(element('li', {}, note('no node of this name')));
  fill(page, 'matches', ...rows);
}

function matchButton(page, node) {
  const isHidden = page.cy.$id(`n${node}`).hasClass('off');
  const state = isHidden ? [element('span', { class: 'note' }, 'filtered')] : [];
  return element('button', { type: 'button', click: () => openNode(page, node) }, ...nodeTitle(page.graph, node), ...state);
}

function watchSearch(page) {
  const box = partOf(page, 'search');
  listen(page, box, 'input', () => showMatches(page, box.value));
  listen(page, box, 'keydown', (event) => {
    if (event.key !== 'Enter') return;
    const [first] = findNodes(page.graph, box.value);
    if (first !== undefined) openNode(page, first);
  });
}
