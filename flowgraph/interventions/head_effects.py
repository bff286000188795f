"""The exact effect of every head, each changed by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from ..models import load_model
from ..models.wheel import Progress
from ..values.arguments import takes
from .ablation import one_for_each
from .metrics import Metric, metric_of
from .prompts import Answers, Prompts, batch_of, prompts_of
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
        [prompt, layer, head] metric of the changed run − metric of the run that was changed.
    clean
        [prompt] metric of the clean run.
    corrupted
        [prompt] metric of the corrupted run; None for ``"zero"`` and ``"mean"``.
    how, metric, unit
        Change of the heads, and the metric with its unit.
    model
        Name of the model.
    """

    by_prompt: Float[np.ndarray, "prompt layer head"]
    clean: Float[np.ndarray, "prompt"]
    corrupted: Float[np.ndarray, "prompt"] | None
    how: str
    metric: str
    unit: str
    model: str

    @property
    def effects(self) -> Float[np.ndarray, "layer head"]:
        """[layer, head] mean over the prompts, in ``unit``."""
        mean: np.ndarray = self.by_prompt.mean(0)
        return mean

    def __repr__(self) -> str:
        effects = self.effects
        layer, head = (int(i) for i in np.unravel_index(np.abs(effects).argmax(), effects.shape))
        return (
            f"HeadEffects({self.model!r}, {self.how}, {effects.shape[0]} layers × {effects.shape[1]} heads, "
            f"{len(self.by_prompt)} prompts; strongest L{layer}H{head}: {effects[layer, head]:+.4g} {self.unit})"
        )

    def table(self) -> Table:
        """One row for each head, the strongest first: ``layer``, ``head``, ``effect`` in the metric's unit."""
        effects = self.effects
        order = np.argsort(-np.abs(effects), axis=None, kind="stable")
        layer, head = np.unravel_index(order, effects.shape)
        return Table(repr(self), {"layer": layer, "head": head, "effect": effects[layer, head]})

    def chart(self) -> Grid:
        """A grid of the effects over layers and heads."""
        effects = self.effects
        layers, heads = effects.shape
        about = f"{self.how}, {self.metric}, {len(self.by_prompt)} prompts, {self.model}"
        return Grid(
            title=f"Effect of each head on {self.metric}",
            rows=Places("layer", tuple(range(layers)), is_upward=True),
            columns=Places("head", tuple(range(heads))),
            values=effects,
            unit=self.unit,
            tip=lambda row, head: (f"L{row}H{head}", f"{effects[row, head]:+.4g} {self.unit}"),
            subtitle=printable(about),
            about=printable(f"effect of each of {layers} layers × {heads} heads: {about}; colour: {self.unit}"),
        )

    def overview(self) -> Overview:
        """A small picture of all heads, and the strongest ones."""
        return Overview(repr(self), {"effect": self.chart()}, self.table())

    def arrays(self) -> dict[str, np.ndarray]:
        """``effects``, ``by_prompt``, ``clean`` and, where there is one, ``corrupted``."""
        found = {"effects": self.effects, "by_prompt": self.by_prompt, "clean": self.clean}
        return found if self.corrupted is None else found | {"corrupted": self.corrupted}


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
    loaded.anatomy.refuse_stacks("a sweep of all heads")
    how = _how(how, corrupted)
    found = prompts_of(loaded, clean, "clean", target=target, foil=foil)
    batch = batch_of(loaded, found, "clean")
    others = None
    if corrupted is not None:
        theirs = prompts_of(loaded, corrupted, "corrupted")
        others = batch_of(loaded, theirs if how == "mean" else one_for_each(found, theirs, "corrupted"), "corrupted")
        # The lengths differ: batching both together raises the error that names them.
        if others.n_tokens != batch.n_tokens:
            batch_of(loaded, [*found, *theirs], "clean and corrupted")
    size = size_of(loaded, batch, others, max_bytes)
    with loaded.lock, torch.no_grad():
        sweep = Sweep(loaded, batch, others, how, metric_of(metric))
        by_prompt = sweep.run(size, progress, cancel)
    return HeadEffects(by_prompt, sweep.clean, sweep.corrupted, how, sweep.metric.name, sweep.metric.unit, loaded.name)


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
    return size_of(loaded, batch, others, max_bytes).total


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
