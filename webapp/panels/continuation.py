"""How the model goes on: each of its tokens a button that makes it the token that is explained."""

from __future__ import annotations

from dash import html
from dash.development.base_component import Component

from flowgraph.render import visible

from ..present.attributes import named
from ..server.answers import Generation
from ..server.questions import RunQuestion
from .prediction import token_text

_UNREACHED = "cannot be explained: the tokenizer would cut the text before it into other tokens"


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
