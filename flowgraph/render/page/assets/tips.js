/* One tip for everything outside the pictures: lines of text, a tab between a name and its number. */

let floating = null;

function showFloatingTip(text, x, y) {
  floating ??= element('div', { class: 'panel-tip', role: 'tooltip' });
  const root = document.querySelector('.flowgraph') ?? document.body;
  if (floating.parentElement !== root) root.append(floating);
  floating.replaceChildren(...text.split('\n').map(floatingLine));
  floating.hidden = false;
  const { width, height } = floating.getBoundingClientRect();
  const left = x + 14 + width > window.innerWidth ? x - width - 10 : x + 14;
  const top = y + 16 + height > window.innerHeight ? y - height - 10 : y + 16;
  floating.style.translate = `${Math.max(4, left)}px ${Math.max(4, top)}px`;
}

function floatingLine(text) {
  const [name, value] = text.split('\t');
  return line(name, ...(value === undefined ? [] : [element('b', {}, value)]));
}

function hideFloatingTip() {
  if (floating) floating.hidden = true;
}

flowgraph.tips = { show: showFloatingTip, hide: hideFloatingTip };
