"""The trace of a run as a file, for the session that is saved with it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..session.container import LARGEST_TRACE
from .run import OfRun
from .traces import Check, Traces

if TYPE_CHECKING:
    from flowgraph import Trace


@dataclass(frozen=True)
class TraceFile:
    """What :meth:`flowgraph.Trace.save` writes; empty where it would be too large for a session. ``size``: bytes of its tensors."""

    data: bytes
    size: int


@dataclass(frozen=True)
class TraceFileQuestion(OfRun[TraceFile]):
    """The trace of a run, with what answers the page's questions without the model, as far as there is room for it.

    Attributes
    ----------
    run
        The pass.
    methods, readings
        What is recorded with it, see :meth:`flowgraph.Trace.record`.
    """

    methods: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    quick = True
    # As large as it may be, it would take the place of many answers.
    kept = False

    def answer(self, traces: Traces, check: Check) -> TraceFile:
        """The file, with what is recorded or else without."""
        trace = traces.trace(self.run, check)
        if trace.nbytes > LARGEST_TRACE:
            return TraceFile(b"", trace.nbytes)
        weights = {method: traces.weights(self.run, method, check) for method in self.methods}
        check("writing the trace", None)
        whole = replace(trace, recorded_weights=weights).record(readings=self.readings)
        files = (data for one in (whole, trace) if len(data := _file(one)) <= LARGEST_TRACE)
        return TraceFile(next(files, b""), trace.nbytes)


def _file(trace: Trace) -> bytes:
    with tempfile.TemporaryDirectory(prefix="flowgraph-") as folder:
        return trace.save(Path(folder) / "trace.safetensors").read_bytes()
