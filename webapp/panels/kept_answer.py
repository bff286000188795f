"""How much of the answer the picture keeps when all that it does not show comes from counterfactual prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import flowgraph
from flowgraph import FlowGraph
from flowgraph.errors import ArgumentError, FlowgraphError, PromptError, UnsupportedReadingError
from flowgraph.render import shown_graph, visible, whole_percent

from ..present import html
from ..present.attributes import named
from ..present.buttons import boxed, test_button
from ..present.drawn import Fact, element, facts
from ..present.errors import sentence
from ..present.figures import plural, probability
from ..recipe import LONGEST_TEXT, Recipe, check_text
from ..server.question import recorded
from ..server.run import RunQuestion
from ..server.traces import Check, Traces, reporting
from .flow import GraphQuestion, OfGraph, OfShown

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from flowgraph import GraphFaithfulness, Trace

MOST_COUNTERFACTUALS = 8
"""Counterfactual prompts that one test takes."""
LEAST_GAP = 1.0
"""Logits by which a counterfactual has to move the answer, as the library has it."""
_TRIED, _PROPOSED = 16, 3
"""Counterfactuals that are looked for, and those that are taken."""
ZERO_HINT = "Run the model once more with all heads’ reads and all MLPs that this picture does not show set to zero; the residual stream stays"
TEST_HINT = "How much of the answer is left when everything that this picture does not show comes from prompts with one word exchanged"
_TAKES = "what can be tested are edges from state to state: choose the method attention, norms, proximity or ff, and show routes or all edges"
_EDIT = "As many tokens as the prompt, one word exchanged, another answer. Change them, or write one of your own in the empty box."
_WRITE = "Write the prompt once more with as many tokens and one word exchanged, so that the answer is another."


@dataclass(frozen=True)
class KeptPicture:
    """What a picture keeps of the answer: the numbers of :class:`flowgraph.GraphFaithfulness`.

    Attributes
    ----------
    text
        All of it in one line.
    f, low, high
        Part of the answer that is kept, the smaller of both measures: mean, least and most over the counterfactuals.
    by_prompt
        It beside each counterfactual.
    lost
        Part that is lost when what is shown is replaced instead.
    rank, probability
        The answer's worst rank (1 is best) and mean probability.
    terms, outputs, mixers, equal, possible
        Numbers of parts, as there.
    answer, foils, exchanged
        The answer, what it is compared with, and the words that differ.
    prompts
        The counterfactual prompts as they can be edited.
    random, random_most, other_heads, other_heads_most
        Mean and most that pictures by chance keep: of as many parts anywhere, and of other heads at the same places; None where
        there are none.
    notes
        What has to be known to read the numbers.
    """

    text: str
    f: float
    low: float
    high: float
    by_prompt: tuple[float, ...]
    lost: float
    rank: int
    probability: float
    terms: int
    outputs: int
    mixers: int
    equal: int
    possible: int
    answer: str
    foils: tuple[str, ...]
    exchanged: tuple[tuple[str, str], ...]
    prompts: tuple[str, ...]
    random: float | None
    random_most: float | None
    other_heads: float | None
    other_heads_most: float | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, found: GraphFaithfulness, prompts: tuple[str, ...]) -> KeptPicture:
        """What the library measured."""
        chance = {"random": found.blind, "other_heads": found.matched}
        bands = {
            name: (None, None) if drawn is None or not drawn.size else (float(drawn.mean()), float(drawn.max()))
            for name, drawn in chance.items()
        }
        names = (
            "f",
            "lost",
            "rank",
            "probability",
            "terms",
            "outputs",
            "mixers",
            "equal",
            "possible",
            "answer",
            "foils",
            "notes",
        )
        return cls(
            text=found.caption(), low=found.band[0], high=found.band[1], by_prompt=tuple(map(float, found.by_pair)),
            exchanged=found.counterfactuals, prompts=prompts, random=bands["random"][0], random_most=bands["random"][1],
            other_heads=bands["other_heads"][0], other_heads_most=bands["other_heads"][1],
            **{name: getattr(found, name) for name in names},
        )  # fmt: skip

    def statement(self) -> dict[str, Any]:
        """It as :meth:`flowgraph.FlowGraph.with_faithfulness` takes it."""
        left_out = ("by_prompt", "prompts", "exchanged", "random_most", "other_heads_most", "equal", "notes")
        said = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in left_out}
        found = said | {
            "foils": list(self.foils),
            "counterfactuals": [list(pair) for pair in self.exchanged],
            "how": "resample",
        }
        return {name: value for name, value in found.items() if value is not None}


@recorded
@dataclass(frozen=True)
class KeptQuestion(OfShown[KeptPicture], OfGraph[KeptPicture]):
    """How much of the answer a picture keeps.

    Attributes
    ----------
    corrupted
        Counterfactual prompts; empty: up to three that the library proposes.
    """

    corrupted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_corrupted(self.corrupted)

    def answer(self, traces: Traces, check: Check) -> KeptPicture:
        """What the picture keeps beside its counterfactuals."""
        trace, shown = tested_picture(self, traces, check)
        texts, prompts = prompts_of(self.run, self.corrupted, trace, traces, check)
        progress, cancel = reporting(check, "testing the picture")
        found = flowgraph.graph_faithfulness(
            trace.model, trace, shown, corrupted=prompts, target=asked_answer(self.corrupted, trace), least_gap=LEAST_GAP,
            progress=progress, cancel=cancel,
        )  # fmt: skip
        return KeptPicture.of(found, texts)


def tested_picture(question: Any, traces: Traces, check: Check) -> tuple[Trace, FlowGraph]:
    """The trace and the picture that a question tests, as the slider shows it.

    Raises
    ------
    ArgumentError
        As for :func:`tested_graph`.
    """
    trace, graph = tested_graph(question, traces, check)
    return trace, shown_graph(graph, question.keep)


def tested_graph(question: Any, traces: Traces, check: Check) -> tuple[Trace, FlowGraph]:
    """The trace, and the graph of which pictures are tested.

    Raises
    ------
    ArgumentError
        If the graph has no edges from state to state, or does not end in the logit.
    """
    if question.show not in ("all", "routes") or traces.weights(question.run, question.method, check).ends_in_logit:
        raise ArgumentError(_TAKES)
    if question.start is not None:
        raise ArgumentError(
            f"this graph shows what reaches {question.start}, and the test is of the logit; go back to the logit first"
        )
    graph = GraphQuestion(**question.about()).answer(traces, check).graph
    return traces.trace(question.run, check), graph


def check_corrupted(corrupted: tuple[str, ...]) -> None:
    """Refuse counterfactual prompts that are too many, or empty."""
    if len(corrupted) > MOST_COUNTERFACTUALS:
        raise ArgumentError(
            f"{len(corrupted)} counterfactual prompts are too many; give at most {MOST_COUNTERFACTUALS}"
        )
    for text in corrupted:
        check_text(text, "corrupted")
        if not text:
            raise PromptError("a counterfactual prompt is empty; write it, or leave it out")


def prompts_of(
    run: RunQuestion, corrupted: tuple[str, ...], trace: Trace, traces: Traces, check: Check
) -> tuple[tuple[str, ...], list[Any]]:
    """Counterfactual prompts as they can be edited, and as they are run; proposed where none is given."""
    known = _known(traces, run) if corrupted else _proposed(traces, run, trace, check)
    texts = corrupted or tuple(known)
    return texts, [known.get(text) or flowgraph.inputs(text=text, chat=run.chat) for text in texts]


def asked_answer(corrupted: Sequence[str], trace: Trace) -> int | None:
    """The answer that is named to the library; None, and so the foil of the page with it, beside prompts that were written.

    A proposal need not move the difference to that foil: what it answers itself is what the answer is compared with.
    """
    return None if corrupted else trace.target


def _known(traces: Traces, run: RunQuestion) -> dict[str, Any]:
    """Proposals that were made before, by their texts."""
    return traces.kept.get(("proposals", run)) or {}


def _proposed(traces: Traces, run: RunQuestion, trace: Trace, check: Check) -> dict[str, Any]:
    """Proposed counterfactuals: text as it can be edited → prompt."""
    progress, cancel = reporting(check, "choosing counterfactual prompts")

    def make() -> dict[str, Any]:
        # A token that is explained itself would bring its change to the answer without a part.
        places = [n for n in range(len(trace.tokens)) if n != trace.position]
        found = flowgraph.counterfactuals(
            trace.model, trace, _TRIED, positions=places, least_gap=2 * LEAST_GAP, progress=progress, cancel=cancel
        )
        # Exchanges of one word for words of one kind ask one question; others come where there are too few.
        alike = found.alike()
        best = [*alike, *(one for one in found if one not in alike)][:_PROPOSED]
        return {_edited(run, trace, one.text): one.prompt for one in best}

    check("choosing counterfactual prompts", None)
    made: dict[str, Any] = traces.made(("proposals", run), make)
    return made


def _edited(run: RunQuestion, trace: Trace, text: str) -> str:
    """A proposal as it would be typed: without the chat template around it."""
    before, found, after = (trace.prompt or "").partition(run.text)
    if not (run.chat and found and text.startswith(before) and text.endswith(after)):
        return text
    return text[len(before) : len(text) - len(after)]


def badge(answer: KeptPicture) -> str:
    """Half a line beside the slider: what is kept, against what, and what chance keeps."""
    said = f"keeps {whole_percent(answer.f)} of the answer against {against(answer.exchanged)}"
    said = said if answer.random is None else f"{said}; random pictures {whole_percent(answer.random)}"
    return said.replace(" %", "\N{NO-BREAK SPACE}%")


def against(exchanged: Sequence[tuple[str, str]]) -> str:
    """The words that stand in the counterfactual prompts, of many the first two."""
    words = [f"‘{_bare(other)}’" for other in dict.fromkeys(other for _, other in exchanged)]
    more = [f"{len(words) - 2} more"] if len(words) > 3 else []
    return _listed([*words[: 2 if more else 3], *more], "and")


def _bare(word: str) -> str:
    """A word without the space before it."""
    return visible(word.strip(" ")) or visible(word)


def _listed(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def kept_box(answer: KeptPicture) -> Component:
    """What a picture keeps, beside what chance keeps, and the prompts that it was measured with."""
    foils = _listed(list(dict.fromkeys(f"‘{visible(foil)}’" for foil in answer.foils)), "or")
    several = len(answer.by_prompt) > 1 and answer.low != answer.high
    kinds = [plural(answer.terms, "attention term"), plural(answer.outputs - answer.mixers, "MLP")]
    kinds += [plural(answer.mixers, "mixer")] if answer.mixers else []
    rows: list[Fact] = [
        (
            "kept",
            element("b", whole_percent(answer.f)),
            f"{whole_percent(answer.low)} to {whole_percent(answer.high)}" if several else "",
        ),
        *_chance("random pictures", answer.random, answer.random_most),
        *_chance("other heads there", answer.other_heads, answer.other_heads_most),
        ("lost without it", whole_percent(answer.lost), ""),
        ("rank of the answer", f"{answer.rank:,}", ""),
        ("its probability", probability(answer.probability), ""),
        ("parts shown", f"{answer.terms + answer.outputs:,}", f"of {answer.possible:,}"),
    ]
    said = (
        f"Of ‘{visible(answer.answer)}’ rather than {foils}, with {_listed(kinds, 'and')}: everything that is not shown comes from the prompts "
        "below. The smaller of both measures, log-probability and logit difference, is stated; 100 % is the model itself, 0 % the other prompt."
    )
    notes = element("p", " ".join(answer.notes), cls="note") if answer.notes else None
    title = "Test of this graph"
    tree = element("div", element("h3", title), facts(rows), element("p", said, cls="note"), notes, cls="details")
    return boxed(tree, title, *_form(answer.prompts, answer))


def _chance(name: str, mean: float | None, most: float | None) -> list[Fact]:
    if mean is None or most is None:
        return []
    return [(name, whole_percent(mean), f"at most {whole_percent(most)}")]


def refused_box(recipe: Recipe, error: FlowgraphError, given: Sequence[str]) -> Component:
    """Why a picture was not tested, and what can be done instead."""
    title = "Not tested"
    tree = element("div", element("h3", title), element("p", sentence(str(error))), cls="details")
    if recipe.show not in ("all", "routes") or recipe.start is not None or str(error) == _TAKES:
        return boxed(tree, title)
    if isinstance(error, UnsupportedReadingError):
        return boxed(tree, title, _zeros())
    return boxed(tree, title, *_form(given, None))


def _form(prompts: Sequence[str], answer: KeptPicture | None) -> list[Component]:
    """The counterfactual prompts, each to be edited, and one that is empty; and what asks for another test."""
    boxes = []
    for n, text in enumerate((*prompts, "")[:MOST_COUNTERFACTUALS]):
        about, kept = "One of your own", ""
        if answer is not None and n < len(answer.exchanged):
            own, other = answer.exchanged[n]
            about, kept = f"‘{_bare(other)}’ for ‘{_bare(own)}’", f" · {whole_percent(answer.by_prompt[n])}"
        elif n < len(prompts):
            about = "Counterfactual prompt"
        words = html.Textarea(
            text, rows="2", maxLength=str(LONGEST_TEXT), spellCheck="false", className="corrupted", key=f"{n}{text}",
            **named({"data-counterfactual": "", "aria-label": about}),
        )  # fmt: skip
        title = html.Span([about, html.Span(kept, className="kept-there")])
        boxes.append(html.Label([title, words], className="counterfactual"))
    return [
        html.P(_EDIT if prompts else _WRITE, className="note"),
        *boxes,
        html.Div([test_button("graph", "Test with these", TEST_HINT), _zeros()], className="do-next"),
    ]


def _zeros() -> Component:
    hint = f"{ZERO_HINT}. Zeros take the model far from all it has seen"
    return test_button("graph.zero", "Set to zero instead", hint)
