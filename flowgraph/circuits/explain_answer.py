"""The few parts of a run that make a model give its answer, found and tested against counterfactual prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from ..charts.text import whole_percent
from ..errors import ArgumentError, CancelledError
from ..interventions.prompts import Prompts
from ..methods.node_readings import READ_AT_MOST, node_readings
from ..methods.origin import called
from ..models import load_model
from ..models.wheel import Progress
from ..tracing import trace as trace_of
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from ..values.trace import Trace
from .contrasts import shared_out, without_foil
from .effect_graph import effect_graph
from .effect_search import EffectSearch
from .graph_faithfulness import GraphFaithfulness, graph_faithfulness
from .kept_answer import LEAST_GAP, KeptAnswer

_ENOUGH = 0.9
"""Part of the answer beside the prompts of the search from which on no more is searched for."""
_FAR = 0.3
"""How far scores may sum to something else than 1 before that is said."""


@takes()
def explain_answer(
    model: Any,
    prompt: Any,
    *,
    corrupted: Prompts | None = None,
    unseen: Prompts | None = None,
    most: int = 50,
    goal: float = 0.8,
    smallest: bool = False,
    target: str | int | None = None,
    random: int = 8,
    least_gap: float = LEAST_GAP,
    readings: bool | Literal["auto"] = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> FlowGraph:
    """Find at most ``most`` parts of a run that keep the answer against counterfactual prompts, and say how much they keep.

    A part is an attention term (what one head reads at one position from one source), or what an MLP writes at a position. Each gets a
    score, averaged over the counterfactuals: how much of the answer it brings as all parts are faded in together. The parts of the
    largest scores are the picture. It is then measured by exact runs, with counterfactuals that the search did not see, beside
    pictures by chance: :func:`flowgraph.graph_faithfulness` says how.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    prompt
        A trace, or what can be traced as one prompt.
    corrupted
        Counterfactual prompts for the search, of the same number of tokens and with another answer; None:
        :func:`flowgraph.counterfactuals` proposes them. The answer is compared with the foil of the trace; beside proposals, and
        without a foil, with what each counterfactual run answers.
    unseen
        Counterfactual prompts for the test. None: further proposals; beside several ``corrupted`` prompts, the last third of these.
    most
        Most parts of the picture.
    goal
        The part of the answer that ``smallest`` keeps.
    smallest
        Take out of the picture whatever can be spared while ``goal`` is kept beside the counterfactuals of the search: the figure of
        one contrast. Such a picture keeps less beside others.
    target
        The answer; None: the trace's, or the model's first token.
    random, least_gap, seed
        As for :func:`flowgraph.graph_faithfulness`.
    readings
        Whether nodes carry their reading in vocabulary.
    progress
        Called with a stage in words and the fraction done, None while it is not known.
    cancel
        Asked before each batch of runs.

    Returns
    -------
    FlowGraph
        Method ``"effect"``. The weight of a part is its effect on the logit difference between the answer and the foils, in logits, as
        the parts that are shown are faded in together; all weights sum to what the picture keeps, up to the error of eight midpoints.
        ``graph.caption()`` says what is kept, and ``graph.info.provenance["kept"]`` holds the numbers.

    Raises
    ------
    NoCounterfactualError
        If none is given, and none can be proposed.
    ArgumentError
        If ``most`` is below 1, ``goal`` is not between 0 and 1, or a counterfactual has the same answer or too small a gap.
    PromptError, TargetError, ModelMismatchError, UnsupportedReadingError, CancelledError
        As for :func:`flowgraph.graph_faithfulness`.

    Examples
    --------
    >>> peru, france, egypt = (f"The capital of {place} is the city of" for place in ("Peru", "France", "Egypt"))
    >>> graph = fg.explain_answer(trace.model, trace, corrupted=[peru, france], unseen=egypt)
    >>> graph.info.provenance["kept"]["text"].split(" with ")[0]
    'keeps 87 % of “ Tokyo” rather than “ Cairo” (“ Egypt” for “ Japan”)'
    """
    loaded = load_model(model)
    if most < 1:
        raise ArgumentError(f"most={most} must be at least 1 part")
    if not 0 < goal <= 1:
        raise ArgumentError(f"goal={goal} must lie above 0 and at most at 1: it is a part of the answer")
    told = _Told(progress, cancel)
    told("running the prompt")
    trace = prompt if isinstance(prompt, Trace) else trace_of(loaded, prompt, target=target)
    if not isinstance(trace, Trace):
        raise ArgumentError("prompt= holds several prompts; a picture is of one, so give one")
    if target is not None:
        trace = trace.aimed_at(target)
    if corrupted is None:
        trace = without_foil(trace)
    told("choosing counterfactual prompts")
    searched, held_out = shared_out(loaded, trace, corrupted, unseen, seed=seed, least_gap=least_gap)
    answer = KeptAnswer(loaded, trace, searched, least_gap=least_gap, tick=told.tick)
    search = EffectSearch(answer, goal if smallest else _ENOUGH, told)
    keep = search.chosen(most)
    if smallest:
        told("taking out what can be spared")
        keep, kept = search.pruned(keep)
        if kept >= goal:
            keep, _ = search.exchanged(keep, kept)
    told("weighing the parts that are shown")
    graph = _graph(answer, search, trace, keep)

    def tested(words: str, others: list[Any], chance: int) -> GraphFaithfulness:
        """How much the picture keeps beside some prompts."""
        told(f"testing the picture beside {words}")
        return graph_faithfulness(
            loaded, trace, graph, corrupted=others, random=chance, least_gap=least_gap, seed=seed,
            cancel=cancel,
        )  # fmt: skip

    on_unseen = tested("prompts that the search did not see", held_out, random) if held_out else None
    on_searched = tested("those of the search", searched, 0 if held_out else random)
    graph = _with_statement(graph, on_searched, on_unseen, search)
    call = called(
        "explain_answer", most=most, smallest=smallest or None, goal=goal if smallest else None, seed=seed or None
    )
    graph = replace(graph, info=replace(graph.info, provenance={**graph.info.provenance, "made_by": call}))
    if readings is False or (readings == "auto" and len(graph.nodes) > READ_AT_MOST):
        return graph
    return graph.with_readings(node_readings(trace, graph.nodes))


@dataclass(frozen=True)
class _Told:
    """Tells what is done, and stops the work if that was asked for."""

    progress: Progress | None
    cancel: Callable[[], bool] | None

    def __call__(self, stage: str) -> None:
        self.tick(0)
        if self.progress is not None:
            self.progress(stage, None)

    def tick(self, _rows: int) -> None:
        """Stop if that was asked for."""
        if self.cancel is not None and self.cancel():
            raise CancelledError("the search for the parts behind an answer was cancelled")


def _graph(answer: KeptAnswer, search: EffectSearch, trace: Trace, keep: Int[Tensor, "n"]) -> FlowGraph:
    """The graph of some parts with their effects in logits."""
    effects = search.effects(keep)
    parts = {
        part: float(effects[n]) for n, part in zip(keep.tolist(), answer.numbers.parts(keep.tolist()), strict=True)
    }
    both = answer.runs.both
    differs = (both.ids[1:] != both.ids[:1]).any(0).nonzero()[:, 0].tolist()
    return effect_graph(trace, parts, int(answer.runs.valid.sum()), frozenset(differs))


def _with_statement(
    graph: FlowGraph, on_searched: GraphFaithfulness, on_unseen: GraphFaithfulness | None, search: EffectSearch
) -> FlowGraph:
    """The graph with what was measured; the prompts that the search did not see come first."""
    found = on_searched if on_unseen is None else on_unseen
    low, high = on_searched.band
    said = f"{found.caption()}; the search saw other prompts, and the picture keeps {whole_percent(on_searched.f)} beside these"
    if on_unseen is None:
        said = f"{found.caption()}; measured beside the very prompts of the search, as there was no other"
    if abs(search.scored - 1) > _FAR:
        said += f"; scores of all parts sum to {search.scored:.2f} and not to 1, so gradients miss some of the way"
    return graph.with_faithfulness(
        found.statement()
        | {
            "text": said,
            "unseen": on_unseen is not None,
            "searched": {"f": on_searched.f, "low": low, "high": high},
            "rows": search.rows,
            "scored": search.scored,
        }
    )
