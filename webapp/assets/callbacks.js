/* What the scripts that Dash calls have in common: their registration, what called them, and tickets of questions. */

(() => {
  'use strict';
  const app = (window.flowgraphApp ??= {});
  const tab = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join('');

  /** An output that stays as it is. */
  const keep = () => window.dash_clientside.no_update;

  /** What made Dash call, `{ prop_id, value }` of each; nothing when the page opens. */
  const triggered = () => window.dash_clientside.callback_context?.triggered ?? [];

  /** Let Dash call functions by their names. */
  function offer(functions) {
    window.dash_clientside = Object.assign(window.dash_clientside ?? {}, { flowgraph: { ...window.dash_clientside?.flowgraph, ...functions } });
  }

  /** Tickets of one kind of question: each takes the place of the last. */
  function tickets(kind) {
    let [count, last] = [0, null];
    return {
      next(said) {
        count += 1;
        const ticket = { id: `${kind}-${tab}-${count}`, previous: last, ...said };
        last = ticket.id;
        return ticket;
      },
      /** The id of the last, of which nobody wants to hear any more. */
      drop() {
        const dropped = last;
        last = null;
        return dropped;
      },
    };
  }

  Object.assign(app, { keep, triggered, offer, tickets });
})();
