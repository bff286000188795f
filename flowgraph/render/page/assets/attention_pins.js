/* Tokens: pinning, walking with the keys, and the numbers beside them. */

function markOf(view, side, index) {
  return view.marks[side][view.order[side].get(index)];
}

/** Weight of each shown head between one token and the tokens chosen on the other side. */
function weightsFor(view, side, index, chosen) {
  return view.heads.map((head) => {
    const total = sumFor(view.panel, view.layer, head, side, index, chosen[other(side)]);
    return { head, weight: toWeight(view.panel, total) };
  });
}

function writeValues(view, chosen) {
  for (const side of SIDES) {
    const counts = chosen[other(side)].size > 0 && view.heads.length > 0;
    view.lists[side].classList.toggle('counted', counts);
    const rows = counts ? view.rows[side].map((index) => weightsFor(view, side, index, chosen)) : [];
    const means = rows.map((row) => row.reduce((sum, { weight: found }) => sum + found, 0) / row.length);
    const largest = Math.max(...means, 0);
    view.rows[side].forEach((index, row) => {
      const mark = view.marks[side][row];
      const pinned = view.pins[side].has(index);
      mark.button.setAttribute('aria-pressed', String(pinned));
      mark.button.classList.toggle('chosen', chosen[side].has(index));
      mark.value.textContent = counts && means[row] > 0 ? weightText(view.panel, means[row]) : '';
      mark.bar.style.background = counts && largest > 0 ? barOf(view, rows[row], largest * rows[row].length, side) : '';
    });
  }
}

/** A bar of one piece for each head; the longest bar of a side fills its width. */
function barOf(view, weights, whole, side) {
  const stops = [];
  let end = 0;
  for (const { head, weight: found } of weights) {
    if (!found) continue;
    const hue = `var(--${hueOf(view.panel, head)})`;
    stops.push(`${hue} ${end.toFixed(2)}%`);
    end += (found / whole) * 100;
    stops.push(`${hue} ${end.toFixed(2)}%`);
  }
  return `linear-gradient(to ${side === 'query' ? 'left' : 'right'}, ${[...stops, `transparent ${end.toFixed(2)}%`, 'transparent'].join(', ')})`;
}

function togglePin(view, side, index) {
  const pins = view.pins[side];
  if (!pins.delete(index)) pins.add(index);
  refreshLines(view);
  showTip(view);
  view.live.textContent = view.status.textContent;
}

function clearPins(view) {
  for (const side of SIDES) view.pins[side].clear();
  refreshLines(view);
}

/** What the numbers of a token are made of, head by head. */
function showTip(view) {
  const { hover, tip } = view;
  // Where the lines are of a mean, what it is a mean of.
  const source = view.apart ?? view;
  const { panel } = source;
  const chosen = chosenTokens(view);
  const apart = hover && chosen[other(hover.side)].size && view.heads.length;
  tip.hidden = !apart;
  if (!apart) return;
  const text = (hover.side === 'query' ? panel.queries : panel.keys)[hover.index];
  const all = weightsFor(source, hover.side, hover.index, chosen).sort((a, b) => b.weight - a.weight);
  const rows = all.slice(0, 12).map(({ head, weight: found }) => element('tr', {},
    element('th', { scope: 'row' }, ...(panel.hue ? [] : [element('i', { class: `swatch ${hueOf(panel, head)}` })]), `head ${panel.heads[head]}`),
    element('td', {}, weightText(panel, found))));
  const size = chosen[other(hover.side)].size;
  const what = hover.side === 'key' ? `from ${size === 1 ? 'the query' : `${size} queries, summed`}` : `to ${size === 1 ? 'the key' : `${size} keys, summed`}`;
  tip.replaceChildren(element('p', {}, tokenText(text, 'b'), ` ${hover.side} ${positionOf(panel, hover.side, hover.index)}, ${what}`.replace('  ', ' ').replace(' ,', ',')), element('table', {}, ...rows),
    ...(all.length > 12 ? [element('p', { class: 'note' }, `and ${all.length - 12} heads with less`)] : []));
  placeTip(view, markOf(view, hover.side, hover.index).button);
}

function placeTip({ tip, host }, button) {
  const frame = host.getBoundingClientRect();
  const box = button.getBoundingClientRect();
  const left = button.dataset.side === 'query' ? box.right - frame.left + 6 : box.left - frame.left - tip.offsetWidth - 6;
  const top = Math.min(box.top - frame.top, Math.max(0, innerHeight - frame.top - tip.offsetHeight - 6));
  tip.style.left = `${Math.max(4, Math.min(left, frame.width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${top}px`;
}

function tokenOf(event) {
  const button = event.target.closest('button[data-side]');
  return button && { button, side: button.dataset.side, index: Number(button.dataset.index) };
}

function hoverOver(view, token) {
  const before = view.hover;
  view.hover = token && { side: token.side, index: token.index };
  if (before?.side === view.hover?.side && before?.index === view.hover?.index) return;
  if (!view.pins.query.size && !view.pins.key.size) refreshLines(view);
  showTip(view);
}

function watchTokens(view) {
  for (const side of SIDES) {
    const list = view.lists[side];
    list.addEventListener('pointerover', (event) => hoverOver(view, tokenOf(event)));
    list.addEventListener('pointerleave', () => hoverOver(view, null));
    list.addEventListener('focusin', (event) => hoverOver(view, tokenOf(event)));
    list.addEventListener('focusout', () => hoverOver(view, null));
    list.addEventListener('click', (event) => {
      const token = tokenOf(event);
      if (token) togglePin(view, token.side, token.index);
    });
  }
  view.scroller.addEventListener('keydown', (event) => walkTokens(view, event));
}

const STEPS = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

/** One token at a time can be reached with Tab; the arrow keys walk from there. */
function walkTokens(view, event) {
  const token = tokenOf(event);
  if (!token) return;
  const row = view.order[token.side].get(token.index);
  const sideways = event.key === 'ArrowLeft' || event.key === 'ArrowRight';
  if (!sideways && !(event.key in STEPS)) return;
  event.preventDefault();
  const side = sideways ? (event.key === 'ArrowLeft' ? 'query' : 'key') : token.side;
  const step = sideways ? 0 : STEPS[event.key];
  const next = view.marks[side][Math.max(0, Math.min(view.rows[side].length - 1, row + step))].button;
  for (const mark of [...view.marks.query, ...view.marks.key]) mark.button.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
