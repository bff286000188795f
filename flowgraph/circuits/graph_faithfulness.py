"""How true a picture is: the part of the answer that its parts keep when everything else comes from counterfactual runs.

Parts are attention terms (layer, head, query, source) and MLPs at positions; :mod:`flowgraph.interventions.part_runs` says how a run
with some of them shown is made. Beside the picture stand pictures of as many parts chosen by chance: *blind*, anywhere, and *matched*,
with the same MLPs, and terms of other heads in the same layers between the same positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import printable, whole_percent
from ..errors import ArgumentError, ModelMismatchError
from ..interventions.graph_parts import graph_parts
from ..interventions.metrics import Metric, metric_of
from ..interventions.part_runs import Keys
from ..interventions.parts import PartNumbers
from ..interventions.prompts import Answers, Prompts
from ..interventions.ticks import ticking
from ..models import LoadedModel, load_model
from ..models.wheel import Progress
from ..values.arguments import takes
from ..values.flow_graph import FlowGraph
from .contrasts import SEARCHED, proposed, without_foil
from .kept_answer import LEAST_GAP, KeptAnswer

_LIST_MLPS = frozenset({"norms", "proximity", "effect"})
"""Methods that give MLPs a number, so that an MLP that is not drawn was left out."""


@dataclass(frozen=True, eq=False)
class GraphFaithfulness(Result):
    """The part of the answer that a picture keeps.

    Attributes
    ----------
    by_measure
        [pair, measure] part of the gap that is kept beside each counterfactual: of the logit difference, and of the answer's
        log-probability; or of the one metric that was asked for. 1 is the clean run, 0 the counterfactual's; not clipped.
    without
        [pair, measure] the same with the parts that are shown replaced, and all others live.
    blind
        [draw, pair] smaller part that pictures of as many terms and MLPs keep, chosen anywhere.
    matched
        [draw, pair] the same of pictures with the same MLPs, and other heads in the same layers between the same positions; None where
        no other head is left to choose, as in pictures that show all heads together.
    gaps
        [pair, measure] clean run less counterfactual, in the measure's unit.
    ranks, probabilities
        [pair] the answer's rank (1 is best) and probability in the run of the picture.
    terms, outputs, mixers
        Number of attention terms, of MLPs and mixers at positions, and of mixers among these, that are shown from the first token on
        that differs.
    equal
        Number of shown parts before that token: they are equal in both runs, so they can neither be missed nor counted.
    possible
        How many parts the run has from that token on.
    measures
        Names of the measures.
    answer, foils
        The answer, and what it is compared with beside each counterfactual.
    counterfactuals
        What differs in each counterfactual prompt: the words of the prompt, and those in their place.
    model, method
        Name of the model, and the graph's method.
    how
        What stands in the place of parts that are not shown: ``"resample"``, what they gave in the counterfactual run.
    notes
        What has to be known to read the numbers, in sentences.
    """

    by_measure: Float[np.ndarray, "pair measure"]
    without: Float[np.ndarray, "pair measure"]
    blind: Float[np.ndarray, "draw pair"]
    matched: Float[np.ndarray, "draw pair"] | None
    gaps: Float[np.ndarray, "pair measure"]
    ranks: Int[np.ndarray, "pair"]
    probabilities: Float[np.ndarray, "pair"]
    terms: int
    outputs: int
    mixers: int
    equal: int
    possible: int
    measures: tuple[str, ...]
    answer: str
    foils: tuple[str, ...]
    counterfactuals: tuple[tuple[str, str], ...]
    model: str
    method: str
    how: str
    notes: tuple[str, ...]

    @property
    def by_pair(self) -> Float[np.ndarray, "pair"]:
        """[pair] the smaller part of both measures, beside each counterfactual."""
        smallest: np.ndarray = self.by_measure.min(1)
        return smallest

    @property
    def f(self) -> float:
        """Mean over the counterfactuals of the smaller part that is kept; 1 is the clean run, 0 the counterfactual's."""
        return float(self.by_pair.mean())

    @property
    def band(self) -> tuple[float, float]:
        """Smallest and largest of ``by_pair``."""
        return float(self.by_pair.min()), float(self.by_pair.max())

    @property
    def random(self) -> float:
        """Mean of what blind pictures of as many parts keep; NaN where none was drawn."""
        return float(self.blind.mean()) if self.blind.size else float("nan")

    @property
    def lost(self) -> float:
        """Mean part of the answer that is lost when the shown parts alone are replaced: 1 less the larger part that is left."""
        return float(1 - self.without.max(1).mean())

    @property
    def rank(self) -> int:
        """The answer's worst rank beside the counterfactuals; 1 is best."""
        return int(self.ranks.max())

    @property
    def probability(self) -> float:
        """The answer's mean probability in the runs of the picture."""
        return float(self.probabilities.mean())

    def caption(self) -> str:
        """One line for a figure: what is kept, of which answer, against which counterfactuals, and what chance keeps.

        Examples
        --------
        >>> graph = fg.keep_strongest(fg.build_graph(trace, level="head"), max_edges=300)
        >>> found = fg.graph_faithfulness(trace.model, trace, graph, corrupted="The capital of Peru is the city of")
        >>> found.caption().split(";")[0]
        'keeps 59 % of “ Tokyo” rather than “ Lima” (“ Peru” for “ Japan”) with 10 attention terms and 23 MLPs'
        """
        foils = " or ".join(dict.fromkeys(_quoted(foil) for foil in self.foils))
        words = ", ".join(f"{_quoted(other)} for {_quoted(own)}" for own, other in self.counterfactuals)
        several = "" if len(self.foils) == 1 else f" ({whole_percent(self.band[0])} to {whole_percent(self.band[1])})"
        chance = []
        if self.blind.size:
            chance.append(f"random pictures of as many parts {whole_percent(self.random)}")
        if self.matched is not None and self.matched.size:
            chance.append(
                f"other heads at the same places {whole_percent(float(self.matched.mean()))} (at most {whole_percent(float(self.matched.max()))})"
            )
        said = f"keeps {whole_percent(self.f)}{several} of {_quoted(self.answer)} rather than {foils} ({words}) with {self._parts}"
        return "; ".join([said, *chance])

    def statement(self) -> dict[str, Any]:
        """Plain data for a graph's files: ``text``, and the numbers behind it."""
        low, high = self.band
        found: dict[str, Any] = {
            "text": self.caption(), "f": self.f, "low": low, "high": high, "lost": self.lost, "rank": self.rank,
            "probability": self.probability, "terms": self.terms, "outputs": self.outputs, "mixers": self.mixers, "possible": self.possible,
            "answer": self.answer, "foils": list(self.foils), "counterfactuals": [list(pair) for pair in self.counterfactuals],
            "how": self.how,
        }  # fmt: skip
        if self.blind.size:
            found["random"] = self.random
        if self.matched is not None and self.matched.size:
            found["other_heads"] = float(self.matched.mean())
        return found

    @property
    def _parts(self) -> str:
        kinds = [_count(self.terms, "attention term"), _count(self.outputs - self.mixers, "MLP")]
        kinds += [_count(self.mixers, "mixer")] if self.mixers else []
        return f"{', '.join(kinds[:-1])} and {kinds[-1]}"

    def __repr__(self) -> str:
        return f"GraphFaithfulness({self.caption()}; {self.model!r}, {self.method!r})"

    def table(self) -> Table:
        """One row for each counterfactual: what differs, the gap, what is kept by each measure, without the picture, and by chance."""
        columns: dict[str, Any] = {
            "prompt_has": [own for own, _ in self.counterfactuals],
            "counterfactual_has": [other for _, other in self.counterfactuals],
            "foil": list(self.foils),
            "kept": self.by_pair,
        }
        for n, name in enumerate(self.measures):
            label = name.replace(" ", "_").replace("-", "_")
            columns[f"kept_{label}"] = self.by_measure[:, n]
            columns[f"gap_{label}"] = self.gaps[:, n]
            columns[f"without_{label}"] = self.without[:, n]
        columns |= {"rank": self.ranks, "probability": self.probabilities}
        if self.blind.size:
            columns |= {"random": self.blind.mean(0), "random_largest": self.blind.max(0)}
        if self.matched is not None and self.matched.size:
            columns |= {"other_heads": self.matched.mean(0), "other_heads_largest": self.matched.max(0)}
        return Table(
            self.caption(), columns, words=("prompt_has", "counterfactual_has", "foil"), note=" ".join(self.notes)
        )

    def chart(self) -> Table:
        """The table."""
        return self.table()

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays among the attributes."""
        names = ("by_measure", "without", "blind", "gaps", "ranks", "probabilities")
        found = {name: getattr(self, name) for name in names}
        return found if self.matched is None else found | {"matched": self.matched}


@takes()
def graph_faithfulness(
    model: Any,
    trace: Prompts,
    graph: FlowGraph,
    *,
    corrupted: Prompts | None = None,
    how: Literal["resample"] = "resample",
    random: int = 8,
    metric: Metric | Callable[..., Any] | None = None,
    target: Answers = None,
    foil: Answers = None,
    keys: Keys = "shown",
    least_gap: float = LEAST_GAP,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> GraphFaithfulness:
    """Measure how much of the answer a picture keeps when all that it does not show comes from counterfactual runs.

    A part is what one head reads at one position from one source, or what an MLP or a mixer writes at a position. A part that is shown is
    computed from the state that reaches it; every other part adds what it added in the run of the counterfactual prompt. The residual
    stream and the embedding are free: they carry what shown parts added, and the tokens that differ. If the explained token itself
    differs, its embedding reaches the logits without a part.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    trace
        The prompt of the graph: its trace, or what can be traced.
    graph
        A graph of flow between states: of :func:`flowgraph.build_graph`, :func:`flowgraph.routes`, :func:`flowgraph.keep_strongest` …
    corrupted
        One or several counterfactual prompts of the same number of tokens, whose answer is another: best with one word exchanged.
        None: up to three that :func:`flowgraph.counterfactuals` proposes.
    how
        ``"resample"``: a part that is not shown gives what it gave in the counterfactual run. Zeros, which take a model far from all it
        has seen, are :func:`flowgraph.ablate` with ``outside=True``.
    random
        Number of blind and of matched pictures by chance; 0 for none.
    metric
        One measure instead of logit difference and log-probability, of which the smaller part counts.
    target, foil
        The answer, and what it is compared with, one or one for each counterfactual; default the trace's, then the first prediction of
        each run. Beside proposals a trace's foil is not used.
    keys
        Which keys of a head that is shown are live at a query: those of sources that are shown (``"shown"``), so that nothing unseen
        enters through the softmax, or ``"all"``.
    least_gap
        Least difference that a counterfactual has to make, in logits; a tenth of it for log-probability, in nats.
    seed
        Of the pictures by chance.
    progress, cancel
        As for :func:`flowgraph.head_effects`.

    Raises
    ------
    ArgumentError
        If the graph is of another prompt or shows no flow between states, or a counterfactual has the same answer or too small a gap.
    PromptError
        If a counterfactual has another number of tokens.
    ModelMismatchError
        If the graph is of another model.
    UnsupportedReadingError
        If the model has no head, gates heads' outputs or reads an encoder.
    CancelledError
        If ``cancel`` said so.

    References
    ----------
    Wang et al. (2022), "Interpretability in the Wild", for faithfulness; Zhang & Nanda (2023), "Towards best practices of activation
    patching", for counterfactual prompts in place of zeros.

    Examples
    --------
    >>> graph = fg.keep_strongest(fg.build_graph(trace, level="head"), max_edges=300)
    >>> found = fg.graph_faithfulness(trace.model, trace, graph, corrupted="The capital of Peru is the city of")
    >>> found.terms, found.outputs
    (10, 23)
    >>> round(found.f, 1), abs(found.random) < 0.01
    (0.6, True)
    """
    loaded = load_model(model)
    if random < 0:
        raise ArgumentError(f"random={random} must be 0 (no pictures by chance) or more")
    answer = answer_beside(
        loaded, trace, graph, corrupted, target=target, foil=foil, metric=metric, keys=keys, least_gap=least_gap, seed=seed
    )  # fmt: skip
    shown, equal, notes = shown_parts(answer, graph)
    draw = np.random.default_rng(seed)
    masks = [shown, answer.runs.valid & ~shown]
    masks += [blind_picture(answer.numbers, answer.runs.valid, shown, draw) for _ in range(random)]
    masks += [
        one
        for _ in range(random)
        if (one := matched_picture(answer.numbers, answer.runs.valid, shown, draw)) is not None
    ]
    answer.runs.tick = ticking("testing the picture", len(masks) * answer.pairs, progress, cancel, unit="runs")
    kept = answer.of(torch.stack(masks))
    by_mask = kept.by_measure.double().cpu().unflatten(0, (len(masks), answer.pairs)).numpy()
    smallest = by_mask.min(2)
    strings_of = loaded.answers.strings
    numbers = answer.numbers
    return GraphFaithfulness(
        by_measure=by_mask[0], without=by_mask[1], blind=smallest[2 : 2 + random],
        matched=smallest[2 + random :] if len(masks) > 2 + random else None,
        gaps=answer.gaps.double().cpu().numpy(), ranks=kept.rank[: answer.pairs].cpu().numpy(),
        probabilities=kept.probability[: answer.pairs].cpu().numpy(), terms=int(shown[: numbers.terms].sum()),
        outputs=int(shown[numbers.terms :].sum()),
        mixers=int(shown[numbers.terms + numbers.outputs :].sum()), equal=equal, possible=int(answer.runs.valid.sum()),
        measures=tuple(one.name for one in answer.measures), answer=strings_of([answer.target])[0],
        foils=tuple(strings_of(answer.foils.tolist())), counterfactuals=differences(answer),
        model=loaded.name, method=graph.info.method, how=how, notes=notes,
    )  # fmt: skip


def answer_beside(
    loaded: LoadedModel, trace: Prompts, graph: FlowGraph, corrupted: Prompts | None, *, target: Answers, foil: Answers,
    metric: Metric | Callable[..., Any] | None, keys: Keys, least_gap: float, seed: int,
) -> KeptAnswer:  # fmt: skip
    """The prompt of a graph, and the counterfactuals that its pictures are tested with; arguments as there.

    Raises
    ------
    ArgumentError, PromptError, ModelMismatchError, UnsupportedReadingError
        As for :func:`graph_faithfulness`.
    """
    if graph.info.model != loaded.name:
        raise ModelMismatchError(
            f"the graph is of {graph.info.model!r}, and the model is {loaded.name!r}; give the graph's own model"
        )
    if corrupted is None:
        if not (target is None or isinstance(target, str | int)):
            raise ArgumentError(
                f"target={target!r}: proposals are made for one answer; give one, or your own prompts as corrupted"
            )
        corrupted = proposed(loaded, trace, target=target, seed=seed, least_gap=least_gap)[:SEARCHED]
        trace = without_foil(trace)
    answer = KeptAnswer(
        loaded, trace, corrupted, target=target, foil=foil, metric=None if metric is None else metric_of(metric), keys=keys,
        least_gap=least_gap,
    )  # fmt: skip
    strings = tuple(loaded.vocabulary.strings(answer.runs.both.ids[0].tolist()))
    if graph.info.tokens != strings and answer.runs.both.values is None:
        raise ArgumentError(
            f"the graph is of the prompt {_quoted(''.join(graph.info.tokens))}, and this one is {_quoted(''.join(strings))}; give the graph's own prompt"
        )
    return answer


def blind_picture(
    numbers: PartNumbers, valid: Bool[Tensor, "part"], shown: Bool[Tensor, "part"], draw: np.random.Generator
) -> Bool[Tensor, "part"]:
    """[part] as many terms, and as many MLPs and mixers, as a picture shows, drawn from all that exist."""
    mask = torch.zeros_like(shown)
    for one in (slice(numbers.terms), slice(numbers.terms, None)):
        possible = valid[one].nonzero()[:, 0].numpy()
        chosen = draw.choice(possible, int(shown[one].sum()), replace=False)
        mask[one] = mask[one].index_fill(0, torch.from_numpy(chosen), True)
    return mask


def matched_picture(
    numbers: PartNumbers, valid: Bool[Tensor, "part"], shown: Bool[Tensor, "part"], draw: np.random.Generator
) -> Bool[Tensor, "part"] | None:
    """[part] the same MLPs and mixers, and as many other heads in each layer between each two positions.

    Heads that are shown are taken where there are not enough others. None where no other head is left anywhere.
    """
    shape = (numbers.n_layers, numbers.n_heads, numbers.rows, numbers.n_tokens)
    mask = shown.clone()
    terms, possible = mask[: numbers.terms].view(shape), valid[: numbers.terms].view(shape)
    places = terms.any(1).nonzero().tolist()
    moved = False
    for layer, row, source in places:
        own = terms[layer, :, row, source].clone()
        others = (possible[layer, :, row, source] & ~own).nonzero()[:, 0].numpy()
        wanted = int(own.sum())
        chosen = draw.permutation(others)[:wanted]
        moved |= len(chosen) > 0
        rest = draw.permutation(own.nonzero()[:, 0].numpy())[: wanted - len(chosen)]
        new = torch.zeros_like(own)
        new[torch.from_numpy(np.concatenate([chosen, rest]))] = True
        terms[layer, :, row, source] = new
    return mask if moved else None


def shown_parts(answer: KeptAnswer, graph: FlowGraph) -> tuple[Bool[Tensor, "part"], int, tuple[str, ...]]:
    """[part] what a graph shows, with what it cannot show; how many parts it shows before the first change; and sentences on that."""
    anatomy, numbers = answer.loaded.anatomy, answer.numbers
    found = graph_parts(graph, anatomy, numbers.n_tokens)
    terms, mlps, mixers = found.shown.clone(), found.mlps | found.experts, found.mixers.clone()
    notes = []
    window = range(*graph.info.layers)
    outside = [layer for layer in range(numbers.n_layers) if layer not in window]
    if outside:
        terms[outside], mlps[outside], mixers[outside] = True, True, True
        notes.append(f"The graph is of layers {window[0]} to {window[-1]}; parts of all other layers stay in.")
    if graph.info.method not in _LIST_MLPS and not bool(mlps[window.start : window.stop].any()):
        mlps[window.start : window.stop] = True
        notes.append(f"MLPs stay in: the graph of method {graph.info.method!r} shows none.")
    if anatomy.has_mixers and not bool(mixers[window.start : window.stop].any()):
        mixers[window.start : window.stop] = True
        notes.append("Mixers stay in: the graph shows none.")
    if bool(found.experts.any()):
        notes.append("An MLP of which any expert is shown counts as shown whole.")
    if answer.runs.live_layers:
        layers = ", ".join(map(str, answer.runs.live_layers))
        notes.append(
            f"In layers {layers} all keys are live: their patterns cannot be made again from queries and keys."
        )
    differs = (answer.runs.both.ids[1:] != answer.runs.both.ids[:1]).any(0)
    at = int(answer.runs.both.positions[0])
    if bool(differs[at]):
        notes.append("The explained token differs itself: its embedding reaches the logits without a part.")
    before = slice(numbers.first)
    equal = int(found.shown[:, :, before].sum()) + sum(int(one[:, before].sum()) for one in (found.mlps, found.mixers))
    return numbers.joined(terms, mlps, mixers) & answer.runs.valid, equal, tuple(notes)


def differences(answer: KeptAnswer) -> tuple[tuple[str, str], ...]:
    """What each counterfactual has in the place of what."""
    both, strings = answer.runs.both, answer.loaded.vocabulary.strings
    found = []
    for ids in both.ids[1:]:
        places = (ids != both.ids[0]).nonzero()[:, 0].tolist()
        own, other = ("".join(strings([int(of[n]) for n in places])) for of in (both.ids[0], ids))
        found.append((own, other))
    return tuple(found)


def _quoted(text: str) -> str:
    return f"“{printable(text)}”"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
