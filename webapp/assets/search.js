/* Find a node by its label, its token, or a word that it reads or writes. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const MOST = 10;
  const plain = (text) => text.toLowerCase().replace(/␣/g, '').trim();

  /** Names first, then words; among equals the stronger flow. */
  function findNodes(data, text) {
    const wanted = plain(text);
    if (!wanted) return [];
    const words = data.vocabulary.map((word) => plain(word) === wanted);
    const rank = (node) => {
      if (`${data.labels[node]} ${tokenOf(data, node)}`.toLowerCase().replace(/␣/g, '').includes(wanted)) return 0;
      const top = data.readings[node]?.[5] ?? [];
      const at = top.findIndex(([word]) => words[word]);
      return at < 0 ? Infinity : 1 + at;
    };
    const found = data.labels.map((_, node) => ({ node, rank: rank(node) })).filter((one) => one.rank < Infinity);
    return found.sort((a, b) => a.rank - b.rank || data.flows[b.node] - data.flows[a.node]);
  }

  function tokenOf(data, node) {
    const position = data.positions[node];
    return position === null ? '' : (data.tokens[position] ?? '');
  }

  function showMatches(text) {
    const list = document.getElementById('matches');
    if (!app.data || !text.trim()) return list.replaceChildren();
    const found = findNodes(app.data, text);
    const rows = found.slice(0, MOST).map(row);
    const isRead = app.data.readings.some(Boolean);
    if (!found.length) rows.push(note(isRead ? 'no node of this name, and none whose reading has this word' : 'no node of this name; no words of nodes are known here'));
    if (found.length > MOST) rows.push(note(`and ${found.length - MOST} more`));
    return list.replaceChildren(...rows);
  }

  function row({ node, rank }) {
    const button = document.createElement('button');
    button.type = 'button';
    const label = document.createElement('b');
    label.textContent = app.data.labels[node];
    button.append(label, ` ${tokenOf(app.data, node)}`);
    if (rank > 0) button.append(mark(`word ${rank}`));
    if (app.cy.$id(`n${node}`).hasClass('off')) button.append(mark('filtered'));
    button.addEventListener('click', () => open(node));
    const item = document.createElement('li');
    item.append(button);
    return item;
  }

  function mark(text) {
    const made = document.createElement('span');
    made.className = 'note';
    made.textContent = text;
    return made;
  }

  function note(text) {
    const item = document.createElement('li');
    item.append(mark(text));
    return item;
  }

  function open(node) {
    app.tell({ selected: app.meta.keys[node] });
    document.getElementById('search').value = '';
    showMatches('');
  }

  document.addEventListener('input', (event) => {
    if (event.target.id === 'search') showMatches(event.target.value);
  });
  document.addEventListener('keydown', (event) => {
    if (event.target.id !== 'search') return;
    if (event.key === 'Enter' && app.data) {
      const [first] = findNodes(app.data, event.target.value);
      if (first) open(first.node);
    }
    if (event.key === 'Escape') showMatches('');
  });
})();
