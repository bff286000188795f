/* Clicks and keys of the whole page, heard in one place each. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const DRAWERS = { 'left-drawer': 'left', 'right-drawer': 'right' };

  app.say = (text) => { document.querySelector('[data-part=live]').textContent = text; };

  /** What a click on an element with this selector does. */
  const CLICKS = [
    ['#theme', () => app.nextTheme()],
    ['#copy', copyLink],
    ['#help', toggleHelp],
    ['#left-drawer, #right-drawer', toggleDrawer],
    ['[data-export]', takeAway],
    ['.example', (link, event) => { event.preventDefault(); closeMenus(); app.address.go(link.getAttribute('href')); }],
    ['[data-token]', chooseToken],
    ['#stage .axis > span:not(.tick)', (label) => app.toggleHeads(label)],
    ['[data-test]', (button) => app.test(button)],
    ['#curve', () => app.toggleCurve()],
    ['[data-level]', (button) => app.slideTo(Number(button.dataset.level))],
    ['[data-grown]', (button) => app.explainGrown(button)],
    ['[data-written]', (button) => app.explainWritten(button)],
    ['[data-dismiss]', (button) => window.dash_clientside.set_props(button.dataset.dismiss, { children: null })],
    ['[data-tab]', (button) => app.address.change({ tab: button.getAttribute('aria-selected') === 'true' ? '' : button.dataset.tab })],
    ['[data-leave]', () => app.leaveCircuit()],
    ['[data-go]', (button) => app.address.go(button.dataset.go)],
    ['[data-start]', (button) => app.address.change({ start: button.dataset.start })],
    ['[id*=\'"type":"act"\']', act],
  ];

  function chooseToken(chip, event) {
    const id = chip.dataset.token;
    const { foil = '' } = app.address.read();
    const isFirst = chip === document.querySelector('[data-token]');
    const aims = event.shiftKey
      ? { foil: foil === id ? '' : id }
      : { target: isFirst ? '' : id, foil: foil === id ? '' : foil };
    // Another answer has another circuit, which nobody has asked for yet.
    app.address.change(app.shownCircuit() ? { ...aims, ...app.flowOnly } : aims);
  }

  /** Buttons of the details: pin, unpin, start. */
  function act(button) {
    const { act: wanted, node } = JSON.parse(button.id);
    if (wanted === 'start') app.startFrom(node);
    else app.togglePin(node);
  }

  /** The file of the view of the address, or why there is none; the panel's own link is that of the open one. */
  async function takeAway(link, event) {
    event.preventDefault();
    closeMenus();
    const name = link.dataset.export.replace(/^panel(?=\.csv$)/, app.address.read().tab ?? 'lens');
    let answer;
    try {
      answer = await fetch(`export/${name}${window.location.search}`, { headers: testHeader() });
    } catch {
      refuse('The file did not arrive. Look whether the server still runs, then export again.');
      return;
    }
    if (!answer.ok) {
      refuse(await answer.text());
      return;
    }
    const file = document.createElement('a');
    file.download = /filename="?([^";]+)/.exec(answer.headers.get('Content-Disposition'))?.[1] ?? name;
    file.href = URL.createObjectURL(await answer.blob());
    file.click();
    setTimeout(() => URL.revokeObjectURL(file.href), 60_000);
    const note = decodeURIComponent(answer.headers.get('Flowgraph-Note') ?? '');
    if (note) refuse(note, 'quiet');
  }

  /** What was measured of exactly the picture that is shown goes with its files. */
  function testHeader() {
    const test = app.shownTest();
    if (!test) return {};
    const said = { keep: test.keep === '' ? null : Number(test.keep), corrupted: test.corrupted };
    return { 'Flowgraph-Tested': encodeURIComponent(JSON.stringify(said)) };
  }

  async function copyLink() {
    try {
      await navigator.clipboard.writeText(window.location.href);
      app.say('link copied');
    } catch {
      app.say('the browser does not allow copying; take the address from its bar');
    }
    flash(document.getElementById('copy'));
  }

  function flash(button) {
    button.dataset.said = document.querySelector('[data-part=live]').textContent;
    setTimeout(() => delete button.dataset.said, 1600);
  }

  function toggleHelp() {
    const help = document.getElementById('help-text');
    help.hidden = !help.hidden;
    (help.hidden ? document.getElementById('help') : help).focus();
    document.getElementById('help').setAttribute('aria-expanded', String(!help.hidden));
  }

  function toggleDrawer(button) {
    const isOpen = app.root().toggleAttribute(`data-${DRAWERS[button.id]}`);
    button.setAttribute('aria-expanded', String(isOpen));
  }

  function closeMenus(except = null) {
    for (const one of document.querySelectorAll('details.menu[open]')) if (one !== except) one.open = false;
  }

  document.addEventListener('click', (event) => {
    closeMenus(event.target.closest('details.menu'));
    const found = CLICKS.find(([selector]) => event.target.closest(selector));
    if (found) found[1](event.target.closest(found[0]), event);
  });

  const isTyping = (target) => target.closest('input:not([type=range]):not([type=radio]):not([type=checkbox]), textarea, [contenteditable]');

  function pressAnywhere(event) {
    if ((event.ctrlKey || event.metaKey) && event.key === 'Enter') {
      document.getElementById('trace').click();
      return true;
    }
    if (event.key === 'Escape') {
      closeMenus();
      if (!document.getElementById('help-text').hidden) toggleHelp();
      return false;
    }
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.key === '/') document.getElementById('search').focus();
    else if (event.key === '?') toggleHelp();
    else if (event.key === 'f') app.view?.fit();
    else return false;
    return true;
  }

  /** Say beside the picture what did not work, or, quietly, what has to be known. */
  function refuse(why, tone = 'problem') {
    const made = (type, props) => ({ type, namespace: 'dash_html_components', props });
    const close = made('Button', { children: 'Dismiss', type: 'button', className: 'button small', 'data-dismiss': 'notice' });
    const children = [made('P', { children: why }), close];
    window.dash_clientside.set_props('notice', { children: made('Div', { className: `notice ${tone}`, children }) });
  }

  app.refuse = refuse;

  /** A file over the limit never reaches the server, so it is refused here. */
  document.addEventListener('change', ({ target }) => {
    const largest = Number(target.closest?.('[data-largest]')?.dataset.largest ?? Infinity);
    const size = target.files?.[0]?.size ?? 0;
    if (size <= largest) return;
    const [words, limit] = [`${(size / 2 ** 20).toFixed(0)} MiB`, `${largest / 2 ** 20} MiB`];
    refuse(`This file is too large. It has ${words}; a file that is opened here has at most ${limit}. A larger trace opens from the command line: flowgraph app FILE.`);
    closeMenus();
  }, true);

  document.addEventListener('keydown', (event) => {
    if (pressAnywhere(event)) event.preventDefault();
  });
})();
