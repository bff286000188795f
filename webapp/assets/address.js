/* The address is the state: everything that is chosen is read from it and written to it. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const SAFE = /%2C|%40|%2F|%3A/g;

  const root = () => document.getElementById('app');
  const fieldNames = (list) => new Set(root().dataset[list].split(' '));
  const defaults = () => JSON.parse(root().dataset.defaults);

  /** What an address says. One without a model was written for the default, and says it from now on. */
  function read(search = window.location.search) {
    const said = Object.fromEntries(new URLSearchParams(search));
    return said.text ? { model: defaults().model, ...said } : said;
  }

  /** What differs from the defaults, and the model; an open panel is said even if it is the first. */
  function written(values) {
    const usual = defaults();
    const said = Object.entries(values).filter(([name, value]) => value !== '' && (value !== usual[name] || ['tab', 'model'].includes(name)));
    const pairs = said.map(([name, value]) => `${name}=${encodeURIComponent(value).replace(SAFE, decodeURIComponent)}`);
    return pairs.length ? `?${pairs.join('&')}` : '';
  }

  /** Change some fields. Looks leave no step behind to go back over; everything else does, and the server hears of it. */
  function change(values) {
    const silent = fieldNames('silent');
    go(written({ ...read(), ...values }), Object.keys(values).every((name) => silent.has(name)));
  }

  function go(search, isSilent = false) {
    if (search === window.location.search) return;
    const address = window.location.pathname + search;
    if (isSilent) {
      window.history.replaceState({}, '', address);
      return;
    }
    window.history.pushState({}, '', address);
    window.dispatchEvent(new PopStateEvent('popstate'));
  }

  function key(search, isMeant) {
    const values = read(search);
    return JSON.stringify(Object.keys(values).filter(isMeant).sort().map((name) => [name, values[name]]));
  }

  const RUN_FIELDS = new Set(['model', 'text', 'chat', 'position', 'target', 'foil', 'session']);

  /** Two addresses with the same key are about the same pass of the model. */
  const runKey = (search) => key(search, (name) => RUN_FIELDS.has(name));

  /** Two addresses with the same key have the same picture. */
  function pictureKey(search) {
    const view = fieldNames('view');
    return key(search, (name) => !view.has(name) && name !== 'example');
  }

  /** What the controls show for an address. A choice that does not exist is left as it is: the server says so when it draws. */
  function restore(search, layers) {
    const said = { ...defaults(), ...read(search) };
    const [choices, keep] = [JSON.parse(root().dataset.choices), window.dash_clientside.no_update];
    const chosen = (name) => (choices[name].includes(said[name]) ? said[name] : keep);
    const count = layers?.length ?? 0;
    return [
      search ? said.model : root().dataset.model,
      said.text,
      said.chat === '1' ? ['chat'] : [],
      Number(said.threshold) || null,
      said.heads_in.split(',').filter(Boolean).join(', '),
      said.position === '' ? null : Number(said.position),
      ...['method', 'show', 'level', 'width', 'orientation', 'fill'].map(chosen),
      count ? Number(said.layer === '' ? count - 1 : said.layer) : keep,
      choices.score.includes(said.score) ? said.score : keep,
    ];
  }

  app.address = { read, written, change, go, runKey, pictureKey };
  app.root = root;
  window.dash_clientside = Object.assign(window.dash_clientside ?? {}, {
    flowgraph: { ...window.dash_clientside?.flowgraph, restore },
  });
})();
