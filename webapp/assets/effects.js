/* Tests by intervention: ask for one, stop it, and put it away when it no longer speaks of what is shown. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const tickets = app.tickets('test');
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
    app.tell({ test: tickets.next({ search: window.location.search, what: button.dataset.test }) });
  }

  /** Another selection, another graph: a ticket without a question takes the last one back. */
  function forgetTest() {
    measured = null;
    markTest();
    const previous = tickets.drop();
    if (previous) app.tell({ test: { id: null, previous, search: '', what: null } });
  }

  Object.assign(app, { test, forgetTest, markTest });
})();
