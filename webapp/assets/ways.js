/* All ways between two pinned nodes, over the edges that are shown. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});

  /** Ids of everything that can be reached from a node: along the arrows, or against them. */
  function reached(from, next) {
    const found = new Set([from]);
    const waiting = [from];
    while (waiting.length) {
      for (const to of next.get(waiting.pop()) ?? []) {
        if (!found.has(to)) {
          found.add(to);
          waiting.push(to);
        }
      }
    }
    return found;
  }

  function neighbours(edges, from, to) {
    const next = new Map();
    for (const edge of edges) {
      if (!next.has(edge[from])) next.set(edge[from], []);
      next.get(edge[from]).push(edge[to]);
    }
    return next;
  }

  /** Edges on some way from one node to another. */
  function edgesBetween(edges, first, last) {
    const after = reached(first, neighbours(edges, 'source', 'target'));
    const before = reached(last, neighbours(edges, 'target', 'source'));
    return edges.filter((edge) => after.has(edge.source) && before.has(edge.target));
  }

  function showWays() {
    const { cy, pins = [] } = app;
    if (!cy) return;
    cy.batch(() => {
      cy.elements('.way').removeClass('way');
      if (pins.length !== 2) return;
      const shown = cy.edges().not('.off').not('.scaffold').map((edge) => ({ id: edge.id(), source: edge.data('source'), target: edge.data('target') }));
      const found = [edgesBetween(shown, ...pins), edgesBetween(shown, pins[1], pins[0])].flat();
      for (const edge of found) cy.$id(edge.id).addClass('way');
    });
  }

  app.edgesBetween = edgesBetween;
  app.showWays = showWays;
})();
