/* One mounted page: its parts, and everything it puts into the document, so that destroy() can take all of it back. */

let mounted = 0;

function createPage(root, data, options, kind) {
  const page = {
    root, data, options, kind, number: ++mounted, chosen: null, level: null,
    undos: [], touched: new Map(), timers: new Map(), frame: null, silence: new AbortController(),
  };
  page.stage = partOf(page, 'stage');
  if (!page.stage) throw new Error('flowgraph: the root has no element with data-part="stage"');
  if (!options.cy && !partOf(page, 'picture')) throw new Error('flowgraph: the root has no element with data-part="picture", and options.cy is missing');
  return page;
}

function partOf({ root }, name) {
  return root.querySelector(`[data-part="${name}"]`);
}

/** Call undo when the page is destroyed; once for each name of an element, before its first change. */
function remember(page, target, name, undo) {
  const names = page.touched.get(target) ?? new Set();
  if (names.has(name)) return;
  page.touched.set(target, names.add(name));
  page.undos.push(undo);
}

function fill(page, name, ...children) {
  const found = partOf(page, name);
  if (!found) return;
  const before = [...found.childNodes];
  remember(page, found, 'children', () => found.replaceChildren(...before));
  found.replaceChildren(...children);
}

function restoreLater(page, target, name) {
  const before = target.getAttribute(name);
  remember(page, target, name, () => (before === null ? target.removeAttribute(name) : target.setAttribute(name, before)));
}

function setAttribute(page, target, name, value) {
  if (!target) return;
  restoreLater(page, target, name);
  target.setAttribute(name, value);
}

function mark(page, target, name, isOn) {
  restoreLater(page, target, 'class');
  target.classList.toggle(name, isOn);
}

function listen(page, target, kind, act) {
  target?.addEventListener(kind, act, { signal: page.silence.signal });
}

/** What has to be undone on the picture when it is destroyed with the page, or was before, needs no undoing. */
function returnLater(page, undo) {
  page.undos.push(() => {
    if (!page.cy.destroyed()) undo();
  });
}

/** Hear events of the picture: (page, events, [selector,] act). */
function hear(page, ...heard) {
  page.cy.on(...heard);
  returnLater(page, () => page.cy.removeListener(...heard));
}

/** One timer for each name; a new one takes the place of the old. */
function later(page, name, act, wait) {
  clearTimeout(page.timers.get(name));
  page.timers.set(name, setTimeout(act, wait));
}

function nextFrame(page, act) {
  if (page.frame !== null) return;
  page.frame = requestAnimationFrame(() => {
    page.frame = null;
    act();
  });
}

/** Tell whoever mounted the page what a person did. */
function tell({ options }, what, value) {
  options[what]?.(value);
}

function announce(page, text) {
  fill(page, 'live', text);
}

/** Labels, descriptions and groups of radio buttons, with ids that no other mounted page has. */
function linkParts(page) {
  const { root, number } = page;
  for (const name of ['for', 'aria-describedby', 'aria-controls', 'name']) {
    for (const found of root.querySelectorAll(`[data-${name}]`)) {
      const wanted = found.getAttribute(`data-${name}`);
      const id = `flowgraph-${number}-${wanted}`;
      setAttribute(page, found, name, id);
      if (name !== 'name') setAttribute(page, partOf(page, wanted), 'id', id);
    }
  }
}

/** Fade the marks for spaces in tokens that stand in the page's own markup. */
function fadeMarks(page) {
  for (const found of page.root.querySelectorAll('[data-words] b.token')) {
    const faded = tokenText(found.textContent, 'b');
    found.replaceWith(faded);
    page.undos.push(() => faded.replaceWith(found));
  }
}

function destroyPage(page) {
  page.silence.abort();
  page.observer.disconnect();
  for (const timer of page.timers.values()) clearTimeout(timer);
  cancelAnimationFrame(page.frame);
  while (page.undos.length) page.undos.pop()();
}
