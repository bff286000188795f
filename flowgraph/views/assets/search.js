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
  const { graph } = page;
  const found = findNodes(graph, text);
  const rows = found.slice(0, MOST_MATCHES).map((node) => element('li', {}, matchButton(page, node)));
  if (found.length > MOST_MATCHES) rows.push(element('li', {}, note(`and ${plural(found.length - MOST_MATCHES, 'more node')}`)));
  if (text.trim() && !found.length) rows.push(element('li', {}, note('no node of this name')));
  document.getElementById('matches').replaceChildren(...rows);
}

function matchButton(page, node) {
  const isHidden = page.cy.$id(`n${node}`).hasClass('off');
  const state = isHidden ? [element('span', { class: 'note' }, 'filtered')] : [];
  return element('button', { type: 'button', click: () => openNode(page, node) }, ...nodeTitle(page.graph, node), ...state);
}

/** Select a node, bring it into view, and let the slider show it if it was filtered away. */
function openNode(page, node) {
  const item = page.cy.$id(`n${node}`);
  if (item.data('c') > page.level) moveSlider(page, item.data('c'));
  select(page, item);
  const { x, y } = item.renderedPosition();
  if (x < 0 || y < 0 || x > page.cy.width() || y > page.cy.height()) page.cy.center(item);
  document.getElementById('search').value = '';
  document.getElementById('matches').replaceChildren();
}

function watchSearch(page) {
  const box = document.getElementById('search');
  box.addEventListener('input', () => showMatches(page, box.value));
  box.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    const [first] = findNodes(page.graph, box.value);
    if (first !== undefined) openNode(page, first);
  });
}
