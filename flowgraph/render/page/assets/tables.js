/* Rows and tables of the panel, and the hidden table for those who cannot see the canvas. */

const MOST_ROWS = 12;

function facts(rows) {
  return element('dl', { class: 'facts' }, ...rows.flatMap(([name, ...value]) => [element('dt', {}, ...[name].flat()), element('dd', {}, ...value)]));
}

function unit(text) {
  return element('span', { class: 'note' }, ` ${text}`);
}

function titled(title, rows) {
  return rows.length ? [element('h4', {}, title), element('table', {}, element('tbody', {}, ...rows))] : [];
}

function barRow(name, width, classes, text, title = '') {
  const gauge = element('i', { class: `gauge ${classes}` });
  gauge.style.width = `${(100 * Math.min(1, width)).toFixed(1)}%`;
  return element('tr', title ? { title } : {}, element('td', {}, name), element('td', {}, gauge), element('td', { class: 'number' }, text));
}

/** The strongest edges at one end of a node, those that the slider hides included. */
function rankedTable(title, edges, measure, row) {
  const ranked = [...edges].sort((a, b) => Math.abs(b[measure]) - Math.abs(a[measure]));
  const most = ranked.length ? Math.abs(ranked[0][measure]) || 1 : 1;
  const rows = ranked.slice(0, MOST_ROWS).map((edge) => row(edge, most));
  const rest = ranked.length - rows.length;
  return [...titled(title, rows), ...(rest > 0 ? [note(`and ${plural(rest, 'weaker edge')}`)] : [])];
}

function link(act, ...children) {
  return element('button', { type: 'button', class: 'link', click: act }, ...children);
}

function nodeLink(page, node) {
  return link(() => openNode(page, node), ...nodeTitle(page.graph, node));
}

function hintOf(...lines) {
  return element('div', { class: 'hint' }, ...lines.map((children) => line(...children)));
}

function keyCap(text) {
  return element('kbd', {}, text);
}

/** Edges as rows of a table that only screen readers see. */
function fillTable(page, caption, heads, rows) {
  const cells = (row) => element('tr', {}, ...row.map((cell) => element('td', {}, cell)));
  fill(page, 'table', element(
    'table', {},
    element('caption', {}, caption),
    element('thead', {}, element('tr', {}, ...heads.map((head) => element('th', { scope: 'col' }, head)))),
    element('tbody', {}, ...rows.map(cells)),
  ));
}
