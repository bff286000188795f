/* Circuits: propose a corrupted prompt, ask for a search, and show what it found where nobody has gone on meanwhile. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const { keep } = app;
  const tickets = app.tickets('find');
  const form = () => document.getElementById('finder');
  const FLOW = { circuit: '', corrupted: '', task: '', prompts: '', budget: '', selected: '', pins: '', keep: '' };
  let about = null;
  let written = null;

  /** How the circuit was searched that the address shows; empty where it shows a flow graph. */
  function shownCircuit(search) {
    const { circuit = '' } = app.address.read(search);
    return circuit === 'none' ? '' : circuit;
  }

  /** Search with what the form says. */
  function find(_clicks, task, corrupted, answer, against, prompts, circuit, budget) {
    if (!app.triggered().length || !app.address.read().text) return keep();
    const asked = { task, corrupted: corrupted ?? '', answer: answer ?? '', against: against ?? '', prompts: prompts ?? 0, circuit, budget: budget ?? null };
    return tickets.next({ search: window.location.search, form: asked });
  }

  /** Show a circuit that was found, unless another picture is looked at by now: then its button does. */
  function showFound(found, ticket) {
    if (found && app.address.pictureKey(ticket.search) === app.address.pictureKey(window.location.search)) app.address.go(found);
  }

  /** A node of the map: show the circuit with it. */
  function openFound(node) {
    const shown = document.querySelector('#found [data-go]')?.dataset.go;
    if (!node || !shown) return;
    if (app.address.pictureKey(shown) === app.address.pictureKey(window.location.search)) app.tell({ selected: node.key });
    else app.address.go(`${shown}&selected=${node.key}`);
  }

  function chooseTask(task) {
    form().dataset.source = task;
  }

  /** The prompt of the address, whatever is explained of it. */
  function prompt() {
    const { model = '', text = '', chat = '' } = app.address.read();
    return text && JSON.stringify([model, text, chat]);
  }

  /** A counterpart for the prompt of the address, once for each. */
  function propose() {
    if (!form().open || about || !prompt()) return;
    about = prompt();
    app.tell({ proposal: { search: window.location.search } });
  }

  /** Another picture is drawn: a circuit has its form, and what was written for another prompt no longer fits. */
  function aboutPicture() {
    const circuit = shownCircuit();
    app.root().toggleAttribute('data-circuit', Boolean(circuit));
    offerFound();
    if (circuit) {
      form().open = true;
      about = prompt();
      written = restored();
    } else if (about !== prompt()) {
      about = null;
      written = [keep(), '', keep(), keep(), keep(), null];
      propose();
    }
  }

  /** The form as the search of this address was asked for: task, corrupted text, prompts, method, budget; what was proposed stays. */
  function restored() {
    const { corrupted = '', task = 'none', prompts = '8', circuit, budget } = app.address.read();
    return [task, corrupted, Number(prompts), circuit, budget ? Number(budget) : null, keep()];
  }

  /** What the picture that was drawn writes into the form, once. */
  function fillForm() {
    const said = written ?? Array(6).fill(keep());
    written = null;
    return said;
  }

  /** What is shown already needs no button that shows it. */
  function offerFound() {
    for (const button of document.querySelectorAll('[data-go]')) {
      button.hidden = app.address.pictureKey(button.dataset.go) === app.address.pictureKey(window.location.search);
    }
  }

  document.addEventListener('toggle', (event) => {
    if (event.target.id === 'finder') propose();
  }, true);

  // Dash passes Cytoscape's own default on, and Cytoscape warns of every value it is given.
  delete window.dash_cytoscape.Cytoscape.defaultProps?.wheelSensitivity;

  Object.assign(app, { aboutPicture, shownCircuit, leaveCircuit: () => app.address.change(FLOW), flowOnly: FLOW });
  app.offer({ fillForm, find, showFound, openFound, chooseTask });
})();
