"""Check of a function's first arguments against their classes, so that an error names the wrong one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from ..errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R")

_MADE_BY = {
    "Trace": "flowgraph.trace(model, text) makes one",
    "FlowGraph": "flowgraph.build_graph(trace) makes one, FlowGraph.load(path) and flowgraph.import_graph(path) read one",
    "GraphColumns": "flowgraph.build_graph(trace) makes a graph, FlowGraph.load(path) and flowgraph.import_graph(path) read one",
    "EdgeWeights": "flowgraph.edge_weights(trace) makes one",
    "Reading": "flowgraph.logit_lens(trace) and flowgraph.read(trace, vectors) make one",
    "TokenMatrix": "flowgraph.attention_rollout(trace) and flowgraph.norm_map(trace) make one",
    "HeadScores": "flowgraph.head_scores(trace) makes one",
    "Trajectory": "flowgraph.trajectory(trace) makes one",
    "NormFilter": "flowgraph.norm_filter(trace, layer=…) makes one",
    "RegularizationNeurons": "flowgraph.regularization_neurons(model, prompts) makes one",
    "LayerOverlap": "flowgraph.overlap_by_layer(one, other) makes one",
    "HeadCircuit": "flowgraph.head_circuit(trace, layer=…, head=…) makes one",
    "EdgeTokens": "flowgraph.edge_tokens(trace, graph, edge) makes one",
    "Faithfulness": "flowgraph.faithfulness(model, data, graph) makes one",
}


def takes(*kinds: type | tuple[type, ...]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse a call whose first arguments are of other classes.

    Parameters
    ----------
    *kinds
        Class of the first argument, of the second, and so on; a tuple allows several.

    Raises
    ------
    ArgumentError
        From the function; it names the argument, the given value and the function that makes the right one.
    """
    wanted = tuple(kind if isinstance(kind, tuple) else (kind,) for kind in kinds)

    def of(function: Callable[P, R]) -> Callable[P, R]:
        # The signature is read once, when the function is defined.
        names = tuple(signature(function).parameters)[: len(wanted)]

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for place, (name, classes) in enumerate(zip(names, wanted, strict=True)):
                # One that is missing altogether is told by Python.
                if place < len(args) or name in kwargs:
                    given = args[place] if place < len(args) else kwargs[name]
                    if not isinstance(given, classes):
                        raise ArgumentError(_message(function.__name__, name, given, classes))
            return function(*args, **kwargs)

        return checked

    return of


def _message(function: str, name: str, given: Any, classes: tuple[type, ...]) -> str:
    expected = " or ".join(_a(kind) for kind in classes)
    was = "None" if given is None else _a(type(given))
    advice = "; ".join(_MADE_BY[kind.__name__] for kind in classes if kind.__name__ in _MADE_BY)
    # A batch is the usual reason for a wrong trace, so it has advice of its own.
    if type(given).__name__ == "Traces" and any(kind.__name__ == "Trace" for kind in classes):
        was, advice = f"the traces of a batch of {len(given)} prompts", f"take one of them: {function}(traces[0])"
    return f"{function}({name}=…) expects {expected}, and got {was}" + (f"; {advice}" if advice else "")


def _a(kind: type) -> str:
    """The class with its article; ``GraphColumns`` is called a FlowGraph, as users know it."""
    name = "FlowGraph" if kind.__name__ == "GraphColumns" else kind.__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
