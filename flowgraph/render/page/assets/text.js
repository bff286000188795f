/* Text and small elements: everything a token says goes through textContent, never through markup. */

const MINUS = '−';

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') made.addEventListener(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function line(...children) {
  return element('p', {}, ...children);
}

function note(...children) {
  return element('p', { class: 'note' }, ...children);
}

function between(items, separator) {
  return items.flatMap((item, i) => (i ? [separator, item] : [item]));
}

/** A token with the marks for spaces, newlines and tabs faded, unless it has nothing else. */
function tokenText(text, tag = 'span') {
  const parts = text.split(/([␣⏎⇥])/).filter(Boolean);
  const isMark = (part) => /^[␣⏎⇥]$/.test(part);
  if (parts.every(isMark)) return element(tag, { class: 'token' }, text);
  return element(tag, { class: 'token' }, ...parts.map((part) => (isMark(part) ? element('i', {}, part) : part)));
}

function signed(text) {
  return text.replace(/^-/, MINUS).replace('e-', `e${MINUS}`);
}

/** Three significant digits, without a long tail of zeros. */
function number(value) {
  if (value === null || value === undefined) return 'none';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size < 0.001) return signed(value.toExponential(1));
  return signed(size >= 100 ? value.toFixed(1) : value.toFixed(size >= 10 ? 2 : 3));
}

/** A share or flow: three decimals, and never 0 for something that is there. */
function part(value) {
  if (value !== 0 && Math.abs(value) < 0.0005) return `${value < 0 ? MINUS : ''}< .001`;
  return signed(value.toFixed(3));
}

/** A share or flow where edges have signs: both are then shown. */
function signedPart(value) {
  return (value > 0 ? '+' : '') + part(value);
}

/** What lists of edges go by: logits where the method's unit is that, else the flow into the start; both with their sign. */
function strengthOf(data, edge) {
  return data.unit === 'logits' ? edge.weight : Math.sign(edge.share) * edge.flow;
}

/** A share or flow of an edge, with its sign where edges have one. */
function measured(data, edge, measure) {
  if (!data.signed) return part(edge[measure]);
  return signedPart(measure === 'flow' ? Math.sign(edge.share) * edge.flow : edge[measure]);
}

/** A part of 1 in percent, never rounded up to all or down to nothing. */
function percent(value) {
  if (value > 0 && value < 0.001) return '< 0.1 %';
  const text = (100 * value).toFixed(1).replace(/\.0$/, '');
  return `${value >= 0.9995 && value < 1 - 1e-6 ? '99.9' : text} %`;
}

/** A weight in the unit of the method; logits always show their sign. */
function weight(value, unit) {
  if (unit !== 'logits') return number(value);
  return (value > 0 ? '+' : '') + (Math.abs(value) < 0.01 && value !== 0 ? number(value) : signed(value.toFixed(2)));
}

function count(value) {
  return value.toLocaleString('en');
}

function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}
