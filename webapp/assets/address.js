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

  app.address = { defaults, read, written, change, go, runKey, pictureKey };
  app.root = root;
})();
