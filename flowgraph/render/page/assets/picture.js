/* The Cytoscape picture: the page's own, or one that is lent to it. */

const ZOOM_STEP = 1.25;
const STATES = 'off dim lift chosen pin near rows columns dense by-share';

/** Zooms are [least, most]; spare is data that the stylesheet needs before the script has measured anything. */
function createPicture(page, zooms, spare = {}) {
  if (page.options.cy) borrowPicture(page, zooms, spare);
  else drawPicture(page, zooms, spare);
}

function drawPicture(page, [minZoom, maxZoom], spare) {
  const { data } = page;
  const container = partOf(page, 'picture');
  restoreLater(page, container, 'class');
  restoreLater(page, container, 'style');
  page.cy = cytoscape({
    container,
    elements: [...data.nodes, ...data.edges].map((item) => ({ ...item, data: { ...item.data, ...spare } })),
    style: data.styles[page.theme],
    layout: { name: 'preset' },
    autoungrabify: true,
    autounselectify: true,
    boxSelectionEnabled: false,
    minZoom,
    maxZoom,
  });
  page.undos.push(() => page.cy.destroy());
}

/** Change a picture's settings, and remember what they were; nothing is added, so that its owner need not hear of it. */
function borrowPicture(page, [minZoom, maxZoom], spare) {
  const { cy } = page.options;
  page.cy = cy;
  const wanted = { autoungrabify: true, autounselectify: true, boxSelectionEnabled: false, minZoom, maxZoom };
  for (const [name, value] of Object.entries(wanted)) {
    const before = cy[name]();
    returnLater(page, () => cy[name](before));
    cy[name](value);
  }
  const names = Object.keys(spare).join(' ');
  const style = cy.style().json();
  returnLater(page, () => cy.batch(() => {
    cy.elements().removeClass(STATES);
    cy.nodes().removeStyle('text-max-width');
    if (names) cy.elements().removeData(names);
  }));
  returnLater(page, () => cy.style(style));
  if (names) cy.batch(() => cy.elements().data(spare));
  cy.style(page.data.styles[page.theme]);
}

function clamp(low, value, high) {
  return Math.min(high, Math.max(low, value));
}

function zoomBy({ cy }, factor) {
  cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
}

function setTheme(page, theme) {
  page.theme = theme;
  setAttribute(page, page.root, 'data-theme', theme);
  setAttribute(page, partOf(page, 'theme'), 'aria-pressed', String(theme === 'dark'));
  page.cy?.style(page.data.styles[theme]);
}

function watchTheme(page) {
  listen(page, partOf(page, 'theme'), 'click', () => {
    setTheme(page, page.theme === 'dark' ? 'light' : 'dark');
    tell(page, 'theme', page.theme);
  });
}
