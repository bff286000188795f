/* What the slider's pictures keep of the answer, drawn over the slider: few sizes first, then more, then what chance keeps. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const tickets = app.tickets('curve');
  const GOAL = 0.8;
  /** Sizes, and pictures by chance at each. */
  const STAGES = [[8, 0], [40, 0], [40, 1]];
  const NAMESPACE = 'http://www.w3.org/2000/svg';
  let wanted = null;
  let stage = 0;

  const button = () => document.getElementById('curve');
  const place = () => document.querySelector('[data-show=curve]');
  const said = () => document.querySelector('[data-show=curve-said]');

  function ask(which) {
    stage = which;
    const [points, random] = STAGES[stage];
    wanted = tickets.next({ search: window.location.search, corrupted: app.promptsFor(), points, random });
    name('Stop measuring');
    app.tell({ curve_wanted: wanted });
  }

  function name(text) {
    button().textContent = text;
  }

  /** What is open is taken back; what was drawn stays. */
  function stop() {
    const previous = wanted && tickets.drop();
    wanted = null;
    name('What each level keeps');
    if (previous) app.tell({ curve_wanted: { id: previous, previous, search: '', corrupted: [], points: 0, random: 0 } });
  }

  function toggleCurve() {
    if (wanted) stop();
    else {
      said().textContent = 'Measuring pictures of eight sizes …';
      ask(0);
    }
  }

  /** Another picture has another curve. */
  function forgetCurve() {
    stop();
    place().replaceChildren();
    said().replaceChildren();
  }

  function showCurve(found) {
    if (found.ticket !== wanted?.id) return;
    if (found.problem) {
      said().textContent = found.problem;
      stop();
      return;
    }
    draw(found);
    say(found);
    if (stage + 1 < STAGES.length) ask(stage + 1);
    else stop();
  }

  function line(levels, values, top, kind) {
    const path = document.createElementNS(NAMESPACE, 'path');
    const at = (n) => `${levels[n]} ${(100 - (100 * Math.max(0, values[n])) / top).toFixed(1)}`;
    path.setAttribute('d', `M${values.map((_, n) => at(n)).join('L')}`);
    path.setAttribute('class', kind);
    return path;
  }

  /** Over the slider, on its scale; what keeps less than nothing lies on the ground. */
  function draw({ levels, f, random }) {
    const top = Math.max(1, ...f) * 1.05;
    const svg = document.createElementNS(NAMESPACE, 'svg');
    svg.setAttribute('viewBox', '0 0 1000 100');
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', `Kept of the answer: ${levels.map((level, n) => `${percent(f[n])} at level ${level}`).join(', ')}`);
    svg.append(line([0, 1000], [1, 1], top, 'whole'), line([0, 1000], [GOAL, GOAL], top, 'goal'), line(levels, f, top, 'kept'));
    if (random.length) svg.append(line(levels, random, top, 'random'));
    place().replaceChildren(svg);
  }

  const percent = (part) => `${Math.round(100 * part)}\u00a0%`.replace('-', '−');

  function say({ levels, edges, f, random, against }) {
    const first = f.findIndex((one) => one >= GOAL);
    const best = Math.max(...f);
    const made = first < 0
      ? [`None of ${f.length} pictures keeps 80\u00a0% of the answer against ${against}; the most is ${percent(best)}.`]
      : [window.flowgraph.element('button', { type: 'button', class: 'link', 'data-level': String(levels[first]), title: 'Set the slider to the smallest of the measured pictures that keeps 80 % of the answer' },
        `${edges[first].toLocaleString('en')} edges`), ` keep 80\u00a0% of the answer against ${against}: the fewest of ${f.length} sizes.`];
    if (random.length) made.push(` Random pictures keep at most ${percent(Math.max(...random))}.`);
    said().replaceChildren(...made);
  }

  /** As if the slider had been moved there. */
  function slideTo(level) {
    const slider = document.getElementById('keep');
    slider.value = level;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
  }

  Object.assign(app, { toggleCurve, forgetCurve, showCurve, slideTo });
})();
