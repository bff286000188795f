/* The largest parts of the logit, named under the picture; of those that it does not show, with the reason. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  let late = null;

  function isShown({ edges }) {
    return edges.some((edge) => !app.cy.$id(`e${edge}`).hasClass('off'));
  }

  function link({ name, key }) {
    const about = { type: 'button', class: 'link', title: `Details of ${name}`, click: () => app.tell({ selected: key }) };
    return window.flowgraph.element('button', about, name);
  }

  /** Said again whenever the slider moves: what it hides is no longer drawn. */
  function holdAgainst(found = late) {
    late = found;
    const line = document.querySelector('[data-show=writers]');
    const isMine = found && found.picture === app.meta?.picture;
    if (isMine) app.root().dataset.held = found.picture;
    const parts = isMine ? found.parts : [];
    line.replaceChildren(...parts.flatMap((one, i) => [
      i ? '; ' : `Largest parts ${found.about}: `, link(one), ` ${one.adds}`, isShown(one) ? '' : `, not drawn (${one.why || 'the slider hides it'})`,
    ]));
    if (isMine && found.failed) line.textContent = `Which parts add most to the logit is not known: ${found.failed}`;
    line.title = line.textContent;
  }

  app.holdAgainst = holdAgainst;
})();
