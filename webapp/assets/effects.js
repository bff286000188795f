/* Tests by intervention: ask for one, stop it, and put it away when it no longer speaks of what is shown. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const tab = crypto.getRandomValues(new Uint32Array(2)).join('-');
  let runs = 0;
  let last = null;
  let measured = null;

  const shownEdges = () => app.cy.edges().not('.off').not('.scaffold').length;

  /** What was measured of the whole picture speaks of the edges that it showed then. */
  function markTest() {
    const isStale = measured !== null && measured !== shownEdges();
    document.querySelector('[data-show=stale]').textContent = isStale
      ? `Measured with ${measured.toLocaleString('en')} edges shown; now there are ${shownEdges().toLocaleString('en')}. Test again for these.` : '';
    app.root().toggleAttribute('data-stale', isStale);
  }

  function test(button) {
    measured = button.dataset.test === 'graph' ? shownEdges() : null;
    markTest();
    runs += 1;
    const id = `test-${tab}-${runs}`;
    const data = { id, previous: last, search: window.location.search, what: button.dataset.test };
    app.tell({ test: data });
    last = id;
  }

  /** Another selection, another graph: a ticket without a question takes the last one back. */
  function forgetTest() {
    measured = null;
    markTest();
    if (!last) return;
    app.tell({ test: { id: null, previous: last, search: '', what: null } });
    last = null;
  }

  Object.assign(app, { test, forgetTest, markTest });
})();
