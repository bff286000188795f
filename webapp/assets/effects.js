/* Tests by intervention: ask for one, stop it, and put it away when it no longer speaks of what is shown. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const tickets = app.tickets('test');
  let measured = null;
  let given = null;
  /** Ticket → the picture that it tests, and the prompts that it names. */
  const asked = new Map();
  /** Picture and number of edges shown → what it keeps of the answer, as far as it was measured. */
  const kept = new Map();

  const shownEdges = () => app.cy.edges().not('.off').not('.scaffold').length;

  /** What was measured of the whole picture speaks of the edges that it showed then. */
  function markTest() {
    const isStale = measured !== null && measured !== shownEdges();
    document.querySelector('[data-show=stale]').textContent = isStale
      ? `Measured with ${measured.toLocaleString('en')} edges shown; now there are ${shownEdges().toLocaleString('en')}. Test again for these.` : '';
    app.root().toggleAttribute('data-stale', isStale);
  }

  const shownPicture = () => `${app.meta.picture} ${shownEdges()}`;

  /** The counterfactual prompts in the boxes of the last test; elsewhere those that were written for this run, if any were. */
  function promptsFor(button) {
    const run = app.address.runKey(window.location.search);
    const boxes = [...(button?.closest('#effect')?.querySelectorAll('[data-counterfactual]') ?? [])];
    if (boxes.length) {
      given = { run, prompts: boxes.map((box) => box.value.trim()).filter(Boolean) };
      app.forgetCurve();
    }
    return given?.run === run ? given.prompts : [];
  }

  function test(button) {
    const what = button.dataset.test;
    measured = what.startsWith('graph') ? shownEdges() : null;
    markTest();
    // The slider’s level comes into the address when it rests; the test is of what is seen.
    const level = Number(document.getElementById('keep').value);
    const keep = level === app.meta.level ? '' : String(level);
    const search = app.shownCircuit() ? window.location.search : app.address.written({ ...app.address.read(), keep });
    const corrupted = what === 'graph' ? promptsFor(button) : [];
    const ticket = tickets.next({ search, what, corrupted });
    asked.set(ticket.id, { picture: shownPicture(), keep, corrupted });
    app.tell({ test: ticket });
  }

  /** How much of the answer the picture keeps stands beside the slider while it is shown as it was tested. */
  function showKept(found) {
    if (found) kept.set(asked.get(found.ticket).picture, { ...asked.get(found.ticket), text: found.text });
    const said = app.cy ? kept.get(shownPicture()) : null;
    for (const place of document.querySelectorAll('[data-show=kept]')) place.textContent = said?.text ?? '';
  }

  /** The test of what is shown, for its files; null where it was not tested. */
  const shownTest = () => (app.cy && kept.get(shownPicture())) ?? null;

  /** Another selection, another graph: a ticket without a question takes the last one back. */
  function forgetTest() {
    measured = null;
    markTest();
    const previous = tickets.drop();
    if (previous) app.tell({ test: { id: null, previous, search: '', what: null, corrupted: [] } });
  }

  Object.assign(app, { test, forgetTest, markTest, showKept, shownTest, promptsFor });
})();
