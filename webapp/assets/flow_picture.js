/* FlowPicture: a Dash component that shows a graph, tells what is chosen in it, and keeps selection and pins in the address.

It draws with flowgraph's own page scripts: hover, keys, pins and axes that follow the picture need what no property of
dash-cytoscape's component gives. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const { createElement, useEffect } = window.React;
  const QUIET_MS = 150;

  function FlowPicture({ id, data, readings, writers, kept, curve, selected = null, setProps }) {
    useEffect(() => { app.tell = setProps; });
    useEffect(() => (data ? inTwoFrames(() => attach(data)) : undefined), [data]);
    useEffect(() => detach, []);
    useEffect(() => fill(readings), [readings]);
    useEffect(() => { if (writers) app.holdAgainst(writers); }, [writers]);
    useEffect(() => { if (kept) app.showKept(kept); }, [kept]);
    useEffect(() => { if (curve) app.showCurve(curve); }, [curve]);
    useEffect(() => select(selected), [selected]);
    return createElement('div', { id, className: 'picture', 'data-part': 'picture' });
  }

  /** What came with the picture changes the room that there is for it, when it is laid out. */
  function inTwoFrames(act) {
    let frame = requestAnimationFrame(() => { frame = requestAnimationFrame(act); });
    return () => cancelAnimationFrame(frame);
  }

  function detach() {
    app.view?.destroy();
    Object.assign(app, { view: null, cy: null });
  }

  /** Mount the page scripts on a graph; the picture before stands until then. */
  function attach(given) {
    detach();
    // Words that come late are put into these.
    const data = { ...given, readings: [...given.readings], vocabulary: [...given.vocabulary] };
    app.applyTheme();
    // Dash's input takes no attribute of ours.
    document.getElementById('search').dataset.part = 'search';
    Object.assign(app, { data, meta: data, pins: [], selected: null });
    app.view = window.flowgraph.flow.mount(app.root(), data, {
      select: tapped, pin: pinned, level: keepLevel, open: (id) => id.startsWith('n') && startFrom(keyOf(id)),
    });
    app.cy = app.view.cy;
    app.holdAgainst();
    app.forgetTest();
    app.forgetCurve();
    app.aboutPicture();
    showAddress();
    nameLayers();
    nameNumbers();
    app.root().dataset.drawn = data.picture;
    // Not before the picture is seen: reading the rest takes the processor that draws it.
    inTwoFrames(() => app.tell({ drawn: data.picture }));
  }

  /** Words of nodes that no colour needs come after the picture. */
  function fill(found) {
    if (!found || found.picture !== app.data?.picture) return;
    for (const name of ['readings', 'vocabulary']) app.data[name].splice(0, Infinity, ...found[name]);
    app.root().dataset.read = found.picture;
  }

  /** Numbers of circuits and of pictures of parts are effects; these have one width. */
  function nameNumbers() {
    document.getElementById('keep-title').textContent = `Keep the strongest ${app.data.carried.short === 'effect' ? 'effects' : 'flow'}`;
    app.root().toggleAttribute('data-one-width', Boolean(app.data.parts));
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
    app.showKept();
    setPins((pins ?? '').split(',').map(idOf).filter(Boolean));
    const key = storedSelection(selected);
    app.tell({ selected: key });
    // Also where the same key was selected in the picture before.
    select(key);
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
    if (!id) app.tell({ selected: null });
    else app.tell({ selected: id.startsWith('e') ? `edge.${app.meta.edge_index[Number(id.slice(1))]}` : keyOf(id) });
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
    app.tell({ pins: keys });
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
    app.showKept();
    clearTimeout(quiet);
    quiet = setTimeout(() => app.address.change({ keep: level === app.meta.level ? '' : String(level) }), QUIET_MS);
  }

  Object.assign(app, { togglePin, startFrom });
  window.flowgraph_webapp = Object.assign(window.flowgraph_webapp ?? {}, { FlowPicture });
})();
