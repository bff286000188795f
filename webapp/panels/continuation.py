"""How the model goes on: each of its tokens a button that makes it the token that is explained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from flowgraph.errors import ArgumentError, FlowgraphError, PromptError, UnsupportedReadingError
from flowgraph.render import visible

from ..present import html
from ..present.attributes import named
from ..present.errors import panel_error
from ..present.ids import Id
from ..present.wiring import Ticket, follow, in_browser
from ..recipe import MOST_GENERATED, Recipe, from_query
from ..registered import POSTED
from ..server.asking import ask
from ..server.errors import Cancelled
from ..server.question import recorded, require
from ..server.run import OfRun, RunQuestion
from ..server.traces import Check, Traces, prompt_ids
from .prediction import token_text

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component

    from flowgraph import LoadedModel, Trace

    from ..server.service import Service

_UNREACHED = "cannot be explained: the tokenizer would cut the text before it into other tokens"


@dataclass(frozen=True)
class Generation:
    """How the model goes on.

    Attributes
    ----------
    tokens, token_ids
        The tokens that it adds.
    text
        The prompt and what was added.
    prompts
        For each token the text that a run of it starts from, everything before the token; None where the tokenizer would
        cut that text into other tokens.
    ended
        Whether the model ended the text itself.
    """

    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    text: str
    prompts: tuple[str | None, ...]
    ended: bool

    def __post_init__(self) -> None:
        counts = {len(self.tokens), len(self.token_ids), len(self.prompts)}
        require(len(counts) == 1, f"Generation: {sorted(counts)} tokens, ids and prompts")


@recorded
@dataclass(frozen=True)
class GenerateQuestion(OfRun[Generation]):
    """How the model goes on, taking its best token each time."""

    count: int = 16

    def __post_init__(self) -> None:
        if type(self.count) is not int or not 1 <= self.count <= MOST_GENERATED:
            raise ArgumentError(f"count={self.count!r} cannot be used; expected 1 to {MOST_GENERATED} tokens")

    @classmethod
    def of(cls, recipe: Recipe, count: int = 16) -> Self:
        """How the prompt of a recipe goes on, which neither position nor target changes."""
        return cls(replace(RunQuestion.of(recipe), position=None, target=None, foil=None), count)

    def answer(self, traces: Traces, check: Check) -> Generation:
        """Continue a prompt, taking the best token each time, until there are enough or the model ends the text."""
        loaded = traces.model(self.run.model, check)
        trace = traces.trace(self.run, check)
        start = trace.token_ids
        _refuse(loaded, len(start), self.count)
        made = _tokens(loaded, trace, self.count, check)
        # What ends the text is no part of it, and nothing can be run behind it.
        ended = bool(made) and made[-1] in _ends(loaded)
        made = made[:-1] if ended else made
        prompts = tuple(_prompt(loaded, self, [*start, *made[:n]], made[:n]) for n in range(len(made)))
        text = _text(loaded, self, list(start), made)
        return Generation(loaded.vocabulary.strings(made), tuple(made), text, prompts, ended)


def _refuse(loaded: LoadedModel, length: int, count: int) -> None:
    loaded.require_head("a continuation")
    if not loaded.anatomy.causal:
        raise UnsupportedReadingError(
            f"{loaded.name!r} is a masked language model, which fills gaps and does not go on with a text"
        )
    if loaded.tokenizer is None:
        raise ArgumentError(f"{loaded.name!r} has no tokenizer, so its tokens are no text")
    context = loaded.anatomy.context
    if context is not None and length + count > context:
        raise PromptError(
            f"the prompt has {length} tokens and {count} are asked for; {loaded.name!r} takes at most {context} together"
        )


def _tokens(loaded: LoadedModel, trace: Trace, count: int, check: Check) -> list[int]:
    """The best tokens one after another; keys and values of what was read are kept."""
    import torch

    made: list[int] = []
    past = None
    given = torch.tensor([trace.token_ids], device=loaded.device)
    types = trace.inputs.token_types
    # What is written belongs to the text that was read last.
    beside = {} if types is None else {"token_type_ids": torch.tensor([types], device=loaded.device)}
    for n in range(count):
        check("generating", n / count)
        with torch.no_grad(), loaded.lock:
            result = loaded.model(input_ids=given, **beside, past_key_values=past, use_cache=True)
        past = result.past_key_values
        made.append(int(result.logits[0, -1].argmax()))
        if made[-1] in _ends(loaded):
            break
        given = torch.tensor([made[-1:]], device=loaded.device)
        beside = {name: value[:, -1:] for name, value in beside.items()}
    return made


def _ends(loaded: LoadedModel) -> frozenset[int]:
    """Tokens that end a text."""
    configured = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured, loaded.tokenizer.eos_token_id]
    return frozenset(int(i) for i in ids if i is not None)


def _text(loaded: LoadedModel, question: GenerateQuestion, start: list[int], made: list[int]) -> str:
    """The prompt and what was added, as one text."""
    if question.run.chat:
        return str(loaded.tokenizer.decode([*start, *made], clean_up_tokenization_spaces=False))
    # Decoded together with the prompt, since some tokenizers drop a space at the start of a text.
    before = str(loaded.tokenizer.decode(start, clean_up_tokenization_spaces=False))
    whole = str(loaded.tokenizer.decode([*start, *made], clean_up_tokenization_spaces=False))
    return question.run.text + whole[len(before) :] if whole.startswith(before) else whole


def _prompt(loaded: LoadedModel, question: GenerateQuestion, ids: list[int], made: list[int]) -> str | None:
    """A text that the tokenizer cuts into exactly these tokens; None where there is none."""
    text = _text(loaded, question, ids[: len(ids) - len(made)], made)
    return text if prompt_ids(loaded, text, False) == ids else None


def continuation(answer: Generation, run: RunQuestion) -> list[Component]:
    """Buttons of the tokens that the model adds, as they follow each other.

    Parameters
    ----------
    answer
        What it adds.
    run
        The run that was continued.
    """
    title = html.Span("continued", className="strip-title", title="The model’s best token, again and again")
    end = html.Span(_end(answer), className="note")
    close = html.Button(
        "Close", type="button", className="button small", title="Put the continuation away",
        **named({"data-dismiss": "continuation"}),
    )  # fmt: skip
    tokens = [_button(answer, n) for n in range(len(answer.tokens))]
    words = html.Div(tokens, className="grown", role="group", **named({"aria-label": "Continuation"}))
    row = [title, words, end, *([_written_out(run)] if run.chat else []), close]
    return [html.Div(row, className="grown-row", **named(_base(run)))]


def _written_out(run: RunQuestion) -> Component:
    """Said while a word of a conversation is explained: its prompt is another text than the one that was written."""
    back = html.Button(
        "back to what you wrote", type="button", className="link", title=run.text[:200],
        **named({"data-written": run.text}),
    )  # fmt: skip
    return html.Span(
        ["The prompt is now the conversation with its chat template written out: ", back], className="note written-out"
    )


def _base(run: RunQuestion) -> dict[str, str]:
    """What the page may show while this continuation stays: the run itself, besides those of its tokens."""
    return {"data-base": run.text, "data-model": run.model}


def _end(answer: Generation) -> str:
    if not answer.tokens:
        return "The model ends the text here."
    return "and ends the text" if answer.ended else ""


def _button(answer: Generation, n: int) -> Component:
    text, prompt = visible(answer.tokens[n]), answer.prompts[n]
    if prompt is None:
        # Not `disabled`: its reason is to be found with the keyboard too.
        return html.Button(
            token_text(answer.tokens[n]), type="button", className="grown-token", title=f"{text}: {_UNREACHED}",
            **named({"aria-disabled": "true", "aria-label": f"{text}: {_UNREACHED}"}),
        )  # fmt: skip
    return html.Button(
        token_text(answer.tokens[n]),
        type="button",
        className="grown-token",
        title=f"{text}: explain this token, from the prompt and what was added before it",
        **named({"data-grown": prompt, "data-aim": str(answer.token_ids[n]), "aria-pressed": "false"}),
    )


class _Wanted(Ticket):
    count: float


POSTED.add(f"{Id.CONTINUATION_TICKET}.data", _Wanted | None)


def strip() -> Component:
    """How many tokens the model is to add."""
    from dash import dcc

    from ..present.parts import hidden_label

    hint = f"Tokens to add, 1 to {MOST_GENERATED}"
    return html.Div(
        [
            hidden_label(hint, Id.COUNT),
            dcc.Input(id=Id.COUNT, type="number", min=1, max=MOST_GENERATED, step=1, value=8, className="box"),
            html.Button(
                "Continue", id=Id.CONTINUE, type="button", className="button small", n_clicks=0,
                title="Let the model go on with the traced prompt, taking its best token each time",
            ),
        ],
        className="going-on",
        title=hint,
    )  # fmt: skip


def below_strip() -> Component:
    """The row of what the model adds; not there while there is nothing."""
    from ..present.parts import progress_row

    row = progress_row(Id.CONTINUATION_PROGRESS, Id.CONTINUATION_CANCEL, "Stop adding tokens", "growth")
    return html.Div([row, html.Div(id=Id.CONTINUATION)], className="continuation")


STORES = (Id.CONTINUATION_TICKET,)
POLLS = (Id.CONTINUATION_POLL,)


def wires(app: Dash, service: Service) -> None:
    """Connect the callbacks: asking for more tokens, how far they are, and which of them is explained."""
    from dash import Input, Output, State

    grown, ticket = Output(Id.CONTINUATION, "children"), State(Id.CONTINUATION_TICKET, "data")
    running = [
        (Output(Id.CONTINUATION_PROGRESS, "className"), "growing", "idle"),
        (Output(Id.CONTINUATION_POLL, "disabled"), False, True),
    ]

    @app.callback(grown, Input(Id.CONTINUATION_TICKET, "data"), running=running, prevent_initial_call=True)
    def go_on(ticket: dict[str, Any] | None) -> Any:
        return None if ticket is None else continued(service, ticket)

    follow(
        app,
        service,
        ticket,
        poll=Id.CONTINUATION_POLL,
        progress=Id.CONTINUATION_PROGRESS,
        cancel=Id.CONTINUATION_CANCEL,
    )
    in_browser(
        app,
        "goOn",
        Output(Id.CONTINUATION_TICKET, "data"),
        Input(Id.CONTINUE, "n_clicks"),
        Input(Id.COUNT, "n_submit"),
        State(Id.COUNT, "value"),
    )
    in_browser(
        app,
        "markGrown",
        Output(Id.CONTINUATION, "children", allow_duplicate=True),
        Input(Id.LOCATION, "search"),
        Input(Id.CONTINUATION, "children"),
    )


def continued(service: Service, ticket: dict[str, Any]) -> Any:
    """The tokens that the model adds, or why there are none; nothing where the question was taken back."""
    if ticket["previous"]:
        service.cancel(ticket["previous"])
    try:
        question = GenerateQuestion.of(from_query(ticket["search"]), ticket["count"])
        return continuation(ask(service, question, ticket["id"]), question.run)
    except Cancelled:
        return None
    except FlowgraphError as error:
        return panel_error(error)
