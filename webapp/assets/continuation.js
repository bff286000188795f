/* The model goes on: ask for a continuation, and make one of its tokens the one that is explained. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const { keep } = app;
  const tickets = app.tickets('continuation');

  /** Ask for more tokens of the prompt that was traced. */
  function goOn(_clicks, _submits, count) {
    if (!app.triggered().length) return keep();
    if (!app.address.read().text) {
      document.getElementById('prompt').focus();
      return keep();
    }
    return tickets.next({ search: window.location.search, count: count ?? 0 });
  }

  /** The run becomes the text before a token, and the token its target; what was said about the former run is left behind. */
  function explain(button) {
    const { grown, aim } = button.dataset;
    const left = Object.fromEntries(['chat', 'example', 'position', 'foil', 'start', 'selected', 'pins', 'keep', 'heads'].map((name) => [name, '']));
    app.address.change({ ...left, ...app.flowOnly, text: grown, target: aim });
  }

  /** From the text with its template to what was written. */
  function explainWritten(button) {
    const left = Object.fromEntries(['example', 'position', 'target', 'foil', 'start', 'selected', 'pins', 'keep', 'heads'].map((name) => [name, '']));
    app.address.change({ ...left, ...app.flowOnly, text: button.dataset.written, chat: '1' });
  }

  /** Mark the token that is explained. A continuation of another text is put away. */
  function markGrown() {
    const row = document.querySelector('[data-base]');
    if (!row) return keep();
    const { text, target = '', model } = app.address.read();
    const tokens = [...row.querySelectorAll('[data-grown]')];
    const isOurs = model === row.dataset.model && [row.dataset.base, ...tokens.map((one) => one.dataset.grown)].includes(text);
    row.toggleAttribute('data-grown-from', text !== row.dataset.base);
    for (const one of tokens) {
      const isExplained = one.dataset.grown === text && ['', one.dataset.aim].includes(target);
      one.setAttribute('aria-pressed', String(isExplained));
    }
    return isOurs ? keep() : null;
  }

  Object.assign(app, { explainGrown: explain, explainWritten });
  app.offer({ goOn, markGrown });
})();
