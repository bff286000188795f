/* The panels: trees that Python made are built here, and what is clicked in them is told to the page.

A tree is [tag, attributes, child, …] in data-draw. Texts go through textContent and attributes through a list: nothing becomes markup. */

(() => {
  'use strict';
  const flowgraph = (window.flowgraph ??= {});
  const TAGS = new Set(['div', 'p', 'span', 'b', 'i', 'button', 'table', 'caption', 'thead', 'tbody', 'tfoot', 'tr', 'th', 'td', 'dl', 'dt', 'dd', 'h2', 'h3', 'h4', 'label', 'input', 'section', 'ul', 'select']);
  const ATTRIBUTES = new Set(['class', 'title', 'role', 'scope', 'type', 'tabindex', 'hidden', 'colspan', 'disabled', 'checked', 'id', 'min', 'max', 'step', 'value']);
  const DRAWN = '[data-draw]';
  const CELL = '[role=gridcell]';
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  /** What draws the parts with data-widget: name → (host, model) → { select(key), destroy() }. */
  const widgets = (flowgraph.widgets ??= {});
  const living = new Map();
  const choices = {};
  let chosen = null;

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

  function draw(host) {
    if (host.drawnFrom === host.dataset.draw) return;
    host.drawnFrom = host.dataset.draw;
    hideTip();
    const kept = [...host.querySelectorAll('.grid-box')].map((box) => [box.scrollLeft, box.scrollTop]);
    host.replaceChildren(build(JSON.parse(host.dataset.draw)));
    bury();
    for (const found of host.querySelectorAll('[data-widget]')) {
      living.set(found, widgets[found.dataset.widget](found, JSON.parse(found.dataset.model)));
    }
    for (const button of host.querySelectorAll('[data-switch]')) {
      if (button.dataset.switch === choices.switch) chooseGroup(button);
    }
    for (const cell of host.querySelectorAll(CELL)) {
      cell.tabIndex = -1;
      nameByTip(cell);
    }
    if (host.dataset.selected) chosen = host.dataset.selected;
    mark(host, chosen);
    if (chosen) living.get(host.querySelector('[data-widget]'))?.select?.(chosen);
    host.querySelectorAll('.grid-box').forEach((box, i) => scrollGrid(box, kept[i]));
  }

  /** A grid opens where it was, or at the cell that is selected, or at the position that is explained. */
  function scrollGrid(box, kept) {
    const cell = box.querySelector('.chosen') ?? box.querySelector('th.here');
    const first = box.querySelector(`${CELL}.chosen`) ?? box.querySelector(CELL);
    if (first) first.tabIndex = 0;
    if (kept) [box.scrollLeft, box.scrollTop] = kept;
    else if (cell) box.scrollLeft = cell.offsetLeft + cell.offsetWidth / 2 - box.clientWidth / 2;
  }

  /** Widgets whose element has left the page let go of what they hold. */
  function bury() {
    for (const [host, widget] of living) {
      if (host.isConnected) continue;
      widget.destroy?.();
      living.delete(host);
    }
  }

  function drawAll(root) {
    if (root.matches?.(DRAWN)) draw(root);
    for (const host of root.querySelectorAll?.(DRAWN) ?? []) draw(host);
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

  function select(key) {
    chosen = key ?? null;
    for (const host of document.querySelectorAll(DRAWN)) {
      host.dataset.selected = chosen ?? '';
      mark(host, chosen);
    }
    for (const widget of living.values()) widget.select?.(chosen);
  }

  function pick(key) {
    select(key);
    window.dash_clientside?.set_props?.('selection', { data: key });
  }

  function tellSetting(name, value) {
    window.dash_clientside?.set_props?.('setting', { data: { name, value } });
  }

  function chooseGroup(button) {
    const host = button.closest(DRAWN);
    choices.switch = button.dataset.switch;
    for (const one of host.querySelectorAll('[data-switch]')) one.setAttribute('aria-pressed', String(one === button));
    for (const group of host.querySelectorAll('[data-group]')) group.hidden = group.dataset.group !== button.dataset.switch;
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

  function walk(event) {
    const cell = event.target.closest?.(CELL);
    if (!cell) return;
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      pick(cell.dataset.pick);
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

  /* Tips: one element, lines of text, a tab between a name and its number */

  let tip = null;

  function showTip(text, x, y) {
    if (!tip) {
      tip = document.createElement('div');
      tip.className = 'panel-tip';
      tip.setAttribute('role', 'tooltip');
    }
    const root = document.querySelector('.flowgraph') ?? document.body;
    if (tip.parentElement !== root) root.append(tip);
    tip.replaceChildren(...text.split('\n').map(tipLine));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = x + 14 + width > window.innerWidth ? x - width - 10 : x + 14;
    const top = y + 16 + height > window.innerHeight ? y - height - 10 : y + 16;
    tip.style.translate = `${Math.max(4, left)}px ${Math.max(4, top)}px`;
  }

  function tipLine(text) {
    const line = document.createElement('p');
    const [name, number] = text.split('\t');
    line.append(name);
    if (number !== undefined) {
      const value = document.createElement('b');
      value.textContent = number;
      line.append(value);
    }
    return line;
  }

  function hideTip() {
    if (tip) tip.hidden = true;
  }

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

  function clicked(event) {
    if (!event.target.closest?.('.drawn')) return;
    const button = event.target.closest('[data-switch], [data-set], button.sort, [data-pick]');
    if (!button) return;
    if (button.matches('[data-switch]')) chooseGroup(button);
    else if (button.matches('[data-set]')) tellSetting(button.dataset.set, Number(button.dataset.value));
    else if (button.matches('button.sort')) sortBy(button);
    else {
      if (button.matches(CELL)) button.focus({ preventScroll: true });
      pick(button.dataset.pick);
    }
  }

  /* The semantic graph is drawn by flowgraph's own page scripts. */

  widgets.semantic = (host, { page, keys }) => {
    const shown = () => (document.documentElement.dataset.theme === 'dark' ? 'dark' : 'light');
    host.dataset.theme = shown();
    const view = flowgraph.semantic.mount(host, page, {
      select: (id) => pick(id === null || id.startsWith('e') ? null : keys[Number(id.slice(1))]),
    });
    const watch = new MutationObserver(() => view.setTheme(shown()));
    watch.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] });
    return {
      select: (key) => view.select(keys.includes(key) ? `n${keys.indexOf(key)}` : null),
      destroy: () => { watch.disconnect(); view.destroy(); },
    };
  };

  flowgraph.panels = { select, pick, tellSetting, showTip, hideTip };

  function start() {
    document.addEventListener('click', clicked);
    document.addEventListener('keydown', walk);
    document.addEventListener('pointerover', tipOf);
    document.addEventListener('focusin', tipOfFocus);
    document.addEventListener('focusout', hideTip);
    document.addEventListener('scroll', hideTip, { capture: true, passive: true });
    new MutationObserver((changes) => {
      for (const { type, target, addedNodes } of changes) {
        if (type === 'attributes') draw(target);
        else addedNodes.forEach(drawAll);
      }
      if (living.size) bury();
    }).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ['data-draw'] });
    drawAll(document.body);
  }

  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start);
  else start();
})();
