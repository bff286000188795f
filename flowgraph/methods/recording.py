"""Edge weights and readings that a trace keeps, so that they are saved with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..charts import rendering
from ..lenses.logit_lens import read_site
from ..values.trace import Trace
from .weigh import edge_weights


@rendering.record.register(Trace)
def record(trace: Trace, *, methods: Sequence[str] = (), readings: Sequence[str] = (), k: int = 10) -> Trace:
    """Compute edge weights and readings now; see :meth:`flowgraph.Trace.record`."""
    weights = {method: edge_weights(trace, method=method) for method in methods}
    read = {site: read_site(trace, site, k=k) for site in readings}
    return replace(
        trace,
        recorded_weights={**trace.recorded_weights, **weights},
        recorded_readings={**trace.recorded_readings, **read},
    )
