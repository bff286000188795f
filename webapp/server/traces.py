"""What the worker holds: models that are loaded, traces, edge weights and readings, the last three in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import flowgraph
from flowgraph import Node, NodeReading
from flowgraph.errors import ArgumentError, PromptError

from .messages import LOADING
from .sizes import Cache, size_of

if TYPE_CHECKING:
    from flowgraph import DirectLogitAttribution, EdgeWeights, LoadedModel, Trace

Check = Callable[[str, float | None], None]
"""Says which stage begins and what part of it is done; raises where the question was taken back."""

MOST_TRACE_BYTES = 2 * 2**30
READ_AT_ONCE = 512
"""Nodes that are read between two looks at whether the question still stands."""
READING_TOKENS = 5


class Pass(Protocol):
    """Which pass of a model is meant; :class:`~flowgraph_webapp.server.run.RunQuestion` says what each of it is."""

    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def chat(self) -> bool: ...  # noqa: D102
    @property
    def position(self) -> int | None: ...  # noqa: D102
    @property
    def target(self) -> int | None: ...  # noqa: D102
    @property
    def foil(self) -> int | None: ...  # noqa: D102


class Traces:
    """Everything that one worker has computed and may need again.

    Parameters
    ----------
    models
        Names and folders that may be loaded.
    cache_bytes
        Bound of all traces, weights and readings together; the one that was asked for last is used even if it is larger.
    most_tokens
        Longest prompt that is traced.
    loading
        Options of :func:`flowgraph.load_model` that hold for every model.
    """

    def __init__(
        self, models: Collection[str], cache_bytes: int, most_tokens: int, loading: Mapping[str, Any] | None = None
    ) -> None:
        self._loading = dict(loading or {})
        self._models = frozenset(models)
        self._most_tokens = most_tokens
        self._loaded: dict[str, LoadedModel] = {}
        self.kept: Cache[tuple[Any, ...], Any] = Cache(cache_bytes)

    def model(self, name: str, check: Check) -> LoadedModel:
        """A model of the allow-list, loaded when it is first asked for."""
        if name not in self._models:
            raise ArgumentError(f"model={name!r} is not one of the models of this server")
        if name not in self._loaded:
            check(LOADING, None)
            self._loaded[name] = flowgraph.load_model(
                name, **self._loading, progress=lambda stage, part: check(f"{LOADING}: {stage}", part)
            )
        return self._loaded[name]

    def stands_still(self) -> bool:
        """Whether no pass of a model is under way: nothing is hooked to any of its modules."""
        modules = (module for loaded in self._loaded.values() for module in loaded.model.modules())
        return not any(module._forward_hooks or module._forward_pre_hooks for module in modules)

    def run(self, run: Pass, check: Check) -> tuple[Trace, float]:
        """The trace of a run with its target and foil, and the seconds that the pass took."""
        loaded = self.model(run.model, check)
        key = ("trace", run.model, run.text, run.chat, run.position)
        found = self.kept.get(key)
        if found is None:
            self._refuse_long(loaded, run)
            _refuse_without_gap(loaded, run)
            check("tracing", None)
            begun = time.perf_counter()
            trace = flowgraph.trace(loaded, run.text, position=run.position, chat=run.chat, max_bytes=MOST_TRACE_BYTES)
            found = trace, time.perf_counter() - begun
            self.kept.put(key, found, trace.nbytes)
        aimed = run.target is not None or run.foil is not None
        return found[0].aimed_at(run.target, run.foil) if aimed else found[0], found[1]

    def trace(self, run: Pass, check: Check) -> Trace:
        """The trace of a run."""
        return self.run(run, check)[0]

    def weights(self, run: Pass, method: str, check: Check) -> EdgeWeights:
        """Dense edge weights of a run; another threshold or start needs no others."""
        found: EdgeWeights = self.made(("weights", run, method), lambda: self._weights(run, method, check))
        return found

    def attribution(self, run: Pass, check: Check) -> DirectLogitAttribution:
        """The logit of a run as a sum."""
        found: DirectLogitAttribution = self.made(("attribution", run), lambda: self._attribution(run, check))
        return found

    def readings(self, run: Pass, nodes: Sequence[Node], check: Check) -> tuple[NodeReading | None, ...]:
        """Readings of nodes, each read once for a run."""
        trace = self.trace(run, check)
        key = ("readings", run)
        known: dict[Node, NodeReading | None] = self.kept.get(key) or {}
        missing = [node for node in nodes if node not in known]
        for first in range(0, len(missing), READ_AT_ONCE):
            check("reading nodes", first / len(missing))
            some = missing[first : first + READ_AT_ONCE]
            known.update(zip(some, flowgraph.node_readings(trace, some, k=READING_TOKENS), strict=True))
        if missing:
            self.kept.put(key, known, size_of(known))
        return tuple(known[node] for node in nodes)

    def made(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """What is kept under a key, made if there is nothing."""
        found = self.kept.get(key)
        if found is None:
            found = make()
            self.kept.put(key, found, size_of(found))
        return found

    def _weights(self, run: Pass, method: str, check: Check) -> EdgeWeights:
        trace = self.trace(run, check)
        check("weighing edges", None)
        return flowgraph.edge_weights(trace, method=method)

    def _attribution(self, run: Pass, check: Check) -> DirectLogitAttribution:
        trace = self.trace(run, check)
        check("taking the logit apart", None)
        return flowgraph.direct_logit_attribution(trace, position=trace.position)

    def _refuse_long(self, loaded: LoadedModel, run: Pass) -> None:
        """Refuse a prompt that is too long for this server before it is run; the run refuses what is too long for the model.

        Of two limits the smaller is said: a text that is cut to the larger would only be refused again.
        """
        context = loaded.anatomy.context
        if loaded.tokenizer is None or (context is not None and context < self._most_tokens):
            return  # without a tokenizer the run itself says that a text needs one
        count = len(flowgraph.inputs(text=run.text, chat=run.chat).tokenized(loaded).ids)
        if count > self._most_tokens:
            raise PromptError(
                f"the prompt has {count:,} tokens; this server traces at most {self._most_tokens:,}, since what is kept of a "
                "pass grows with their square. Shorten the text"
            )


def _refuse_without_gap(loaded: LoadedModel, run: Pass) -> None:
    """Refuse a masked model's prompt that does not say what is predicted, in the words of the page."""
    anatomy, tokenizer = loaded.anatomy, loaded.tokenizer
    if run.position is not None or tokenizer is None or not anatomy.has_head or anatomy.family.head_kind != "masked":
        return
    mask = tokenizer.mask_token_id
    if mask is not None and mask in prompt_ids(loaded, run.text, run.chat):
        return
    write = "" if mask is None else f"write {tokenizer.mask_token} where a token is to be predicted, or "
    raise PromptError(
        f"{loaded.name!r} is a masked language model, and the prompt does not say which token it predicts; {write}set Position, on the "
        "left, to the number of a token, counted from 0"
    )


def prompt_ids(loaded: LoadedModel, text: str, chat: bool) -> list[int]:
    """Token ids of a prompt, as its run has them."""
    return list(flowgraph.inputs(text=text, chat=chat).of(loaded).ids)


def source_ids(loaded: LoadedModel, text: str) -> list[int]:
    """Token ids of a text as the encoder of an encoder–decoder reads it."""
    return list(flowgraph.inputs(text=text).of(loaded.stacks["encoder"]).ids)


def reporting(check: Check, stage: str) -> tuple[Callable[[str, float | None], None], Callable[[], bool]]:
    """``progress`` and ``cancel`` as flowgraph's long functions take them; ``cancel`` raises by itself.

    Parameters
    ----------
    check
        Whom to tell.
    stage
        What is done until more is known.
    """
    last: tuple[str, float | None] = (stage, None)

    def progress(name: str, part: float | None) -> None:
        nonlocal last
        last = (name, part)
        check(name, part)

    def cancel() -> bool:
        check(*last)
        return False

    return progress, cancel
