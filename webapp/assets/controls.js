/* Between controls and the address: clientside callbacks, each of which changes what was touched. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const touched = () => app.triggered().map(({ prop_id: name }) => name.split('.')[0]);
  const OF_FLOW = new Set(['method', 'show', 'level', 'heads_in', 'threshold', 'layers', 'position']);
  const BEHIND_MS = 300;
  const tickets = app.tickets('run');
  let drawn = null;
  let behind = null;

  /** Settings of panels, `{ id, field, usual }`: controls whose value is the field of the address. */
  const settings = () => JSON.parse(app.root().dataset.settings).map(([id, field, usual]) => ({ id, field, usual }));
  const isLate = ({ usual }) => usual === 'first' || usual === 'last';

  /** What the controls show for an address. A choice that does not exist is left as it is: the server says so when it draws. */
  function restore(search, ...offered) {
    const said = { ...app.address.defaults(), ...app.address.read(search) };
    const choices = JSON.parse(app.root().dataset.choices);
    const chosen = (name) => (said[name] && choices[name].includes(said[name]) ? said[name] : app.keep());
    const own = settings();
    const late = own.filter(isLate);
    const values = own.filter(({ usual }) => usual !== 'window').map((one) => {
      if (one.usual !== 'last') return chosen(one.field);
      const choices = offered[late.indexOf(one)] ?? [];
      return choices.length ? Number(said[one.field] === '' ? choices.at(-1).value : said[one.field]) : app.keep();
    });
    return [
      search ? said.model : app.root().dataset.model,
      said.text,
      said.chat === '1' ? ['chat'] : [],
      Number(said.threshold) || null,
      said.heads_in.split(',').filter(Boolean).join(', '),
      said.position === '' ? null : Number(said.position),
      ...['method', 'show', 'level', 'width', 'orientation'].map(chosen),
      ...values,
    ];
  }

  /** A new ticket when the address asks for another picture; without a prompt there is none to draw. */
  function ticket(search) {
    app.root().toggleAttribute('data-empty', !app.address.read(search).text);
    if (!app.address.read(search).text) {
      tickets.drop();
      drawn = null;
      return null;
    }
    const key = app.address.pictureKey(search);
    return drawn === key ? app.keep() : issue(search, key);
  }

  function issue(search, key) {
    drawn = key;
    return tickets.next({ search, run: app.address.runKey(search) });
  }

  /** Run the prompt as the controls stand; what was said about the former prompt is left behind. */
  function trace(_clicks, text, model, chat, method, show, level, headsIn, threshold, position) {
    if (!touched().length) return app.keep();
    if (!text) {
      document.getElementById('prompt').focus();
      return app.keep();
    }
    if (!model) {
      app.refuse('No model is chosen. Choose one beside the prompt, then press Trace.');
      return app.keep();
    }
    const values = app.address.read();
    const { width = '', orientation = '', tab: panel = '', fill = '' } = values;
    // A position is that of one prompt: another prompt is explained at its own.
    const at = !values.text || values.text === text ? String(position ?? '') : '';
    const chosen = { model, text, chat: chat.length ? '1' : '0', position: at, method, show, level, heads_in: listed(headsIn), threshold: String(threshold ?? '') };
    const search = app.address.written({ ...chosen, width, orientation, tab: panel, fill });
    const isSame = values.text && app.address.pictureKey(search) === app.address.pictureKey(window.location.search);
    if (!isSame) app.address.go(search);
    fold();
    // The same question once more: after an error or a cancelled run.
    return isSame ? issue(window.location.search, app.address.pictureKey(window.location.search)) : app.keep();
  }

  /** The open prompt box lies over the page: it closes when what stands in it is asked for, answered or refused. */
  function fold() {
    const box = document.getElementById('prompt');
    if (document.activeElement !== box || box.value !== app.address.read().text) return;
    document.getElementById('stage').focus({ preventScroll: true });
  }

  /** What a setting shows when the address says nothing of it: of such a value, nothing is written. */
  function implied({ usual }, layers, choices) {
    if (usual === 'first') return choices?.[0]?.value ?? '';
    if (usual === 'last') return String(layers - 1);
    if (usual !== 'window') return undefined;
    const shown = app.address.read().layer ?? String(layers - 1);
    return `${shown},${Number(shown) + 1}`;
  }

  function choose(method, show, level, headsIn, threshold, position, width, orientation, shown, ...rest) {
    const own = settings();
    const [given, layers, offered] = [rest.slice(0, own.length), rest[own.length], rest.slice(own.length + 1)];
    const late = own.filter(isLate);
    const values = {
      method, show, level, heads_in: listed(headsIn), threshold: threshold ?? '', position: position ?? '', width, orientation, layers: shown.join(','),
    };
    const usual = { layers: `0,${layers}` };
    showWindow('layers', shown);
    own.forEach((one, i) => {
      if (one.usual === 'window') showWindow(one.field, given[i]);
      values[one.field] = [given[i] ?? ''].flat().join(',');
      usual[one.field] = implied(one, layers, offered[late.indexOf(one)]);
    });
    const changed = touched().map((name) => name.replace('-', '_')).filter((name) => name in values);
    const written = changed.map((name) => [name, String(values[name]) === usual[name] ? '' : String(values[name])]);
    const now = app.address.read();
    if (!now.text || !written.length) return;
    // Another position has answers of its own.
    if (changed.includes('position') && String(position ?? '') !== (now.position ?? '')) written.push(['target', ''], ['foil', ''], ['start', '']);
    app.address.change({ ...Object.fromEntries(written), ...(app.shownCircuit() && written.some((one) => isOfFlow(one, now)) ? app.flowOnly : {}) });
    if (changed.includes('width')) app.view?.setWidth(width);
    if (changed.includes('orientation')) app.view?.setOrientation(orientation);
  }

  /** Whether a control of the flow graph was really set: then a circuit makes room for that graph. */
  function isOfFlow([name, value], now) {
    const usual = app.address.defaults()[name] ?? '';
    return OF_FLOW.has(name) && (value || usual) !== (now[name] || usual);
  }

  /** Layers as people write them, `21, 23` or `20-24`, as the address has them; what cannot be read is left for the server to refuse. */
  function listed(text) {
    const parts = (text ?? '').split(/[\s,;]+/).filter(Boolean);
    return parts.flatMap((part) => {
      const [, first, last] = /^L?(\d{1,4})[-–]L?(\d{1,4})$/i.exec(part) ?? [];
      if (!first || Number(last) < Number(first)) return part.replace(/^L(?=\d+$)/i, '');
      return Array.from({ length: Number(last) - Number(first) + 1 }, (_, n) => Number(first) + n);
    }).join(',');
  }

  /** A click on a layer beside the picture opens it into its heads, or puts these together again. */
  function toggleHeads(label) {
    const layer = label.textContent.slice(1);
    if (app.shownCircuit()) return;
    const opened = (app.address.read().heads_in ?? '').split(',').filter(Boolean);
    const others = opened.filter((one) => one !== layer);
    const now = others.length < opened.length ? others : [...opened, layer].sort((a, b) => a - b);
    app.address.change({ heads_in: now.join(','), selected: '' });
  }

  function showWindow(what, [first, stop]) {
    const text = stop - first === 1 ? `layer ${first}` : `layers ${first} to ${stop - 1}`;
    document.querySelector(`[data-show=${what}]`).textContent = app.view ? text : '';
  }

  /** Which panel to fetch; the run must have been drawn before. */
  function panel(search, run) {
    const values = app.address.read(search);
    markTabs(values.tab ?? '');
    if (!values.tab) return null;
    if (!run || run.key !== app.address.runKey(search)) {
      // What stands there belongs to the picture that is still shown; under another tab it would say something false.
      if (app.panel?.tab === values.tab) return app.keep();
      app.panel = null;
      return null;
    }
    const options = (JSON.parse(app.root().dataset.panels)[values.tab] ?? []).map((name) => values[name] ?? '');
    const key = JSON.stringify([values.tab, run.key, ...options]);
    if (app.panel?.key === key) return app.keep();
    app.panel = { tab: values.tab, search, key, first: null };
    return app.panel;
  }

  /** The closed prompt box has one line, and says how many it does not show. */
  function countLines() {
    const box = document.getElementById('prompt');
    const more = box.value.trimEnd().split('\n').length - 1;
    const said = more > 0 ? `+ ${more} line${more === 1 ? '' : 's'}` : '';
    if (said) box.parentElement.dataset.more = said;
    else delete box.parentElement.dataset.more;
  }

  /** What the page says where the picture is not that of the address, and what its model can be asked. */
  function settle(search, run) {
    const isBehind = Boolean(run && app.address.read(search).text && run.key !== app.address.runKey(search));
    clearTimeout(behind);
    // A run that has just been asked for is not behind.
    behind = setTimeout(() => app.root().toggleAttribute('data-behind', isBehind), isBehind ? BEHIND_MS : 0);
    app.root().toggleAttribute('data-fixed', run?.goes_on === false || run?.asks === false);
    app.root().toggleAttribute('data-unasked', run?.asks === false);
    app.root().toggleAttribute('data-file', Boolean(run?.file));
    app.root().toggleAttribute('data-no-text', run?.text === false);
    offerPanels(run?.panels);
    offerMethods(run?.lacks ?? []);
    app.root().toggleAttribute('data-parts', Boolean(run?.parts));
    const drawn = run ? Object.fromEntries(JSON.parse(run.key)).text : '';
    document.querySelector('[data-show=behind]').textContent = isBehind ? `Shown is the last picture, of “${shortened(drawn)}”. What is asked for now was not traced.` : '';
  }

  /** What the library refuses of the model is not offered. */
  function offerMethods(lacks) {
    app.root().toggleAttribute('data-circuitless', lacks.includes('circuit'));
    app.root().toggleAttribute('data-taskless', lacks.includes('task'));
    for (const option of document.querySelectorAll('#method .method')) {
      (option.closest('label') ?? option).hidden = lacks.includes(option.firstElementChild.textContent);
    }
  }

  /** Panels, and their numbers as files, of which nothing was recorded and no model can be asked, are not offered. */
  function offerPanels(panels) {
    const isOffered = (name) => !panels || panels.includes(name);
    for (const tab of document.querySelectorAll('[role=tab]')) tab.hidden = !isOffered(tab.dataset.tab);
    for (const link of document.querySelectorAll('.panel-files [data-export]')) link.parentElement.hidden = !isOffered(link.dataset.export.replace('.csv', ''));
    app.root().toggleAttribute('data-panelless', panels?.length === 0);
  }

  function shortened(text) {
    const line = text.replace(/\s+/g, ' ').trim();
    return line.length > 60 ? `${line.slice(0, 59)}…` : line;
  }

  function markTabs(open) {
    if (!open) app.panel = null;
    const before = app.root().dataset.panel ?? '';
    app.root().dataset.panel = open;
    for (const button of document.querySelectorAll('[role=tab]')) {
      button.setAttribute('aria-selected', String(button.dataset.tab === open));
    }
    if (open && !before) document.querySelector('.panel').scrollIntoView({ block: 'start' });
  }

  /** A field of the recipe that a panel has changed. */
  function setting(_said, shown) {
    const [last] = app.triggered().map((one) => one.value).filter(Boolean).slice(-1);
    if (!last) return app.keep();
    // Which part of a long lens is shown is no part of the address.
    if (last.name === 'first') return { ...shown, first: last.value };
    app.address.change({ [last.name]: [last.value].flat().join(',') });
    return app.keep();
  }

  Object.assign(app, { toggleHeads });
  app.offer({ restore, ticket, trace, fold, countLines, choose, panel, settle, setting });
})();
