"""One pass of the model, what it predicts, and what every question about such a pass has in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self

import flowgraph
from flowgraph import FlowGraph
from flowgraph.errors import ArgumentError, FileFormatError, PromptError, UnsupportedReadingError

from ..recipe import Recipe, check_index, check_model, check_text
from .question import A, Question, recorded, require
from .traces import Check, Traces

if TYPE_CHECKING:
    from flowgraph import Trace

BEST = 10
"""Predictions of a run."""
_MOST_LAYERS = 10_000
_ANY_SIZE = 2**62
"""Bytes that no search needs: whether it fits is not what is asked."""


Level = Literal["patterns", "stream", "full"]


@dataclass(frozen=True)
class Prediction:
    """One token that the model may say next: its id and text, its probability and logit."""

    token_id: int
    token: str
    probability: float
    logit: float


@dataclass(frozen=True)
class Run:
    """One pass of the model.

    Attributes
    ----------
    model, family, prompt, tokens, token_ids, position, n_layers, n_heads, layers, causal, target, target_token, foil, foil_token
        As in :class:`flowgraph.Trace`; ``token_ids`` is empty where a saved graph does not say them.
    predictions
        The ten best tokens at ``position``, and after them target and foil where they are not among these; empty without a head.
    has_head, has_attribution
        Whether there are logits; whether a logit is the sum of its parts.
    seconds
        Time of the pass.
    level
        What is known of the model: ``"patterns"``, ``"stream"`` or ``"full"``; see :attr:`flowgraph.LoadedModel.level`.
    is_text
        Whether the positions are tokens of a text; those of a file may be of an image or a sound.
    lacks
        What the library says the model cannot be asked: names of edge methods, ``"circuit"``, and ``"task"`` of an encoder–decoder.
    """

    model: str
    family: str
    prompt: str | None
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    position: int
    n_layers: int
    n_heads: int
    layers: tuple[int, int]
    causal: bool
    target: int | None
    target_token: str | None
    foil: int | None
    foil_token: str | None
    predictions: tuple[Prediction, ...]
    has_head: bool
    has_attribution: bool
    seconds: float
    level: Level = "full"
    is_text: bool = True
    lacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.tokens), "Run.tokens is empty")
        require(len(self.token_ids) in (0, len(self.tokens)), "Run.token_ids does not fit Run.tokens")
        require(0 <= self.position < len(self.tokens), f"Run.position={self.position} is outside the prompt")
        first, stop = self.layers
        require(0 <= first < stop <= self.n_layers <= _MOST_LAYERS, f"Run.layers={self.layers} is no window")
        require(0 <= self.n_heads <= _MOST_LAYERS, f"Run.n_heads={self.n_heads}")


NO_TEXT = (
    "It is of an image or a sound, which this page does not run: trace it in Python, with flowgraph.inputs(image=…) or "
    "flowgraph.inputs(audio=…), save the trace and open it here"
)
"""What can be done with a file that is not of a text."""


@recorded
@dataclass(frozen=True)
class RunQuestion(Question[Run]):
    """One pass of the model, and what it predicts at a position.

    Attributes
    ----------
    model, text, chat, position, target, foil
        As in :class:`~flowgraph_webapp.recipe.Recipe`.
    session
        Id of an opened session in which an answer is looked up first; None: in none.
    """

    model: str
    text: str
    chat: bool = False
    position: int | None = None
    target: int | None = None
    foil: int | None = None
    session: str | None = None

    def __post_init__(self) -> None:
        check_model(self.model)
        check_text(self.text)
        if not self.text:
            raise PromptError("the prompt is empty; write a text, or choose an example")
        if type(self.chat) is not bool:
            raise ArgumentError(f"chat={self.chat!r} cannot be used; expected true or false")
        for name in ("position", "target", "foil"):
            check_index(name, getattr(self, name))

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The run of a recipe.

        Raises
        ------
        PromptError
            If the recipe has no text.
        """
        return cls(recipe.model, recipe.text, recipe.chat, recipe.position, recipe.target, recipe.foil, recipe.session)

    def answer(self, traces: Traces, check: Check) -> Run:
        """What the model says at a position."""
        trace, seconds = traces.run(self, check)
        same = ("family", "prompt", "tokens", "token_ids", "position", "n_layers", "n_heads", "layers", "causal",
                "target", "target_token", "foil", "foil_token")  # fmt: skip
        return Run(
            model=trace.model_name,
            **{name: getattr(trace, name) for name in same},
            predictions=_predictions(trace),
            has_head=trace.model.anatomy.has_head,
            has_attribution=trace.model.has_attribution,
            seconds=seconds,
            level=trace.model.level,
            lacks=_lacks(trace),
        )


def _lacks(trace: Trace) -> tuple[str, ...]:
    """What the library refuses of the trace's model, whatever else is asked."""
    methods = (method for method in flowgraph.EDGE_METHODS.values() if isinstance(method, flowgraph.EdgeMethod))
    refused = [method.name for method in methods if method.refusal(trace.model)]
    try:
        flowgraph.discovery_size(trace.model, trace, method="eap", max_bytes=_ANY_SIZE)
    except UnsupportedReadingError:
        refused.append("circuit")
    if trace.model.anatomy.cross is not None:
        refused.append("task")
    return tuple(refused)


@dataclass(frozen=True)
class OfRun(Question[A], Generic[A]):
    """A question about a run. Session files keep its other fields beside the run, and its answer."""

    run: RunQuestion

    def __post_init__(self) -> None:
        """Refuse fields that cannot be asked for; here none."""

    @classmethod
    def of(cls, recipe: Recipe, *fields: Any, **more: Any) -> Self:
        """About the run of a recipe, with the other fields of the question."""
        return cls(RunQuestion.of(recipe), *fields, **more)

    filed_as: ClassVar[type[Any] | None] = None
    """What session files hold in the answer's place; None: the answer itself."""

    def to_file(self, answer: A, run: Run) -> Any:  # noqa: ARG002  others leave to the run what it says too
        """The answer as session files hold it: a dataclass of texts, numbers, arrays and graphs."""
        return answer

    def from_file(self, filed: Any, run: Run) -> A:  # noqa: ARG002
        """The answer of what :meth:`to_file` gave."""
        answer: A = filed
        return answer

    def refuse_unfit(self, run: Run, answer: A) -> None:
        """Refuse an answer out of a file that does not belong to this question and its run.

        Raises
        ------
        FileFormatError
            If its shapes are not those of the run, or it is about another place than the question.
        """


def run_of(question: Question[Any]) -> RunQuestion | None:
    """The run that a question is about; None for a model's."""
    if isinstance(question, RunQuestion):
        return question
    return question.run if isinstance(question, OfRun) else None


def with_run(question: Question[A], run: RunQuestion) -> Question[A]:
    """The same question about another run."""
    if isinstance(question, OfRun):
        return replace(question, run=run)
    return run if isinstance(question, RunQuestion) else question  # type: ignore[return-value]


def refuse_unfit(run: Run, question: Question[A], answer: A) -> None:
    """Refuse an answer out of a file whose shapes are not those of its run.

    Raises
    ------
    FileFormatError
        If they differ, or the answer is about another place than the question.
    """
    if isinstance(answer, Run):
        same("Run.predictions", all(0 <= p.probability <= 1 for p in answer.predictions), True)
    elif isinstance(question, OfRun):
        question.refuse_unfit(run, answer)


def same(what: str, found: Any, expected: Any) -> None:
    """Refuse a part of an answer that is not what its run needs."""
    if found != expected:
        raise FileFormatError(f"{what} is {str(found)[:80]}; its run needs {str(expected)[:80]}")


def same_run(run: Run, graph: FlowGraph) -> None:
    """Refuse a graph of another prompt or model than a run's."""
    same("the graph's tokens", graph.info.tokens, run.tokens)
    same("the graph's number of layers", graph.info.total_layers, run.n_layers)
    same("the graph's position", graph.info.position < len(run.tokens), True)
    inside_run(run, graph)


def inside_run(run: Run, graph: FlowGraph) -> None:
    """Refuse a graph with nodes that a run does not have."""
    limits = {"layer": run.n_layers, "position": len(run.tokens), "head": max(run.n_heads, 1)}
    for node in graph.nodes:
        for name, below in limits.items():
            value = getattr(node, name)
            if value is not None and value >= below:
                raise FileFormatError(f"the node {node} of a graph has {name}={value}; its run has {below}")


def _predictions(trace: Trace) -> tuple[Prediction, ...]:
    if trace.logits is None:
        return ()
    logits = trace.logits.double()
    probabilities = logits.softmax(-1)
    best: list[int] = logits.topk(min(BEST, len(logits))).indices.tolist()
    asked = [token for token in (trace.target, trace.foil) if token is not None and token not in best]
    word = trace.model.answers.string
    return tuple(Prediction(i, word(i), float(probabilities[i]), float(logits[i])) for i in [*best, *asked])
