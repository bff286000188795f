/* Hover: lift what matters to a node or edge, dim the rest, and say the numbers. */

const LIFT_MS = 60;
const DROP_MS = 90;

function lift(page, item) {
  drop(page);
  page.kind.lift(page, item, numberOf(item.id()));
}

function hideTip(page) {
  const tip = partOf(page, 'tip');
  if (!tip) return;
  restoreLater(page, tip, 'style');
  tip.style.display = 'none';
}

function drop(page) {
  page.cy.batch(() => page.cy.elements('.dim, .lift').removeClass('dim lift'));
  hideTip(page);
}

function watchPointer(page) {
  const leave = () => later(page, 'pointer', () => drop(page), DROP_MS);
  hear(page, 'mouseover', 'node, edge', (event) => later(page, 'pointer', () => {
    lift(page, event.target);
    showTip(page, event.target, page.kind.tipPlace(event));
  }, LIFT_MS));
  hear(page, 'mouseout', 'node, edge', leave);
  hear(page, 'viewport', () => clearTimeout(page.timers.get('pointer')));
  // The canvas does not hear a pointer that leaves it from on top of a node.
  listen(page, page.stage, 'pointerleave', leave);
}

/** Right of a place, or where the stage ends, left of it. */
function showTip(page, item, { x, y, left }) {
  const tip = partOf(page, 'tip');
  if (!tip) return;
  const i = numberOf(item.id());
  fill(page, 'tip', ...(item.isEdge() ? page.kind.edgeTip(page, i) : page.kind.nodeTip(page, i)));
  restoreLater(page, tip, 'style');
  tip.style.display = 'block';
  const { clientWidth: width, clientHeight: height } = page.stage;
  const isLeft = x + 16 + tip.offsetWidth > width;
  tip.style.left = `${Math.max(4, isLeft ? left - 16 - tip.offsetWidth : x + 16)}px`;
  tip.style.top = `${clamp(4, y - tip.offsetHeight - 10, Math.max(4, height - tip.offsetHeight - 4))}px`;
}
