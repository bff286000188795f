"""What can go wrong between a page and the model, besides what flowgraph itself refuses; named by what happened."""

from __future__ import annotations

from flowgraph.errors import FlowgraphError


class Cancelled(FlowgraphError):  # noqa: N818
    """The question was taken back before it was answered."""


class Busy(FlowgraphError):  # noqa: N818
    """As many questions are waiting as the queue takes; the message says how many."""


class NotYet(FlowgraphError):  # noqa: N818
    """What is to be taken away has not been computed; the message says what to run first."""


class TimedOut(FlowgraphError):  # noqa: N818
    """The answer took longer than the service allows; the run was cancelled."""


class WorkerDied(FlowgraphError):  # noqa: N818
    """The process that holds the model ended in the middle of a run, twice."""


class Closed(FlowgraphError):  # noqa: N818
    """The service was closed, and answers no more."""


class InternalError(FlowgraphError):
    """A fault of the program; the message has a reference, the log of the server under it the details."""


__all__ = ["Busy", "Cancelled", "Closed", "InternalError", "NotYet", "TimedOut", "WorkerDied"]
