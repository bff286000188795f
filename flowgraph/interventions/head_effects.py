"""The exact effect of every head, each changed by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float

from ..charts.grid import Grid, Places
from ..charts.overview import Overview
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import printable
from ..errors import ArgumentError
from ..models import LoadedModel, load_model
from ..models.wheel import Progress
from ..values.arguments import takes
from .ablation import one_for_each
from .metrics import Metric, metric_of
from .prompts import Answers, Batch, Prompts, batch_of, prompts_of
from .stack_sweep import CROSS, SELF, StackSweep, stack_size_of
from .sweep import Sweep, size_of

How = Literal["zero", "mean", "resample", "denoise"]
MAX_BYTES = 2**30
"""Memory that a sweep works in, unless ``max_bytes`` says otherwise."""


@dataclass(frozen=True, eq=False)
class HeadEffects(Result):
    """Change of the metric when each head is changed by itself.

    Attributes
    ----------
    by_prompt
        [prompt, layer, head] metric of the changed run − metric of the run that was changed. Of an encoder–decoder these are the heads
        of the decoder's attention to itself.
    clean
        [prompt] metric of the clean run.
    corrupted
        [prompt] metric of the corrupted run; None for ``"zero"`` and ``"mean"``.
    how, metric, unit
        Change of the heads, and the metric with its unit.
    model
        Name of the model.
    further
        Of an encoder–decoder the same of its other attentions, by their names in :attr:`flowgraph.Trace.attention`:
        ``"decoder.cross"`` and ``"encoder.self"``; empty for one stack.
    """

    by_prompt: Float[np.ndarray, "prompt layer head"]
    clean: Float[np.ndarray, "prompt"]
    corrupted: Float[np.ndarray, "prompt"] | None
    how: str
    metric: str
    unit: str
    model: str
    further: Mapping[str, Float[np.ndarray, "prompt layer head"]] = field(default_factory=dict)

    @property
    def effects(self) -> Float[np.ndarray, "layer head"]:
        """[layer, head] mean over the prompts, in ``unit``."""
        mean: np.ndarray = self.by_prompt.mean(0)
        return mean

    @property
    def by_attention(self) -> dict[str, Float[np.ndarray, "layer head"]]:
        """Name of an attention → [layer, head] mean over the prompts; of one stack the name is ``""``."""
        own = SELF if self.further else ""
        return {own: self.effects} | {name: found.mean(0) for name, found in self.further.items()}

    def __repr__(self) -> str:
        several = self.by_attention
        name = max(several, key=lambda one: np.abs(several[one]).max(initial=0.0))
        layer, head = (int(i) for i in np.unravel_index(np.abs(several[name]).argmax(), several[name].shape))
        sizes = " and ".join(
            f"{found.shape[0]} layers × {found.shape[1]} heads{f' of {one}' if one else ''}"
            for one, found in several.items()
        )
        return (
            f"HeadEffects({self.model!r}, {self.how}, {sizes}, {len(self.by_prompt)} prompts; strongest "
            f"{_head(name, layer, head)}: {several[name][layer, head]:+.4g} {self.unit})"
        )

    def table(self) -> Table:
        """One row for each head, the strongest first: ``layer``, ``head``, ``effect`` in the metric's unit; of several ``attention``."""
        several = self.by_attention
        places = [np.indices(found.shape).reshape(2, -1) for found in several.values()]
        layer, head = np.concatenate(places, 1)
        effects = np.concatenate([found.ravel() for found in several.values()])
        order = np.argsort(-np.abs(effects), kind="stable")
        columns: dict[str, Any] = {"layer": layer[order], "head": head[order], "effect": effects[order]}
        if self.further:
            names = np.repeat(list(several), [found.size for found in several.values()])
            columns = {"attention": names[order].tolist(), **columns}
        return Table(repr(self), columns, words=("attention",) if self.further else ())

    def chart(self) -> Grid:
        """A grid of the effects over layers and heads; of several attentions their layers one above the other, the encoder's below."""
        several = dict(sorted(self.by_attention.items(), key=lambda one: -_ORDER.index(one[0])))
        rows = [(name, layer) for name, found in several.items() for layer in range(len(found))]
        heads = max(found.shape[1] for found in several.values())
        # A layer with fewer heads than another ends before it.
        values = np.concatenate([np.pad(found, ((0, 0), (0, heads - found.shape[1]))) for found in several.values()])

        def tip(row: int, head: int) -> tuple[str, ...]:
            name, layer = rows[row]
            if head >= several[name].shape[1]:
                return (f"{_layer(name, layer)} has {several[name].shape[1]} heads",)
            return (_head(name, layer, head), f"{values[row, head]:+.4g} {self.unit}")

        about = f"{self.how}, {self.metric}, {len(self.by_prompt)} prompts, {self.model}"
        tokens = tuple(_layer(*row) for row in rows) if self.further else None
        return Grid(
            title=f"Effect of each head on {self.metric}",
            rows=Places("layer", tuple(range(len(rows))), tokens, is_upward=True, is_numbered=not self.further),
            columns=Places("head", tuple(range(heads))),
            values=values,
            unit=self.unit,
            tip=tip,
            subtitle=printable(about),
            about=printable(f"effect of each of {len(rows)} layers × {heads} heads: {about}; colour: {self.unit}"),
        )

    def overview(self) -> Overview:
        """A small picture of all heads, and the strongest ones."""
        return Overview(repr(self), {"effect": self.chart()}, self.table())

    def arrays(self) -> dict[str, np.ndarray]:
        """``effects``, ``by_prompt``, ``clean``, where there is one ``corrupted``, and ``by_prompt`` of each other attention by its name."""
        found = {"effects": self.effects, "by_prompt": self.by_prompt, "clean": self.clean, **self.further}
        return found if self.corrupted is None else found | {"corrupted": self.corrupted}


_ORDER = ("", CROSS, SELF, "encoder.self")


def _layer(attention: str, layer: int) -> str:
    """A layer as labels of nodes name it."""
    return {CROSS: f"L{layer}.cross", "encoder.self": f"enc.L{layer}"}.get(attention, f"L{layer}")


def _head(attention: str, layer: int, head: int) -> str:
    return f"{_layer(attention, layer)}{'.' if attention == CROSS else ''}H{head}"


@takes()
def head_effects(
    model: Any,
    clean: Prompts,
    corrupted: Prompts | None = None,
    how: How | None = None,
    *,
    target: Answers = None,
    foil: Answers = None,
    metric: Metric | Callable[..., Any] | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
    max_bytes: int = MAX_BYTES,
) -> HeadEffects:
    """Change every head by itself, at all positions, and measure the effect of each on the answer.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    clean
        One or several prompts of one length: traces, texts or lists of token ids.
    corrupted
        For ``"resample"`` and ``"denoise"`` a corrupted prompt for each, or one for all; for ``"mean"`` the set to average
        over.
    how
        ``"zero"`` (default without ``corrupted``), ``"mean"``, ``"resample"`` (default with it): the head of the clean run is
        replaced; ``"denoise"``: the clean head is put into the corrupted run.
    target, foil, metric
        As for :func:`flowgraph.ablate`.
    progress
        Called with a stage in words and the fraction done.
    cancel
        Asked again and again; the sweep stops when it says True.
    max_bytes
        Memory to work in, besides the model; batches are made so that :func:`sweep_size` stays below.

    Raises
    ------
    CancelledError
        If ``cancel`` said so.
    ArgumentError
        If ``how`` needs corrupted prompts, or not even one row fits into ``max_bytes``.
    PromptError, TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.ablate`.

    References
    ----------
    Michel et al. (2019), "Are Sixteen Heads Really Better than One?"; Wang et al. (2022), "Interpretability in the Wild".

    Examples
    --------
    >>> found = fg.head_effects(trace.model, trace, "The capital of Peru is the city of", foil=" Kyoto")
    >>> divmod(int(found.effects.argmin()), 9)  # the head whose loss costs most
    (23, 1)
    """
    loaded = load_model(model)
    loaded.require_head("an intervention's effect on the answer")
    how = _how(how, corrupted)
    found = prompts_of(loaded, clean, "clean", target=target, foil=foil)
    batch = batch_of(loaded, found, "clean")
    others = None
    if corrupted is not None:
        theirs = prompts_of(loaded, corrupted, "corrupted")
        others = batch_of(loaded, theirs if how == "mean" else one_for_each(found, theirs, "corrupted"), "corrupted")
        # The lengths differ: batching both together raises the error that names them.
        if (others.n_tokens, others.n_source) != (batch.n_tokens, batch.n_source):
            batch_of(loaded, [*found, *theirs], "clean and corrupted")
    if loaded.anatomy.cross is not None:
        return _over_stacks(loaded, batch, others, how, metric_of(metric), max_bytes, progress, cancel)
    size = size_of(loaded, batch, others, max_bytes)
    with loaded.lock, torch.no_grad():
        sweep = Sweep(loaded, batch, others, how, metric_of(metric))
        by_prompt = sweep.run(size, progress, cancel)
    return HeadEffects(by_prompt, sweep.clean, sweep.corrupted, how, sweep.metric.name, sweep.metric.unit, loaded.name)


def _over_stacks(
    loaded: LoadedModel,
    batch: Batch,
    others: Batch | None,
    how: How,
    metric: Metric,
    max_bytes: int,
    progress: Progress | None,
    cancel: Callable[[], bool] | None,
) -> HeadEffects:
    size = stack_size_of(loaded, batch, others, max_bytes)
    with loaded.lock, torch.no_grad():
        sweep = StackSweep(loaded, batch, others, how, metric)
        found = sweep.run(size, progress, cancel)
    own = found.pop(SELF)
    return HeadEffects(own, sweep.clean, sweep.corrupted, how, metric.name, metric.unit, loaded.name, found)


@takes()
def sweep_size(model: Any, clean: Prompts, corrupted: Prompts | None = None, *, max_bytes: int = MAX_BYTES) -> int:
    """Bytes that :func:`head_effects` will work in besides the model, known before it runs.

    Parameters
    ----------
    model, clean, corrupted, max_bytes
        As for :func:`head_effects`.

    Raises
    ------
    ArgumentError
        If not even one row fits into ``max_bytes``.

    Examples
    --------
    >>> fg.sweep_size(trace.model, trace) < 2**28
    True
    """
    loaded = load_model(model)
    batch = batch_of(loaded, prompts_of(loaded, clean, "clean"), "clean")
    others = None if corrupted is None else batch_of(loaded, prompts_of(loaded, corrupted, "corrupted"), "corrupted")
    of = size_of if loaded.anatomy.cross is None else stack_size_of
    return of(loaded, batch, others, max_bytes).total


def _how(how: str | None, corrupted: Prompts | None) -> How:
    chosen = how or ("zero" if corrupted is None else "resample")
    if chosen not in get_args(How):
        raise ArgumentError(f"how={how!r} must be one of {', '.join(get_args(How))}")
    if chosen == "zero" and corrupted is not None:
        raise ArgumentError(
            "how='zero' uses no corrupted prompts; say how='resample', 'mean' or 'denoise', or leave them out"
        )
    if chosen != "zero" and corrupted is None:
        raise ArgumentError(
            f"how={chosen!r} needs corrupted=: a corrupted prompt for each, or for 'mean' the prompts to average"
        )
    return chosen  # type: ignore[return-value]
