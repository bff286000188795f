/* Mount a page of one kind on a root, and hand out what can be done with it from outside. */

function mountPage(kind, root, given, options = {}) {
  const data = unpacked(given);
  const page = createPage(root, data, options, kind);
  setTheme(page, root.dataset.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'));
  linkParts(page);
  fadeMarks(page);
  fill(page, 'empty', data.empty);
  page.graph = createGraph(data);
  kind.start(page);
  setPins(page, data.pinned ?? []);
  choose(page, null);
  watchTheme(page);
  watchTaps(page);
  watchPointer(page);
  watchSearch(page);
  watchKeys(page);
  watchPrinting(page);
  kind.arrange(page);
  // Whoever shows the picture may take it away before it says so here.
  page.observer = new ResizeObserver(() => { if (!page.printed && !page.cy.destroyed()) kind.arrange(page); });
  page.observer.observe(page.stage);
  return viewOf(page);
}

flowgraph.element = element;

/** The picture, and what others may do; none of it calls back what they have just said. */
function viewOf(page) {
  const { kind } = page;
  return {
    cy: page.cy,
    setLevel: (level) => kind.setLevel(page, level),
    setWidth: (mode) => kind.setWidth(page, mode),
    setOrientation: (wanted) => kind.setOrientation(page, wanted),
    setTheme: (theme) => setTheme(page, theme),
    select: (id) => selectFromOutside(page, id),
    pin: (ids) => setPins(page, ids),
    fit: () => kind.fit(page),
    destroy: () => destroyPage(page),
  };
}

/** An id that the picture does not have clears the selection. */
function selectFromOutside(page, id) {
  const item = id === null ? null : page.cy.$id(id);
  if (!item?.nonempty()) return choose(page, null);
  reveal(page, item);
  return choose(page, item);
}
