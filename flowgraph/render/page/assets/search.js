/* Find a node by its label, its token, or a word that it reads or writes. */

const MOST_MATCHES = 10;

function plainText(text) {
  return text.toLowerCase().replace(/␣/g, '').trim();
}

/** Highest words of a reading, which is a list in a flow graph and an object in a semantic graph. */
function wordsOf(reading) {
  return reading?.top ?? reading?.[5] ?? [];
}

/** Nodes with their rank: 0 by name, else the place of the word in what they read. Among equals the stronger flow comes first. */
function findNodes({ graph, data }, text) {
  const wanted = plainText(text);
  if (!wanted) return [];
  const isWord = data.vocabulary.map((word) => plainText(word) === wanted);
  const rankOf = (node) => {
    if (plainText(nodeName(graph, node)).includes(wanted)) return 0;
    const at = wordsOf(graph.readings[node]).findIndex(([word]) => isWord[word]);
    return at < 0 ? Infinity : 1 + at;
  };
  const found = graph.labels.map((_, node) => ({ node, rank: rankOf(node) })).filter(({ rank }) => rank < Infinity);
  return found.sort((a, b) => a.rank - b.rank || graph.flows[b.node] - graph.flows[a.node]);
}

function showMatches(page, text) {
  const found = findNodes(page, text);
  const rows = found.slice(0, MOST_MATCHES).map((one) => element('li', {}, matchButton(page, one)));
  if (found.length > MOST_MATCHES) rows.push(element('li', {}, note(`and ${plural(found.length - MOST_MATCHES, 'more node')}`)));
  if (text.trim() && !found.length) rows.push(element('li', {}, note(noMatch(page))));
  fill(page, 'matches', ...rows);
}

function noMatch({ graph }) {
  const isRead = graph.readings.some(Boolean);
  return isRead ? 'no node of this name, and none whose reading has this word' : 'no node of this name; no words of nodes are known here';
}

function matchButton(page, { node, rank }) {
  const remark = (text) => element('span', { class: 'note' }, text);
  const word = rank > 0 ? [remark(`word ${rank}`)] : [];
  const state = page.cy.$id(`n${node}`).hasClass('off') ? [remark('filtered')] : [];
  return element('button', { type: 'button', click: () => openNode(page, node) }, ...nodeTitle(page.graph, node), ...word, ...state);
}

function watchSearch(page) {
  const box = partOf(page, 'search');
  listen(page, box, 'input', () => showMatches(page, box.value));
  listen(page, box, 'keydown', (event) => {
    if (event.key === 'Escape') showMatches(page, '');
    if (event.key !== 'Enter') return;
    const [first] = findNodes(page, box.value);
    if (first) openNode(page, first.node);
  });
}
