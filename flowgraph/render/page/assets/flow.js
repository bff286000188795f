/* Flow graphs: what mountPage() needs of them. */

function startFlow(page) {
  const { data } = page;
  page.wanted = 'auto';
  page.keep = partOf(page, 'keep');
  mark(page, page.root, 'signed', data.signed);
  createPicture(page, [0.25, 8]);
  page.filter = createFilter(page.cy, data);
  page.axes = createAxes(page);
  createScaffold(page);
  fillEdges(page);
  setLevel(page, data.level);
  hear(page, 'zoom', () => showNearLabels(page));
  watchControls(page);
}

function watchControls(page) {
  listen(page, page.keep, 'input', () => moveLevel(page, Number(page.keep.value)));
  const watch = (choice, act) => {
    for (const button of page.root.querySelectorAll(`[data-choice="${choice}"]`)) {
      listen(page, button, 'change', () => {
        act(page, button.value);
        tell(page, choice, button.value);
      });
    }
  };
  watch('width', setWidth);
  watch('orientation', setOrientation);
}

const FLOW = {
  start: startFlow, arrange, fit: fitPicture, setLevel, setWidth, setOrientation,
  lift: liftShown, tipPlace, nodeTip, edgeTip, opening, nodeDetails, edgeDetails, nextNode, acts: {},
};

flowgraph.flow = { mount: (root, data, options) => mountPage(FLOW, root, data, options) };
