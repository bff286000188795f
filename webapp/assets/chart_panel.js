/* ChartPanel: a Dash component that draws a tree which Python made, and tells what is picked and set in it.

A tree is [tag, attributes, child, …]. Texts go through textContent and attributes through a list: nothing becomes markup. Thousands
of cells are built as plain elements: as elements of React they take several times as long. */

(() => {
  'use strict';
  const { createElement, useLayoutEffect, useRef } = window.React;
  const flowgraph = (window.flowgraph ??= {});
  const TAGS = new Set(['div', 'p', 'span', 'b', 'i', 'button', 'table', 'caption', 'thead', 'tbody', 'tfoot', 'tr', 'th', 'td', 'dl', 'dt', 'dd', 'h2', 'h3', 'h4', 'label', 'input', 'section', 'ul', 'select']);
  const ATTRIBUTES = new Set(['class', 'title', 'role', 'scope', 'type', 'tabindex', 'hidden', 'colspan', 'disabled', 'checked', 'id', 'min', 'max', 'step', 'value']);
  const CELL = '[role=gridcell]';
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  /** What draws the parts with data-widget: name → (host, model, { pick(key), set(name, value) }) → { select(key), destroy() }. */
  const widgets = (flowgraph.widgets ??= {});
  /** The grouping that was chosen last: the next panel opens with it. */
  let grouping = null;

  function ChartPanel(props) {
    const host = useRef(null);
    const living = useRef([]);
    const marked = useRef(null);
    const { chart, name = '', label, selected = null, n_picks: picks = 0, setProps } = props;
    // Widgets live longer than one rendering, and tell through the last.
    const tell = useRef({});
    tell.current.pick = (key) => setProps({ selected: key, n_picks: picks + 1 });
    tell.current.set = (field, value) => setProps({ setting: { name: field, value } });

    useLayoutEffect(() => {
      const said = { pick: (key) => tell.current.pick(key), set: (field, value) => tell.current.set(field, value) };
      const kept = [...host.current.querySelectorAll('.grid-box')].map((box) => [box.scrollLeft, box.scrollTop]);
      living.current = draw(host.current, chart, said);
      follow(host.current, living.current, marked, selected, true);
      host.current.querySelectorAll('.grid-box').forEach((box, i) => scrollGrid(box, kept[i]));
      return () => living.current.forEach((widget) => widget.destroy?.());
    }, [chart]);
    useLayoutEffect(() => follow(host.current, living.current, marked, selected, false), [selected]);

    return createElement('div', {
      ref: host, className: `drawn ${name}`, role: 'region', 'aria-label': label,
      onClick: (event) => clicked(event, tell.current), onKeyDown: (event) => walk(event, tell.current),
      onPointerOver: tipOf, onPointerLeave: hideTip, onFocus: tipOfFocus, onBlur: hideTip,
    });
  }

  function build(tree) {
    if (typeof tree === 'string') return document.createTextNode(tree);
    const [tag, attributes, ...children] = tree;
    if (!TAGS.has(tag)) throw new Error(`flowgraph: no tag ${tag} in a panel`);
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith('--')) made.style.setProperty(name, value);
      else if (ATTRIBUTES.has(name) || name.startsWith('data-') || name.startsWith('aria-')) made.setAttribute(name, value);
      else throw new Error(`flowgraph: no attribute ${name} in a panel`);
    }
    made.append(...children.map(build));
    return made;
  }

  /** Build a tree in its place; the widgets in it. */
  function draw(host, tree, tell) {
    hideTip();
    host.replaceChildren(build(tree));
    const made = [...host.querySelectorAll('[data-widget]')].map((found) => widgets[found.dataset.widget](found, JSON.parse(found.dataset.model), tell));
    for (const button of host.querySelectorAll('[data-switch]')) {
      if (button.dataset.switch === grouping) chooseGroup(button);
    }
    for (const cell of host.querySelectorAll(CELL)) {
      cell.tabIndex = -1;
      nameByTip(cell);
    }
    return made;
  }

  /** Mark what is selected; the widgets hear of it when it changes. */
  function follow(host, living, marked, key, isNew) {
    if (!isNew && marked.current === key) return;
    mark(host, key);
    if (key || !isNew) for (const widget of living) widget.select?.(key);
    marked.current = key;
  }

  /** A grid opens where it was, or at the cell that is selected, or at the position that is explained. */
  function scrollGrid(box, kept) {
    const cell = box.querySelector('.chosen') ?? box.querySelector('th.here');
    const first = box.querySelector(`${CELL}.chosen`) ?? box.querySelector(CELL);
    if (first) first.tabIndex = 0;
    if (kept) [box.scrollLeft, box.scrollTop] = kept;
    else if (cell) box.scrollLeft = cell.offsetLeft + cell.offsetWidth / 2 - box.clientWidth / 2;
  }

  function mark(root, key) {
    for (const found of root.querySelectorAll('.chosen[data-pick], .chosen[data-node]')) {
      found.classList.remove('chosen');
      found.removeAttribute('aria-selected');
    }
    if (!key) return;
    const name = CSS.escape(key);
    for (const found of root.querySelectorAll(`[data-pick="${name}"], [data-node="${name}"]`)) {
      found.classList.add('chosen');
      if (found.matches(CELL)) found.setAttribute('aria-selected', 'true');
    }
  }

  function chooseGroup(button) {
    const host = button.closest('.drawn');
    grouping = button.dataset.switch;
    for (const one of host.querySelectorAll('[data-switch]')) one.setAttribute('aria-pressed', String(one === button));
    for (const group of host.querySelectorAll('[data-group]')) group.hidden = group.dataset.group !== button.dataset.switch;
  }

  function clicked(event, tell) {
    const button = event.target.closest('[data-switch], [data-set], button.sort, [data-pick]');
    if (!button) return;
    if (button.matches('[data-switch]')) chooseGroup(button);
    else if (button.matches('[data-set]')) tell.set(button.dataset.set, Number(button.dataset.value));
    else if (button.matches('button.sort')) sortBy(button);
    else {
      if (button.matches(CELL)) button.focus({ preventScroll: true });
      tell.pick(button.dataset.pick);
    }
  }

  /* Tables */

  function sortBy(button) {
    const head = button.closest('th');
    const body = head.closest('table').tBodies[0];
    const column = [...head.parentElement.children].indexOf(head);
    const before = head.getAttribute('aria-sort');
    // Numbers start with the largest, words with the first.
    const first = head.classList.contains('number') ? 'descending' : 'ascending';
    const next = before === 'none' ? first : before === 'ascending' ? 'descending' : 'ascending';
    for (const other of head.parentElement.querySelectorAll('[aria-sort]')) other.setAttribute('aria-sort', 'none');
    head.setAttribute('aria-sort', next);
    const sign = next === 'ascending' ? 1 : -1;
    const value = (row) => row.children[column].dataset.sort;
    const rows = [...body.rows].sort((a, b) => sign * compare(value(a), value(b), a.children[column], b.children[column]));
    body.append(...rows);
  }

  /** By number where both have one, by text otherwise; what has no number comes last, whichever way. */
  function compare(a, b, one, other) {
    if (a !== undefined && b !== undefined) return Number(a) - Number(b);
    if (a === undefined && b === undefined) return one.textContent.localeCompare(other.textContent, 'en', { numeric: true });
    return a === undefined ? -1 : 1;
  }

  /* Grids: one stop for Tab, arrow keys inside */

  function walk(event, tell) {
    const cell = event.target.closest?.(CELL);
    if (!cell) return;
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      tell.pick(cell.dataset.pick);
      return;
    }
    const next = neighbour(cell, event.key);
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  function neighbour(cell, key) {
    const row = cell.parentElement;
    const cells = [...row.querySelectorAll(CELL)];
    if (key === 'Home') return cells[0];
    if (key === 'End') return cells.at(-1);
    if (!STEPS[key]) return null;
    const [down, right] = STEPS[key];
    if (right) return cells[cells.indexOf(cell) + right];
    return (down > 0 ? row.nextElementSibling : row.previousElementSibling)?.querySelectorAll(CELL)[cells.indexOf(cell)];
  }

  /* Tips, by flowgraph’s page scripts, which come after this */

  const showTip = (...given) => flowgraph.tips.show(...given);
  const hideTip = () => flowgraph.tips?.hide();

  function tipOf(event) {
    const owner = event.target.closest?.('[data-tip]');
    if (!owner) {
      if (!event.target.closest?.('[data-own-tip]')) hideTip();
      return;
    }
    showTip(owner.dataset.tip, event.clientX, event.clientY);
  }

  function tipOfFocus(event) {
    const owner = event.target.closest?.('[data-tip]');
    if (!owner?.matches(':focus-visible')) return;
    const { right, bottom } = owner.getBoundingClientRect();
    showTip(owner.dataset.tip, right - 10, bottom - 12);
  }

  /** What the tip shows is the accessible name. */
  function nameByTip(owner) {
    owner.setAttribute('aria-label', owner.dataset.tip.replaceAll('\t', ': ').replaceAll('\n', ', '));
  }

  /* What flowgraph’s own page scripts draw: props in, picks and settings out */

  const shownTheme = () => (document.documentElement.dataset.theme === 'dark' ? 'dark' : 'light');

  /** Let a view follow the theme of the page, for as long as it lives. */
  function themed(view, { select, destroy }) {
    const watch = new MutationObserver(() => view.setTheme(shownTheme()));
    watch.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] });
    return { select, destroy: () => { watch.disconnect(); destroy(); } };
  }

  widgets.semantic = (host, { page, keys }, { pick }) => {
    host.dataset.theme = shownTheme();
    const view = flowgraph.semantic.mount(host, page, {
      select: (id) => pick(id === null || id.startsWith('e') ? null : keys[Number(id.slice(1))]),
    });
    return themed(view, { select: (key) => view.select(keys.includes(key) ? `n${keys.indexOf(key)}` : null), destroy: view.destroy });
  };

  widgets.attention = (host, model, tell) => {
    const view = flowgraph.attention.mount(host, model, tell);
    return themed(view, view);
  };

  document.addEventListener('scroll', hideTip, { capture: true, passive: true });
  window.flowgraph_webapp = Object.assign(window.flowgraph_webapp ?? {}, { ChartPanel });

  /* Callbacks between panels and the page */

  const { keep, offer, triggered } = window.flowgraphApp;

  /** What was picked in a panel. A panel that has just come has picked nothing. */
  function picked(_counts, selected, ids) {
    const [last] = triggered().filter(({ value }) => value).slice(-1);
    const at = ids.findIndex((id) => last && JSON.parse(last.prop_id.slice(0, last.prop_id.lastIndexOf('.'))).of === id.of);
    return at < 0 ? keep() : selected[at];
  }

  /** What is selected is marked in every panel, also in one that comes later. */
  function markEverywhere(key, _charts, selected) {
    return selected.map((one) => ((one ?? null) === (key ?? null) ? keep() : (key ?? null)));
  }

  offer({ picked, markEverywhere });
})();
