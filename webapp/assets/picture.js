/* The picture: hand the Cytoscape instance that Dash made to the page scripts, and keep selection and pins in the address. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const TRIES = 400;
  const TRY_MS = 15;
  const QUIET_MS = 150;
  const set = (id, data) => window.dash_clientside.set_props(id, { data });

  /** The instance appears a few frames after its component. */
  function whenReady(id, then, tries = 0) {
    const cy = document.getElementById(id)?._cyreg?.cy;
    if (cy?.elements().length) then(cy);
    else if (tries < TRIES) setTimeout(() => whenReady(id, then, tries + 1), TRY_MS);
  }

  const plain = (item) => ({ data: { ...item.data() }, classes: item.classes().join(' ') });

  function attach(meta) {
    if (!meta) return;
    whenReady(meta.picture, (cy) => {
      if (app.cy === cy) return;
      app.view?.destroy();
      app.view = null;
      app.applyTheme();
      Object.assign(app, { cy, meta, pins: [], selected: null });
      app.data = { ...meta, nodes: cy.nodes().map(plain), edges: cy.edges().map(plain) };
      document.getElementById('keep').dataset.part = 'keep';
      app.view = window.flowgraph.flow.mount(app.root(), app.data, {
        cy, select: tapped, pin: pinned, level: keepLevel, open: (id) => id.startsWith('n') && startFrom(keyOf(id)),
      });
      fill();
      app.holdAgainst();
      app.forgetTest();
      app.aboutPrompt();
      showAddress();
      nameLayers();
      app.root().dataset.drawn = meta.picture;
      // Not before the picture is seen: reading the rest takes the processor that draws it.
      requestAnimationFrame(() => requestAnimationFrame(() => set('drawn', meta.picture)));
    });
  }

  let late = null;

  /** Words of nodes that no colour needs come after the picture, or before it has been mounted. */
  function fill(found = late) {
    late = found;
    if (!found || found.picture !== app.meta?.picture) return;
    for (const name of ['readings', 'vocabulary']) app.meta[name].splice(0, Infinity, ...found[name]);
    app.root().dataset.read = found.picture;
  }

  /** Labels of layers are switches at token level. */
  function nameLayers() {
    const { level, heads_in: opened = '' } = app.address.read();
    const circuit = app.shownCircuit();
    const layers = opened.split(',');
    const isFixed = level === 'head' || Boolean(circuit);
    const stage = document.getElementById('stage');
    stage.setAttribute('aria-label', `${circuit ? 'Circuit: heads' : 'Flow graph: tokens'} along one axis, layers along the other`);
    for (const label of document.querySelectorAll('#stage .axis > span:not(.tick)')) {
      const isOpened = layers.includes(label.textContent.slice(1));
      label.classList.toggle('opened', isOpened && !isFixed);
      label.title = isFixed ? '' : `${label.textContent}: ${isOpened ? 'take its heads together' : 'show its heads one by one'}`;
    }
  }

  /** Bring the picture to what the address says. */
  function showAddress() {
    if (!app.view) return;
    const { keep, width, orientation, selected, pins } = app.address.read();
    app.view.setWidth(width ?? 'flow');
    app.view.setOrientation(orientation ?? 'auto');
    app.view.setLevel(/^\d+$/.test(keep ?? '') ? Number(keep) : app.meta.level);
    app.holdAgainst();
    setPins((pins ?? '').split(',').map(idOf).filter(Boolean));
    set('selection', storedSelection(selected));
  }

  /** An edge stands in the address as its kind and its ends; the server is told its number in this picture. */
  function storedSelection(selected) {
    if (!selected?.includes('~')) return selected || null;
    const edge = app.data.edges.findIndex((_, i) => edgeKey(i) === selected);
    return edge < 0 ? null : `edge.${app.meta.edge_index[edge]}`;
  }

  function edgeKey(i) {
    const { source, target } = app.data.edges[i].data;
    return [app.meta.edge_kinds[i], keyOf(source), keyOf(target)].join('~');
  }

  function idOf(key) {
    const node = key ? app.meta.keys.indexOf(key) : -1;
    return node < 0 ? null : `n${node}`;
  }

  const keyOf = (id) => app.meta.keys[Number(id.slice(1))];

  /** A node or edge was chosen in the picture. */
  function tapped(id) {
    if (!id) set('selection', null);
    else set('selection', id.startsWith('e') ? `edge.${app.meta.edge_index[Number(id.slice(1))]}` : keyOf(id));
  }

  /** Show a selection, wherever it was made; the node need not be in this graph. */
  function select(key) {
    if (!app.view || app.selected === key) return;
    app.selected = key;
    app.forgetTest();
    const isEdge = key?.startsWith('edge.') ?? false;
    const edge = isEdge ? app.meta.edge_index.indexOf(Number(key.slice(5))) : -1;
    app.view.select(isEdge ? `e${edge}` : idOf(key));
    app.address.change({ selected: isEdge ? (edge < 0 ? '' : edgeKey(edge)) : (key ?? '') });
  }

  /** Pins were changed in the picture. */
  function pinned(ids) {
    app.pins = ids;
    const keys = ids.map(keyOf);
    app.address.change({ pins: keys.join(',') });
    app.showWays();
    set('pins', keys);
  }

  function setPins(ids) {
    app.view.pin(ids);
    pinned(ids);
  }

  function togglePin(key) {
    const id = idOf(key);
    if (!id) return;
    setPins(app.pins.includes(id) ? app.pins.filter((one) => one !== id) : [...app.pins, id]);
  }

  function startFrom(key) {
    const start = app.meta.starts[app.meta.keys.indexOf(key)];
    if (start && !app.root().hasAttribute('data-file')) app.address.change({ start, selected: '' });
  }

  let quiet = null;

  /** The slider rests: its level goes into the address. */
  function keepLevel(level) {
    app.holdAgainst();
    app.markTest();
    clearTimeout(quiet);
    quiet = setTimeout(() => app.address.change({ keep: level === app.meta.level ? '' : String(level) }), QUIET_MS);
  }

  // Dash passes Cytoscape's own default on, and Cytoscape warns of every value it is given.
  document.addEventListener('DOMContentLoaded', () => { delete window.dash_cytoscape?.Cytoscape.defaultProps?.wheelSensitivity; });

  Object.assign(app, { togglePin, startFrom });
  window.dash_clientside = Object.assign(window.dash_clientside ?? {}, {
    flowgraph: { ...window.dash_clientside?.flowgraph, attach, fill, select },
  });
})();
