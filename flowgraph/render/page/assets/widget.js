/* The widget: the page mounted in a notebook's cell, its state kept in the model that the kernel shares. */

const { flow, semantic } = window.flowgraph;

/** As the notebook is, otherwise as the system. */
function surroundingTheme() {
  const { jpThemeLight, vscodeThemeKind } = document.body.dataset;
  if (jpThemeLight) return jpThemeLight === 'true' ? 'light' : 'dark';
  if (vscodeThemeKind) return vscodeThemeKind.includes('light') ? 'light' : 'dark';
  return matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
}

function render({ model, el }) {
  const { shell, data } = model.get('_page');
  const root = document.createElement('div');
  root.className = 'flowgraph compact';
  root.dataset.kind = data.kind;
  root.dataset.theme = surroundingTheme();
  root.innerHTML = shell;
  el.append(root);
  // What this view has just told the model, it need not hear again.
  let isTelling = false;
  const tell = (name) => (value) => {
    isTelling = true;
    model.set(name, value);
    isTelling = false;
    model.save_changes();
  };
  const mount = { flow, semantic }[data.kind].mount;
  const view = mount(root, data, {
    select: (id) => tell('selection')(endsOf(data, id)),
    pin: tell('pins'), level: tell('level'), width: tell('width'), theme: tell('theme'),
  });
  const follow = {
    height: (height) => root.style.setProperty('--height', `${height}px`),
    theme: (theme) => view.setTheme(theme === 'auto' ? surroundingTheme() : theme),
    level: view.setLevel,
    width: view.setWidth,
    pins: view.pin,
    selection: (ends) => view.select(idOf(data, ends)),
  };
  const heard = Object.entries(follow).map(([name, act]) => [`change:${name}`, () => { if (!isTelling) act(model.get(name)); }]);
  for (const [event, act] of heard) {
    model.on(event, act);
    act();
  }
  return () => {
    for (const [event, act] of heard) model.off(event, act);
    view.destroy();
    root.remove();
  };
}

/** A selected node as its id, a selected edge as those of its ends. */
function endsOf(data, id) {
  if (id === null) return [];
  if (id.startsWith('n')) return [id];
  const { source, target } = data.edges[Number(id.slice(1))].data;
  return [source, target];
}

function idOf({ edges }, ends) {
  if (ends.length < 2) return ends[0] ?? null;
  const [source, target] = ends;
  return edges.find(({ data }) => data.source === source && data.target === target)?.data.id ?? null;
}

export default { render };
