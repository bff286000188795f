"""The strip of predicted tokens: what the model may say next, as buttons that choose target and foil."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowgraph.render import visible

from ..present import html
from ..present.attributes import named
from ..server.run import Prediction, Run

if TYPE_CHECKING:
    from dash.development.base_component import Component

_LEVELS = {
    "patterns": "Attention maps, rollout and attention flow are proved; what blocks add to the residual stream is not known",
    "stream": "Attention and the residual stream are proved; the model has no head that is read, so no vocabulary, targets or circuits",
}
_HINT = "click: explain this token · Shift + click: explain the difference to it"


def predictions(run: Run) -> list[Component]:
    """Buttons of the likeliest tokens, target and foil marked; a note for a model without a head.

    Parameters
    ----------
    run
        A pass of a model.
    """
    title = html.Span(
        _title(run),
        className="strip-title",
        title=f"after {visible(run.tokens[run.position])} at position {run.position}",
    )
    if not run.predictions:
        return [*_level(run), title, *_unpredicted(run)]
    return [*_level(run), title, *(_chip(run, one) for one in run.predictions)]


def _level(run: Run) -> list[Component]:
    """What is known of the model, where that is not all."""
    if run.level == "full":
        return []
    return [html.Span(f"open at {run.level}", className="strip-title level", title=_LEVELS[run.level])]


def _unpredicted(run: Run) -> list[Component]:
    """What is known where no predictions are: of a saved graph, what it explains."""
    if run.token_ids:
        return [html.Span("none: the model has no head over a vocabulary", className="note")]
    if run.target_token is None:
        return [html.Span("not in this file", className="note")]
    target = html.Span(
        [html.I(className="mark"), token_text(run.target_token), html.Span("target", className="role")],
        className="chip target",
        title="What the graph explains; no probabilities of other tokens are in this file",
    )
    return [target, html.Span("no others are in this file", className="note")]


def _title(run: Run) -> str:
    return "next token" if run.causal and run.position == len(run.tokens) - 1 else f"at {run.position}"


def _chip(run: Run, one: Prediction) -> Component:
    role = "target" if one.token_id == run.target else "foil" if one.token_id == run.foil else "other"
    mark = [html.Span(role, className="role")] if role != "other" else []
    says = f"{visible(one.token)}: probability {one.probability:.4g}, logit {one.logit:.2f}"
    return html.Button(
        [html.I(className="mark"), token_text(one.token), html.Span(probability(one.probability), className="number"), *mark],
        type="button",
        className=f"chip {role}",
        title=f"{says} · {_HINT}",
        **named({"data-token": str(one.token_id), "aria-pressed": str(role != "other").lower()}),
    )  # fmt: skip


def token_text(token: str) -> Component:
    """A token, its leading and trailing spaces as faded marks."""
    text = visible(token)
    body = text.strip("␣")
    if not body:
        return html.Span(text, className="token")
    before, _, after = text.partition(body)
    parts = [html.I(before) if before else None, body, html.I(after) if after else None]
    return html.Span([part for part in parts if part is not None], className="token")


def probability(value: float) -> str:
    """``.85``; what is smaller than a hundredth keeps one digit, and nothing is rounded to 0 or 1."""
    if value >= 0.995:
        return "1.00" if value == 1 else "> .99"
    return f"{value:.2f}".removeprefix("0") if value >= 0.005 else f"{value:.0e}".replace("e-0", "e-")
