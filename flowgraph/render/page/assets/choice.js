/* What is chosen and pinned. Functions that say what a person did also tell it; choose() and setPins() do not. */

/** Show an element, or nothing, as chosen, with its numbers in the panel. */
function choose(page, item) {
  page.chosen?.removeClass('chosen');
  page.chosen = item;
  page.kind.leave?.(page);
  if (!item) fill(page, 'details', ...page.kind.opening(page));
  else showDetails(page, item);
  mark(page, page.root, 'open', Boolean(item));
}

function showDetails(page, item) {
  const { kind, root, stage } = page;
  item.addClass('chosen');
  const i = numberOf(item.id());
  const hadFocus = root.contains(document.activeElement);
  fill(page, 'details', ...(item.isEdge() ? kind.edgeDetails(page, i) : kind.nodeDetails(page, i)));
  // A link in the panel that was just replaced had the focus: the keyboard goes on from the picture.
  if (hadFocus && !root.contains(document.activeElement)) stage.focus({ preventScroll: true });
  const panel = partOf(page, 'details');
  if (panel) panel.parentElement.scrollTop = 0;
  // Where the panel lies over the picture, it must not cover what was chosen.
  const { x1, x2 } = item.renderedBoundingBox();
  mark(page, root, 'flip', (x1 + x2) / 2 > page.cy.width() / 2);
}

function select(page, item) {
  choose(page, item);
  tell(page, 'select', item.id());
}

function clearSelection(page) {
  const had = page.chosen;
  choose(page, null);
  if (had) tell(page, 'select', null);
}

/** Select a node, bring it into view, and show it if the slider has filtered it away. */
function openNode(page, node) {
  const item = page.cy.$id(`n${node}`);
  reveal(page, item);
  select(page, item);
  fill(page, 'matches');
  const search = partOf(page, 'search');
  if (search) search.value = '';
}

function reveal(page, item) {
  if (item.data('c') > page.level) moveLevel(page, item.data('c'));
  const at = item.isEdge() ? item.renderedMidpoint() : item.renderedPosition();
  if (at.x < 0 || at.y < 0 || at.x > page.cy.width() || at.y > page.cy.height()) page.cy.center(item);
}

function moveLevel(page, level) {
  page.kind.setLevel(page, level);
  tell(page, 'level', level);
}

function setPins(page, ids) {
  const wanted = new Set(ids);
  page.cy.batch(() => page.cy.nodes().forEach((node) => { node.toggleClass('pin', wanted.has(node.id())); }));
}

function togglePin(page, node) {
  node.toggleClass('pin');
  tellPins(page);
}

function tellPins(page) {
  tell(page, 'pin', page.cy.nodes('.pin').map((node) => node.id()));
}

/** Escape: first what is chosen, then what is pinned. */
function clear(page) {
  drop(page);
  if (page.chosen) return clearSelection(page);
  const pinned = page.cy.nodes('.pin').removeClass('pin');
  if (pinned.length) tellPins(page);
  return undefined;
}

function watchTaps(page) {
  const { cy } = page;
  const taps = [];
  const withKey = ({ originalEvent }) => Boolean(originalEvent?.ctrlKey || originalEvent?.metaKey);
  hear(page, 'tap', (event) => {
    taps.splice(0, taps.length, taps.at(-1), event.target);
    page.stage.focus({ preventScroll: true });
    if (event.target === cy) clearSelection(page);
    else if (withKey(event) && event.target.isNode()) togglePin(page, event.target);
    else select(page, event.target);
  });
  // Cytoscape also calls two quick taps on different elements a double tap.
  hear(page, 'dbltap', 'node, edge', (event) => {
    if (taps[0] === taps[1] && !withKey(event)) tell(page, 'open', event.target.id());
  });
}
