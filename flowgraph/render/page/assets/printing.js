/* On paper: the picture at the width of the paper, and drawn at once, for its own canvas would wait for a frame that never comes. */

// A power of two: at others Chromium prints a canvas a little smaller than it is laid out.
const DOTS = 4;

function watchPrinting(page) {
  // Inside another document its owner decides what a paper shows.
  if (page.root.classList.contains('compact')) return;
  listen(page, window, 'beforeprint', () => startPrinting(page));
  listen(page, window, 'afterprint', () => endPrinting(page));
  page.undos.push(() => endPrinting(page));
}

function startPrinting(page) {
  if (page.printed || !page.stage.clientWidth) return;
  const { cy, root, stage } = page;
  // Who lent the picture may have made it light already, and will undo that.
  const theme = page.theme === 'light' ? null : page.theme;
  page.printed = { theme, viewport: { zoom: cy.zoom(), pan: { ...cy.pan() } } };
  root.dataset.printing = '';
  if (theme) setTheme(page, 'light');
  page.kind.arrange(page);
  // What cy.png() encodes; an image made of that would be decoded too late, and it wipes what is printed below it.
  const drawn = cy.renderer().bufferCanvasImage({ scale: DOTS });
  const canvas = element('canvas', { class: 'printed', width: drawn.width, height: drawn.height });
  canvas.getContext('2d').drawImage(drawn, 0, 0);
  Object.assign(canvas.style, { width: `${cy.width()}px`, height: `${cy.height()}px` });
  stage.append(canvas);
  page.printed.canvas = canvas;
}

function endPrinting(page) {
  if (!page.printed) return;
  const { theme, viewport, canvas } = page.printed;
  page.printed = null;
  canvas.remove();
  delete page.root.dataset.printing;
  if (theme) setTheme(page, theme);
  page.kind.arrange(page);
  page.cy.viewport(viewport);
}
