/* Light, dark or print: kept on this machine, and set before anything is drawn. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const THEMES = ['light', 'dark', 'print'];
  const KEY = 'flowgraph-theme';

  function stored() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;  // the browser keeps nothing for this page
    }
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    applyTheme();
  }

  /** The page's root carries the theme of the picture; print is light. */
  function applyTheme() {
    const root = document.getElementById('app');
    if (root) root.dataset.theme = app.pictureTheme();
    app.view?.setTheme(app.pictureTheme());
  }

  function nextTheme() {
    const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    setTheme(theme);
    app.say(`${theme} theme`);
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // the choice then lasts as long as the page
    }
  }

  let onScreen = null;

  // Heard before the picture's own: paper is light.
  addEventListener('beforeprint', () => {
    onScreen ??= document.documentElement.dataset.theme;
    setTheme('print');
  });
  addEventListener('afterprint', () => {
    if (onScreen) setTheme(onScreen);
    onScreen = null;
  });
  app.pictureTheme = () => (document.documentElement.dataset.theme === 'dark' ? 'dark' : 'light');
  app.nextTheme = nextTheme;
  app.applyTheme = applyTheme;
  const wish = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
  setTheme(THEMES.includes(stored()) ? stored() : wish);
  new MutationObserver((_, watch) => {
    if (!document.getElementById('app')) return;
    watch.disconnect();
    applyTheme();
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
