"""Ablation and patching: change a part of a run, and measure the effect on the answer.

An *edge effect* is m(edge corrupted) − m(clean), negative where the edge supports the answer. Only the receiver of the edge sees
a changed sender: it reads LN(x + Σ Δ) in place of LN(x), where Δ is the sender's output in the other run less its output now. All
other receivers see the sender as it is. Where norms stand on the stream itself, those between the two run anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import ArgumentError, TargetError
from ..models import LoadedModel, load_model
from ..models.wheel import Progress
from ..values.arguments import takes
from .changes import Reference, changed, recorded, reference_of
from .effect import Effect
from .metrics import AnswerTokens, Metric, metric_of
from .passes import Pass, logits_of_states
from .plan import GraphParts, Plan, What, plan_of
from .prompts import Align, Answers, Batch, Prompt, Prompts, batch_of, counterparts, groups_of, prompts_of
from .ticks import Tick, ticking

Ablation = Literal["zero", "mean", "resample"]
Direction = Literal["denoise", "noise"]


@dataclass(frozen=True)
class _Question:
    """Everything about an intervention but the prompts."""

    loaded: LoadedModel
    what: What
    how: str
    metric: Metric
    outside: bool
    parts: GraphParts
    align: Align | None
    progress: Progress | None
    cancel: Callable[[], bool] | None

    def plan(self, batch: Batch) -> Plan:
        return plan_of(
            self.loaded.anatomy,
            self.what,
            batch.n_tokens,
            outside=self.outside,
            parts=self.parts,
            n_source=batch.n_source,
        )

    def ticking(self, passes: int) -> Tick:
        """A function that ``passes`` passes of a batch call before each block."""
        return ticking(
            "measuring the change", passes * len(self.loaded.anatomy.blocks), self.progress, self.cancel, unit="blocks"
        )


@takes()
def ablate(
    model: Any,
    prompts: Prompts,
    what: What,
    how: Ablation = "zero",
    *,
    reference: Prompts | None = None,
    target: Answers = None,
    foil: Answers = None,
    metric: Metric | Callable[..., Any] | None = None,
    outside: bool = False,
    parts: GraphParts = "edges",
    align: Align | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Effect:
    """Take a part out of a run and measure the effect on the answer.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    prompts
        One or several: traces, texts or lists of token ids, of one length. Traces bring position, target and foil.
    what
        A :class:`Node` (``head``, ``mlp``, ``attn``, ``neuron``, ``resid_pre``/``mid``/``post``, ``embed``; everywhere, or at
        its position), an :class:`Edge`, a :class:`PatternEdit`, several of these at once, or a :class:`FlowGraph`. A circuit
        stands for its edges; a graph of flow between states for the terms pattern · value of its attention edges and the
        outputs of its heads and MLPs.
    how
        ``"zero"``; ``"mean"``: the mean of ``reference`` over its prompts, position by position; ``"resample"``: the values of
        ``reference`` at the same place, a corrupted prompt for each or one for all.
    reference
        Prompts for ``"mean"`` and ``"resample"``.
    target, foil
        Answer and comparison, one or one for each prompt; default those of the traces, else the model's best token.
    metric
        ``flowgraph.logit_difference`` (default), ``log_probability``, ``kl_divergence``, ``target_rank``, or a function of
        logits [prompt, d_vocab] that gives [prompt].
    outside
        Take out everything but ``what``: all other heads and MLPs, all other edges, all that the graph does not show in its
        layers.
    parts
        Parts of a graph that are changed: its ``"edges"``, or its ``"nodes"``, which are heads and MLPs at their positions.
    align
        ``"start"`` or ``"end"``: allow prompts of different lengths, positions counted from there. A position without a
        counterpart does not change.
    progress, cancel
        As for :func:`flowgraph.head_effects`.

    Returns
    -------
    Effect
        The metric of each prompt before and after, in the metric's unit.

    Raises
    ------
    ArgumentError
        If ``what`` cannot be changed, or ``how`` needs a reference and has none.
    PromptError
        If prompts differ in length and ``align`` does not say how they belong together.
    TargetError
        If an answer is not one token.
    NonFiniteError
        If the metric gives NaN.
    CancelledError
        If ``cancel`` said so.
    UnsupportedReadingError
        If the model has no head, or edges are asked for where something else than heads and MLPs writes to the stream.

    References
    ----------
    Wang et al. (2022), "Interpretability in the Wild"; Goldowsky-Dill et al. (2023), "Localizing Model Behavior with Path
    Patching". Here an edge reads the reference of its sender in place of the sender's output, so several can be cut at once.

    Examples
    --------
    >>> head = fg.Node("head", layer=23, head=4)  # it reads " Japan" and writes " Japanese"
    >>> round(fg.ablate(trace.model, trace, head, foil=" Kyoto").mean_effect, 1)  # logits
    -0.2
    """
    loaded = load_model(model)
    loaded.require_head("an intervention's effect on the answer")
    _check_reference(how, reference)
    asked = _Question(loaded, what, how, metric_of(metric), outside, parts, align, progress, cancel)
    found = prompts_of(loaded, prompts, "prompts", target=target, foil=foil)
    others = None if reference is None else prompts_of(loaded, reference, "reference")
    if how == "resample" and others is not None:
        others = one_for_each(found, others)
    pairs = others if how == "resample" else None
    groups = groups_of(found, pairs, align)
    # Two passes of each batch, three with a reference: each runs every block once.
    tick = asked.ticking((2 if others is None else 3) * len(groups))
    with loaded.lock, torch.no_grad():
        return _gathered(
            [(_ablated(asked, _chosen(found, group), others if pairs is None else _chosen(pairs, group), tick), group)
             for group in groups],
            tick,
        )  # fmt: skip


@takes()
def patch(
    model: Any,
    clean: Prompts,
    corrupted: Prompts,
    what: What,
    direction: Direction = "denoise",
    *,
    target: Answers = None,
    foil: Answers = None,
    metric: Metric | Callable[..., Any] | None = None,
    outside: bool = False,
    parts: GraphParts = "edges",
    align: Align | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Effect:
    """Put a part of one run into the other, and measure how far the answer goes with it.

    Parameters
    ----------
    model, what, target, foil, metric, outside, parts, align, progress, cancel
        As for :func:`ablate`.
    clean, corrupted
        Prompts, as many of one as of the other or one corrupted prompt for all; positions and answers are the clean ones'.
    direction
        ``"denoise"``: the part of the clean run is put into the corrupted one, and ``score`` is (patched − corrupted) /
        (clean − corrupted); ``"noise"``: the part of the corrupted run into the clean one, and ``score`` is (clean −
        patched) / (clean − corrupted).

    Returns
    -------
    Effect
        The metric of each prompt before and after, of the clean and of the corrupted run.

    Raises
    ------
    ArgumentError, PromptError, TargetError, NonFiniteError, CancelledError, UnsupportedReadingError
        As for :func:`ablate`.

    References
    ----------
    Meng et al. (2022), "Locating and Editing Factual Associations in GPT"; Heimersheim & Nanda (2024), "How to use and
    interpret activation patching".

    Examples
    --------
    >>> peru = "The capital of Peru is the city of"
    >>> head = fg.Node("head", layer=23, head=4)
    >>> round(fg.patch(trace.model, trace, peru, head, foil=" Kyoto").score, 1)  # part of the way back to " Tokyo"
    0.4
    """
    loaded = load_model(model)
    loaded.require_head("an intervention's effect on the answer")
    if direction not in get_args(Direction):
        raise ArgumentError(
            f"direction={direction!r} must be 'denoise' (clean into corrupted) or 'noise' (the other way)"
        )
    asked = _Question(loaded, what, direction, metric_of(metric), outside, parts, align, progress, cancel)
    found = prompts_of(loaded, clean, "clean", target=target, foil=foil)
    others = one_for_each(found, prompts_of(loaded, corrupted, "corrupted"), "corrupted")
    groups = groups_of(found, others, align)
    tick = asked.ticking(3 * len(groups))
    with loaded.lock, torch.no_grad():
        return _gathered(
            [(_patched(asked, _chosen(found, group), _chosen(others, group), tick), group) for group in groups], tick
        )


def answer_tokens_of(batch: Batch, clean_logits: Tensor) -> AnswerTokens:
    """The answers of a batch; where none was said, the clean run's best token.

    Raises
    ------
    TargetError
        If the best token of a prompt is its foil.
    """
    targets = torch.where(batch.targets >= 0, batch.targets, clean_logits.argmax(-1))
    same = (targets == batch.foils).nonzero()
    if len(same):
        row = int(same[0])
        raise TargetError(
            f"the foil of prompt {row} (token {int(targets[row])}) is the model's best token, which is the target where none is "
            "given, so the difference between the two would be 0; say target=, or choose another foil"
        )
    return AnswerTokens(targets, batch.foils, clean_logits)


def answer_logits(loaded: LoadedModel, states: Tensor, positions: Tensor) -> Tensor:
    """[row, d_vocab] logits of last states [row, position, d_model] at one position of each row."""
    rows = torch.arange(len(states), device=states.device)
    return logits_of_states(loaded, states[rows, positions])


def _ablated(asked: _Question, prompts: Sequence[Prompt], others: Sequence[Prompt] | None, tick: Tick) -> Effect:
    loaded, batch = asked.loaded, batch_of(asked.loaded, prompts, "prompts")
    plan = asked.plan(batch)
    reference = Reference(None, False, range(batch.n_tokens))
    if others is not None and asked.how != "zero":
        theirs = batch_of(loaded, others, "reference")
        places = counterparts(batch.n_tokens, theirs.n_tokens, asked.align, "decoder" if loaded.stacks else "")
        source = counterparts(batch.n_source, theirs.n_source, asked.align, "encoder")
        kept = recorded(loaded, theirs.feed, plan, tick=tick)[0]
        reference = reference_of(kept, asked.how == "mean", places, source, plan)
    before = answer_logits(loaded, Pass(loaded, len(batch), tick=tick).run(batch.feed), batch.positions)
    after = answer_logits(loaded, changed(loaded, batch.feed, plan, reference, tick=tick), batch.positions)
    answers = answer_tokens_of(batch, before)
    measured = _numbers(asked.metric(before, answers))
    return _effect(asked, plan, measured, _numbers(asked.metric(after, answers)), measured, None)


def _patched(asked: _Question, prompts: Sequence[Prompt], others: Sequence[Prompt], tick: Tick) -> Effect:
    loaded, batch = asked.loaded, batch_of(asked.loaded, prompts, "clean")
    theirs = batch_of(loaded, others, "corrupted")
    denoises = asked.how == "denoise"
    changes, source = (theirs, batch) if denoises else (batch, theirs)
    plan = asked.plan(changes)
    kept, states = recorded(loaded, source.feed, plan, tick=tick)
    runs = {id(source): states, id(changes): Pass(loaded, len(changes), tick=tick).run(changes.feed)}
    places, read = (
        counterparts(own, other, asked.align, stack)
        for own, other, stack in (
            (changes.n_tokens, source.n_tokens, "decoder" if loaded.stacks else ""),
            (changes.n_source, source.n_source, "encoder"),
        )
    )
    reference = reference_of(kept, False, places, read, plan)
    after = answer_logits(loaded, changed(loaded, changes.feed, plan, reference, tick=tick), changes.positions)
    clean, corrupted = (answer_logits(loaded, runs[id(one)], one.positions) for one in (batch, theirs))
    answers = answer_tokens_of(batch, clean)
    measured = [_numbers(asked.metric(logits, answers)) for logits in (clean, corrupted, after)]
    return _effect(asked, plan, measured[1 if denoises else 0], measured[2], measured[0], measured[1])


def _effect(asked: _Question, plan: Plan, before: Any, after: Any, clean: Any, corrupted: Any) -> Effect:
    return Effect(plan.text, asked.how, asked.metric.name, asked.metric.unit, before, after, clean, corrupted)


def _gathered(found: Sequence[tuple[Effect, list[int]]], tick: Tick) -> Effect:
    """Effects of groups of prompts as one, in the order of the prompts."""
    tick(0)
    first = found[0][0]
    if len(found) == 1:
        return first
    # Groups were gathered by length; the order of the prompts comes back here.
    order = torch.tensor([i for _, group in found for i in group], device="cpu").argsort().numpy()

    def joined(name: str) -> Any:
        values = [getattr(effect, name) for effect, _ in found]
        return None if values[0] is None else torch.cat([torch.from_numpy(v) for v in values]).numpy()[order]

    return replace(first, **{name: joined(name) for name in ("before", "after", "clean", "corrupted")})


def _numbers(values: Tensor) -> Any:
    return values.detach().double().cpu().numpy()


def _chosen(prompts: Sequence[Prompt], group: Sequence[int]) -> list[Prompt]:
    return [prompts[i] for i in group]


def one_for_each(prompts: Sequence[Prompt], others: Sequence[Prompt], name: str = "reference") -> list[Prompt]:
    """The counterpart of every prompt. If both have one length, the counterpart is explained at the prompt's own position."""
    if len(others) not in (1, len(prompts)):
        raise ArgumentError(
            f"{name}= has {len(others)} prompts for {len(prompts)}; give one for each, in the same order, or one for all"
        )
    several = list(others) * len(prompts) if len(others) == 1 else others
    return [
        replace(other, position=own.position) if other.length == own.length else other
        for own, other in zip(prompts, several, strict=True)
    ]


def _check_reference(how: str, reference: Prompts | None) -> None:
    if how not in get_args(Ablation):
        raise ArgumentError(f"how={how!r} must be one of {', '.join(get_args(Ablation))}")
    if how == "zero" and reference is not None:
        raise ArgumentError("how='zero' uses no reference=; say how='mean' or how='resample', or leave it out")
    if how != "zero" and reference is None:
        wanted = (
            "a set of prompts to average over"
            if how == "mean"
            else "a corrupted prompt for each prompt, or one for all"
        )
        raise ArgumentError(f"how={how!r} needs reference=: {wanted}")
