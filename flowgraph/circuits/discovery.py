"""Circuit discovery: find the edges by which a model does a task, as a graph without positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float

from ..errors import ArgumentError, PromptError
from ..interventions.ablation import Ablation
from ..interventions.edges import whole_network
from ..interventions.metrics import Metric, metric_of
from ..interventions.prompts import Answers, Prompts, in_words, prompts_of
from ..models import load_model
from ..models.wheel import Progress
from ..tasks import TaskData
from ..tasks.examples import GIVEN
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from .attribution import POINTS, Points, Scores, attribution, is_sure
from .backward import Found, backward_discovery
from .circuit_graph import circuit_graph
from .memory import MAX_BYTES, search_size
from .pairs import Pairs, Runs, Search, Spending, pairs_of
from .pruning import ALL_BELOW, prune_greedily

DiscoveryMethod = Literal["backward", "eap-ig-exact", "eap", "eap-qk", "eap-ig", "gradient", "acdc"]
METHODS: tuple[str, ...] = get_args(DiscoveryMethod)
_CONFIRMING = ("backward", "eap-ig-exact", "acdc")
"""Methods that cut edges as long as the budget lasts."""
_MARGIN = 0.5
"""A score is a guess, so an edge is cut if its score reaches this part of the threshold."""
FORWARDS = 500
"""Forwards for each prompt that a search may run, unless ``budget`` says otherwise."""


# A caller may be in inference mode, whose tensors autograd cannot use.
@takes()
@torch.inference_mode(mode=False)
def discover(
    model: Any,
    *,
    clean: Prompts | None = None,
    corrupted: Prompts | None = None,
    target: Answers = None,
    foil: Answers = None,
    data: TaskData | None = None,
    method: DiscoveryMethod = "backward",
    metric: Metric | Callable[..., Any] | None = None,
    how: Ablation = "resample",
    budget: int | None = None,
    threshold: float = 0.01,
    top_k: int | None = None,
    steps: int = 5,
    points: Points = "right",
    shortlist: int = 500,
    bootstrap: int = 0,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> FlowGraph:
    """Find the edges between embedding, heads, MLPs and logits by which a model does a task.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    clean, corrupted
        One or several prompts of one length, and a corrupted one for each or one for all.
    target, foil
        As for :func:`flowgraph.patch`.
    data
        In place of these, examples of a task; they may differ in length.
    method
        ``"backward"``: edges shortlisted by estimates that see through saturated attention, and confirmed by exact patching.
        ``"eap-ig-exact"``: the edges with the largest scores of ``"eap-ig"``, confirmed by exact patching, the strongest first; where
        attention is saturated these scores see nothing, and ``"backward"`` does.
        First-order scores of every edge, not confirmed: ``"eap"`` (change · gradient), ``"eap-qk"`` (with attention run again
        for edges into queries and keys), ``"eap-ig"`` (gradients averaged over ``steps`` runs between corrupted and clean
        embeddings), ``"gradient"`` (activation × gradient: the change is that of zero ablation). ``"acdc"``: edges of a
        shortlist taken away one after the other.
    metric
        As for :func:`flowgraph.gradients`; it has to have a gradient on the clean run.
    how
        Input that a cut edge brings. ``"resample"``: the source's output in the corrupted run. ``"mean"``: its mean output over the
        corrupted prompts of the same length, position by position, at least two of each length. ``"zero"``: zeros.
    budget
        Most forwards of one prompt, from the tokens on or resumed at a layer; default 500 for each prompt, and for ``"acdc"``
        what its shortlist needs. The strongest estimates of the whole model are tested first; ``info.options["untested"]`` counts
        the edges that the budget did not reach.
    threshold
        Smallest |effect|, as a part of the gap, the mean metric of the clean runs less that of the corrupted ones.
    top_k
        Keep the k strongest edges at most.
    steps
        Number of runs of ``"eap-ig"``.
    points
        Where those of ``"eap-ig"`` lie in ``steps`` equal parts of the line from the corrupted embeddings to the clean ones.
        ``"left"``: at their corrupted ends, so that the corrupted run is one of them, as the reference code and the Mechanistic
        Interpretability Benchmark have it. ``"right"``: at their clean ends. ``"midpoint"``: in the middle.
    shortlist
        Number of edges of ``"acdc"``, by their scores with the QK fix, that are not taken away at the start; models with fewer
        than 5,000 edges are pruned whole.
    bootstrap, seed
        Of methods that score every edge: how often as many prompts are drawn from the prompts, with replacement. An edge whose score
        has not one sign in 97.5 % of the draws has no effect then. 0: no draws. Prompts are scored one by one.
    max_bytes
        Memory to work in, besides the model: as many prompts run together as :func:`discovery_size` says fit. ``"backward"`` and
        ``"acdc"`` also hold runs of every prompt until the end, which have to fit.
    progress, cancel
        As for :func:`flowgraph.head_effects`; the first stage says how many forwards are run, and how much memory is used, at most.

    Returns
    -------
    FlowGraph
        A graph without positions, which :func:`flowgraph.ablate` takes as it stands. ``weight`` is the contribution of an edge,
        m(clean) − m(edge cut) in the metric's unit: positive if the edge supports the answer, negative if it works against it. It
        is the negative of the effect that :func:`flowgraph.edge_effects` gives. ``share`` is the part of all known contributions
        into the same node. Keys and values of grouped heads end at their group (``L3KV1``). ``info.options`` holds ablation,
        metric, prompts, task, corruption, gap, and the number of runs: ``forwards``, ``backwards``, and ``layer_runs``, estimates by one layer
        alone.

    Raises
    ------
    ArgumentError
        If the corrupted prompts change nothing, no edge is found, ``max_bytes`` does not suffice, or an argument cannot be used.
    CancelledError
        If ``cancel`` said so.
    PromptError
        If ``how="mean"`` has no two prompts of a length to average; and as for :func:`flowgraph.patch`.
    TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.patch`.

    References
    ----------
    Wang et al. (2022), "Interpretability in the Wild", for circuits and path patching; Conmy et al. (2023), "Towards Automated
    Circuit Discovery for Mechanistic Interpretability" (ACDC); Syed et al. (2023), "Attribution Patching Outperforms Automated
    Circuit Discovery" (EAP, and a shortlist by it before ACDC); Hanna et al. (2024), "Have Faith in Faithfulness" (EAP-IG);
    Kramár et al. (2024), "AtP*" (QK fix). The backward search by real changes is this project's own.
    """
    _check(method, how, budget, threshold, top_k, steps, shortlist, points)
    _check_draws(method, bootstrap)
    how = "zero" if method == "gradient" else how
    loaded = load_model(model)
    loaded.require_head("a circuit for the answer")
    network = whole_network(loaded.anatomy)
    parts = pairs_of(loaded, clean, corrupted, target=target, foil=foil, data=data)
    if how == "mean":
        _check_averages(parts)
    lengths = [pairs.clean.lengths for pairs in parts for _ in range(len(pairs))]
    size = search_size(loaded, lengths, method, how=how, max_bytes=max_bytes, apart=bootstrap > 0)
    # Prompts run in parts that fit; the search asks each part in turn, so the result does not depend on the sizes.
    parts = [part for pairs in parts for part in pairs.split(size.at_once[pairs.clean.lengths])]
    count = len(lengths)
    if bootstrap and count < 2:
        raise ArgumentError(
            f"bootstrap={bootstrap} draws prompts from one prompt, which says nothing; give several, or leave it out"
        )
    most = (ALL_BELOW if method == "acdc" else FORWARDS) * count if budget is None else budget
    search = Search(loaded, network, parts, metric_of(metric), how, Spending(most), progress, cancel)
    needed = least_budget(search, method, steps, points)
    forwards = most if method in _CONFIRMING else needed
    search.tell(f"at most {forwards:,} forwards of a prompt, working in {size.total / 2**20:,.0f} MiB at most", 0.0)
    with loaded.lock:
        found, gap = _search(search, method, threshold, steps, points, shortlist, (bootstrap, seed))
    if not found.chosen.any():
        raise ArgumentError(_nothing(search, found, threshold, gap))
    notes: dict[str, float | int | str] = {
        "ablation": search.how,
        "metric": search.metric.name,
        "prompts": count,
        "gap": float(f"{gap:.6g}"),
    }
    if data is not None:
        notes["task"] = data.name
    if how != "zero":
        notes["corruption"] = GIVEN if data is None else data.corruption
    spent = search.spending
    notes |= {"forwards": spent.forwards, "backwards": spent.backwards, "layer_runs": spent.layer_runs}
    if budget is not None or method in _CONFIRMING:
        notes["budget"] = most
    return circuit_graph(search, found, method, notes=notes | found.notes, threshold=threshold, top_k=top_k)


@takes()
def discovery_size(
    model: Any,
    clean: Prompts | None = None,
    *,
    data: TaskData | None = None,
    method: DiscoveryMethod = "backward",
    how: Ablation = "resample",
    steps: int = 5,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Bytes that :func:`discover` will work in at most besides the model, known before it runs.

    Parameters
    ----------
    model, clean, data, method, how, steps, max_bytes
        As for :func:`discover`.

    Raises
    ------
    ArgumentError
        If ``max_bytes`` does not suffice, or an argument cannot be used.
    PromptError
        As for :func:`discover`.

    Examples
    --------
    >>> fg.discovery_size(trace.model, trace) < 2**28
    True
    """
    _check(method, how, None, 0.0, None, steps, 1, "right")
    loaded = load_model(model)
    whole_network(loaded.anatomy)
    if data is not None:
        lengths = [own for own, several in data.checked(loaded).of_lengths(loaded).items() for _ in several]
    elif clean is not None:
        lengths = [prompt.lengths for prompt in prompts_of(loaded, clean, "clean")]
    else:
        raise ArgumentError("give clean= prompts, or data= with examples of a task")
    return search_size(loaded, lengths, method, how="zero" if method == "gradient" else how, max_bytes=max_bytes).total


def least_budget(search: Search, method: str, steps: int, points: Points) -> int:
    """The forwards that a method always needs; refuses a budget that does not suffice for them."""
    integrated = 1 + steps + (points != "right")
    runs = {"backward": 3, "acdc": 6, "eap-ig": integrated, "eap-ig-exact": integrated + 3}.get(method, 2)
    needed = (runs + (search.how == "mean")) * search.count
    if search.spending.budget < needed:
        raise ArgumentError(
            f"budget={search.spending.budget} is too small: method={method!r} runs {needed} forwards for {search.count} prompts "
            "before it can test an edge"
        )
    return needed


def _check_averages(parts: Sequence[Pairs]) -> None:
    for pairs in parts:
        if len(pairs) < 2:
            raise PromptError(
                f"how='mean' averages the corrupted prompts position by position, and there is 1 of {in_words(pairs.clean.lengths)}; "
                "give at least two of each length, or say how='resample'"
            )


def _search(
    search: Search,
    method: str,
    threshold: float,
    steps: int,
    points: Points,
    shortlist: int,
    draws: tuple[int, int],
) -> tuple[Found, float]:
    if method == "backward":
        clean, corrupted = (
            np.concatenate([getattr(runs.cuts, name) for runs in search.runs]) for name in ("clean", "corrupted")
        )
        gap = search.gap_of(clean, corrupted)
        return backward_discovery(search, _least(threshold, gap)), gap
    is_integrated = method in ("eap-ig", "eap-ig-exact")
    scores = attribution(
        search,
        steps=steps if is_integrated else 1,
        points=points if is_integrated else "right",
        qk_fix=method in ("eap-qk", "acdc"),
        by_part=draws[0] > 0,
    )
    gap = search.gap_of(scores.clean, scores.corrupted)
    if method == "acdc":
        return prune_greedily(search, scores.scores, _least(threshold, gap), shortlist=shortlist), gap
    notes: dict[str, Any] = {"steps": steps, "points": points} if is_integrated else {}
    if method == "eap-ig-exact":
        return _confirmed(search, scores, _least(threshold, gap), notes), gap
    if scores.by_part is not None:
        sure = is_sure(scores.by_part, *draws)
        notes |= {"bootstrap": draws[0], "unsure": int((search.possible & ~sure).sum())}
        scores = replace(scores, scores=np.where(sure, scores.scores, 0.0))
    return _scored(search, scores, _least(threshold, gap), notes), gap


def _least(threshold: float, gap: float) -> float:
    """Smallest |effect| of an edge of the circuit; no effect at all is never enough."""
    # The smallest positive number: with threshold 0 an edge of effect 0 is still no edge of the circuit.
    return max(threshold * abs(gap), float(np.finfo(np.float64).tiny))


def _scored(search: Search, scores: Scores, least: float, notes: dict[str, Any]) -> Found:
    effects: Float[np.ndarray, "source receiver"] = np.where(search.possible, scores.scores, np.nan)
    chosen = search.possible & (np.abs(scores.scores) >= least)
    return Found(effects, chosen, notes)


def _confirmed(search: Search, scores: Scores, least: float, notes: dict[str, Any]) -> Found:
    """The edges with the largest scores, cut one by one as far as the budget goes."""
    size = np.where(search.possible, np.abs(scores.scores), -1.0)
    wanted = np.flatnonzero(size.ravel() >= _MARGIN * least)
    order = wanted[np.argsort(-size.flat[wanted], kind="stable")]
    # Each part of the prompts is run twice more before the first edge is cut.
    tested = order[: max(0, search.spending.left // search.count - 2)]
    places = [(int(s), int(r)) for s, r in zip(*np.unravel_index(tested, size.shape), strict=True)]
    edges, total = [search.edge(*place) for place in places], np.zeros(len(places))
    for n, pairs in enumerate(search.parts):
        search.tell(f"cutting {len(edges):,} edges", n / len(search.parts))
        total += Runs(search, pairs).exact(edges).sum(1)
    effects: Float[np.ndarray, "source receiver"] = np.full(size.shape, np.nan)
    effects.flat[tested] = total / search.count
    chosen = np.abs(np.nan_to_num(effects)) >= least
    return Found(effects, chosen, notes | {"tested": len(tested), "untested": len(order) - len(tested)})


def _check_draws(method: str, bootstrap: int) -> None:
    if bootstrap < 0:
        raise ArgumentError(f"bootstrap={bootstrap} must be 0 (no draws) or more")
    if bootstrap and method in _CONFIRMING:
        raise ArgumentError(
            f"bootstrap={bootstrap} draws the scores of every edge, and method={method!r} cuts edges; say one of "
            f"{', '.join(one for one in METHODS if one not in _CONFIRMING)}"
        )


def _nothing(search: Search, found: Found, threshold: float, gap: float) -> str:
    known = np.abs(found.effects[~np.isnan(found.effects)])
    largest = f"; the largest that is known is {known.max():.3g}" if len(known) else ""
    return (
        f"the circuit is empty: no edge has an effect of threshold={threshold:g} of the gap ({threshold * abs(gap):.3g} "
        f"{search.metric.unit}){largest}. Lower the threshold, raise the budget ({search.spending.budget} forwards, "
        f"{search.spending.forwards} used), or take a metric whose gradient on the clean run is not 0"
    )


def _check(
    method: str,
    how: str,
    budget: int | None,
    threshold: float,
    top_k: int | None,
    steps: int,
    shortlist: int,
    points: str,
) -> None:
    if points not in POINTS:
        raise ArgumentError(f"points={points!r} must be one of {', '.join(POINTS)}")
    if method not in METHODS:
        raise ArgumentError(f"method={method!r} must be one of {', '.join(METHODS)}")
    if how not in get_args(Ablation):
        raise ArgumentError(f"how={how!r} must be one of {', '.join(get_args(Ablation))}")
    if not 0 <= threshold < 1:
        raise ArgumentError(f"threshold={threshold} must be at least 0 and below 1: it is a part of the gap")
    for name, value in (("budget", budget), ("top_k", top_k), ("steps", steps), ("shortlist", shortlist)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name}={value} must be at least 1")
