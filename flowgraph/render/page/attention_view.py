"""Attention in a notebook: the lines of heads, and all heads of a model at once.

The arguments are those of BertViz 1.4 (https://github.com/jessevig/bertviz), so that changing the import is enough.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Literal

from ...atomic_file import as_path
from ...errors import ArgumentError, FlowgraphError
from ...values.arguments import takes
from ...values.trace import Trace
from ..scene.attention_codes import AttentionPanel, attention_data
from ..scene.attention_data import Given, chosen, given, panel, token_texts, whole
from ..scene.style import css_variables
from .document import asset, embedded_json, policy

HtmlAction = Literal["view", "return"]
DisplayMode = Literal["light", "dark"]

# In this order: each file is a group of functions, and the last one starts the page.
_SHARED = (
    "text.js",
    "arrows.js",
    "attention_numbers.js",
    "attention_lines.js",
    "attention_pins.js",
    "attention_matrix.js",
)
_SCRIPTS = {
    "head": (*_SHARED, "attention_heads.js", "attention_page.js"),
    "model": (*_SHARED, "attention_grid.js", "attention_page.js"),
}
_ROW, _LEAST_HEIGHT, _MOST_HEIGHT = 20, 420, 680


@dataclass(eq=False)
class AttentionView:
    """A picture of attention: one HTML document that fetches nothing, shown by notebooks inside a frame of its own.

    Attributes
    ----------
    html
        The whole document.
    height
        Height of its frame in a notebook, in CSS pixels.
    summary
        What is in it, in one line.
    """

    html: str
    height: int
    summary: str
    _drawn_in: int | None = field(default=None, init=False)

    def __repr__(self) -> str:
        return f"AttentionView({self.summary})"

    @property
    def data(self) -> str:
        """The same as :attr:`html`, under the name that IPython's own HTML objects have."""
        return self.html

    def _repr_html_(self) -> str | None:
        # What a cell has drawn already is not drawn again because its last line is the same object.
        return None if self._drawn_in is not None and self._drawn_in == _cell() else self._frame()

    def show(self) -> None:
        """Draw it here and now, in the middle of a notebook cell too.

        Raises
        ------
        FlowgraphError
            If no notebook is running; :meth:`save` works everywhere.
        """
        if _cell() is None:
            raise FlowgraphError('no notebook is running here; use view.save("attention.html") and open that file')
        from IPython.display import display

        display({"text/html": self._frame(), "text/plain": repr(self)}, raw=True)
        self._drawn_in = _cell()

    def save(self, path: str | Path) -> Path:
        """Write the document as one ``.html`` file.

        Returns
        -------
        The path as given.

        Raises
        ------
        ArgumentError
            If the name does not end in ``.html`` or the file cannot be written.
        """
        path = as_path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ArgumentError(f"path={str(path)!r} does not end in .html, and this is an HTML document")
        try:
            path.write_text(self.html, encoding="utf-8")
        except OSError as error:
            raise ArgumentError(f"path={str(path)!r} could not be written: {error.strerror}") from error
        return path

    def _frame(self) -> str:
        # Without allow-same-origin the frame can reach neither the notebook nor its cookies, whatever a token says.
        return (
            f'<iframe title="{escape(self.summary)}" sandbox="allow-scripts" srcdoc="{escape(self.html)}" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


@takes()
def head_view(
    attention: Any = None,
    tokens: Sequence[str] | None = None,
    sentence_b_start: int | None = None,
    prettify_tokens: bool = True,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
    encoder_attention: Any = None,
    decoder_attention: Any = None,
    cross_attention: Any = None,
    encoder_tokens: Sequence[str] | None = None,
    decoder_tokens: Sequence[str] | None = None,
    include_layers: Sequence[int] | None = None,
    html_action: HtmlAction = "view",
) -> AttentionView:
    """Draw the attention of one layer's heads as lines from query tokens to key tokens.

    Click tokens to pin them: with several pinned, the numbers are sums over all of them.

    Parameters
    ----------
    attention
        [layer, head, query, key] attention weights as tensor, array or list; a list of [1, head, query, key], one for each
        layer, as models return it; or [head, query, key] for one layer. Or a :class:`flowgraph.Trace`, which knows its
        tokens; of an encoder–decoder, both stacks and the attention between them are drawn.
    tokens
        [position] token strings.
    sentence_b_start
        Position of the first token of the second sentence; with it the picture can be narrowed to pairs of sentences.
    prettify_tokens
        Whether marks of tokenizers (``Ġ``, ``▁``, ``</w>``) are written as what they stand for.
    layer
        Layer to open with, counted from 0; the first one if not given.
    heads
        Heads to open with, counted from 0; all if not given.
    encoder_attention, decoder_attention, cross_attention
        The same for an encoder–decoder, any of them, instead of ``attention``; cross attention is
        [layer, head, decoder position, encoder position].
    encoder_tokens, decoder_tokens
        Token strings of the two.
    include_layers
        Layers to put into the page; all if not given. Fewer make it smaller.
    html_action
        ``"view"`` draws it now, as the notebook runs, and ``"return"`` only returns it.

    Returns
    -------
    The view. Weights in it are rounded to 16 bits, of very long texts to 8 bits; the page says how exact that is.

    Raises
    ------
    ArgumentError
        If an argument is missing or does not fit the others, or the page would be too large.
    """
    panels = _panels(
        attention, tokens, prettify_tokens, include_layers, None,
        {"encoder": encoder_attention, "decoder": decoder_attention, "cross": cross_attention},
        {"encoder_tokens": encoder_tokens, "decoder_tokens": decoder_tokens},
    )  # fmt: skip
    first = panels[0]
    opening = {
        "layer": first.layers[0]
        if layer is None
        else whole(layer, first.layers, "layer", noun="layer", source=first.argument),
        "heads": None
        if heads is None
        else chosen(heads, range(len(first.heads)), "heads", noun="head", source=first.argument),
        "theme": None,
    }
    return _view("head", panels, sentence_b_start, html_action, opening)


@takes()
def model_view(
    attention: Any = None,
    tokens: Sequence[str] | None = None,
    sentence_b_start: int | None = None,
    prettify_tokens: bool = True,
    display_mode: DisplayMode | None = None,
    encoder_attention: Any = None,
    decoder_attention: Any = None,
    cross_attention: Any = None,
    encoder_tokens: Sequence[str] | None = None,
    decoder_tokens: Sequence[str] | None = None,
    include_layers: Sequence[int] | None = None,
    include_heads: Sequence[int] | None = None,
    html_action: HtmlAction = "view",
) -> AttentionView:
    """Draw all heads of all layers as small pictures in a grid; a click opens one beside it, with its tokens.

    Parameters
    ----------
    attention, tokens, sentence_b_start, prettify_tokens
        As for :func:`head_view`.
    display_mode
        ``"light"`` or ``"dark"``; if not given as the notebook's page, or as the reader's system where that is silent.
    encoder_attention, decoder_attention, cross_attention, encoder_tokens, decoder_tokens, include_layers
        As for :func:`head_view`.
    include_heads
        Heads to put into the page; all if not given.
    html_action
        ``"view"`` draws it now, as the notebook runs, and ``"return"`` only returns it.

    Returns
    -------
    The view.

    Raises
    ------
    ArgumentError
        If an argument is missing or does not fit the others, or the page would be too large.
    """
    if display_mode not in (None, "light", "dark"):
        raise ArgumentError(f'display_mode={display_mode!r}; expected "light", "dark" or None (as the notebook)')
    panels = _panels(
        attention, tokens, prettify_tokens, include_layers, include_heads,
        {"encoder": encoder_attention, "decoder": decoder_attention, "cross": cross_attention},
        {"encoder_tokens": encoder_tokens, "decoder_tokens": decoder_tokens},
    )  # fmt: skip
    return _view("model", panels, sentence_b_start, html_action, {"theme": display_mode})


def _panels(
    attention: Any,
    tokens: Any,
    prettify: bool,
    include_layers: Sequence[int] | None,
    include_heads: Sequence[int] | None,
    stacks: dict[str, Any],
    stack_tokens: dict[str, Any],
) -> list[AttentionPanel]:
    offered = {name: value for name, value in stacks.items() if value is not None}
    if attention is not None and offered:
        raise ArgumentError(
            f"attention= and {next(iter(offered))}_attention= were both given; attention= is for one stack, the others are "
            "for encoder–decoders"
        )
    if isinstance(attention, Trace) and "cross_pattern" in attention.sites:
        return _of_stacks(attention, {"tokens": tokens, **stack_tokens}, include_layers, include_heads)
    if not offered:
        return [_single(attention, tokens, prettify, include_layers, include_heads, stack_tokens)]
    if tokens is not None:
        raise ArgumentError("tokens= goes with attention=; here encoder_tokens= and decoder_tokens= are expected")
    sides = {"encoder": ("encoder", "encoder"), "decoder": ("decoder", "decoder"), "cross": ("decoder", "encoder")}
    needed = {f"{side}_tokens" for name in offered for side in sides[name]}
    texts = {name: token_texts(stack_tokens[name], name, prettify=prettify) for name in sorted(needed)}
    return [
        panel(
            _not_a_trace(given(value, f"{name}_attention"), value), name, *(texts[f"{side}_tokens"] for side in sides[name]),
            include_layers=include_layers, include_heads=include_heads,
        )
        for name, value in offered.items()
    ]  # fmt: skip


def _of_stacks(
    trace: Trace,
    texts: dict[str, Any],
    include_layers: Sequence[int] | None,
    include_heads: Sequence[int] | None,
) -> list[AttentionPanel]:
    """The panels of an encoder–decoder's trace, as far as it recorded them."""
    misplaced = [name for name, value in texts.items() if value is not None]
    if misplaced:
        raise ArgumentError(
            f"{misplaced[0]}= is given beside a Trace of two stacks, which knows its tokens; leave it out"
        )
    found = []
    for kind, one in trace.attention.items():
        source, _, part = kind.partition(".")
        stack = trace.stacks.get(source, trace)
        name, keys = source, stack.tokens
        if part == "cross":
            name = _CROSS.get(source, "cross")
            keys = trace.tokens_read_by(None if stack is trace else source)
        # Of stacks that read each other, layers that read themselves alone have nothing to show of the other.
        first = int(one.pattern.flatten(1).any(1).float().argmax()) if name in _CROSS.values() else 0
        layers = Given("attention", list(one.pattern[first:]), stack.layers[0] + first)
        found.append(
            panel(layers, name, stack.tokens, keys, include_layers=include_layers, include_heads=include_heads)
        )
    return sorted(found, key=lambda one: _ORDER.index(one.name))


_CROSS = {"text": "text reads vision", "vision": "vision reads text"}
_ORDER = ("encoder", "decoder", "cross", "text", "vision", *_CROSS.values())


def _single(
    attention: Any,
    tokens: Any,
    prettify: bool,
    include_layers: Sequence[int] | None,
    include_heads: Sequence[int] | None,
    stack_tokens: dict[str, Any],
) -> AttentionPanel:
    if attention is None:
        raise ArgumentError(
            "attention= is None; make sure you set output_attentions=True when you call the model, and load it with "
            'attn_implementation="eager"; then pass outputs.attentions'
        )
    misplaced = [name for name, value in stack_tokens.items() if value is not None]
    if misplaced:
        raise ArgumentError(
            f"{misplaced[0]}= goes with {misplaced[0].split('_')[0]}_attention=; attention= takes tokens="
        )
    if isinstance(attention, Trace) and tokens is None:
        texts = attention.tokens
    else:
        texts = token_texts(tokens, "tokens", prettify=prettify)
    found = given(attention, "attention")
    return panel(found, "attention", texts, texts, include_layers=include_layers, include_heads=include_heads)


def _not_a_trace(found: Given, value: Any) -> Given:
    if isinstance(value, Trace):
        raise ArgumentError(f"{found.argument}= is a Trace; a Trace goes first, as attention=")
    return found


def _view(
    kind: Literal["head", "model"],
    panels: list[AttentionPanel],
    sentence_b_start: int | None,
    html_action: HtmlAction,
    opening: dict[str, Any],
) -> AttentionView:
    if html_action not in ("view", "return"):
        raise ArgumentError(f'html_action={html_action!r}; expected "view" or "return"')
    _check_split(panels, sentence_b_start)
    data = {
        "view": kind,
        "split": sentence_b_start,
        **opening,
        "panels": attention_data(panels),
    }
    view = AttentionView(_document(kind, data, _summary(kind, panels)), _height(kind, panels), _summary(kind, panels))
    if html_action == "view" and _cell() is not None:
        view.show()
    return view


def _check_split(panels: list[AttentionPanel], start: int | None) -> None:
    if start is None:
        return
    if len(panels) > 1 or panels[0].name != "attention":
        raise ArgumentError("sentence_b_start= goes with attention=, two sentences in one text; leave it out here")
    length = len(panels[0].queries)
    if length < 2:
        raise ArgumentError(f"sentence_b_start={start!r}, but there is {length} token, which cannot be two sentences")
    whole(start, range(1, length), "sentence_b_start", noun="position", source="tokens")


def _document(kind: Literal["head", "model"], data: dict[str, Any], summary: str) -> str:
    # One closure: the files see each other and nothing else sees them.
    script = "(() => {\n'use strict';\n" + "\n".join(map(asset, _SCRIPTS[kind])) + "})();\n"
    return Template(asset("attention.html")).substitute(
        policy=policy(script),
        title=escape(summary),
        variables=css_variables(),
        styles=f"{asset('attention.css')}.picture {{\n{asset('attention_lines.css')}}}\n",
        view=kind,
        script=script,
        data=embedded_json(data),
    )


def _summary(kind: str, panels: list[AttentionPanel]) -> str:
    parts = []
    for found in panels:
        name = "" if found.name == "attention" else f"{found.name}: "
        texts = (
            f"{len(found.queries)} × {len(found.keys)}"
            if len(found.queries) != len(found.keys)
            else f"{len(found.keys)}"
        )
        parts.append(f"{name}{len(found.layers)} layers × {len(found.heads)} heads, {texts} tokens")
    return f"{kind} view of attention, {'; '.join(parts)}"


def _height(kind: str, panels: list[AttentionPanel]) -> int:
    if kind == "head":
        wanted = 190 + _ROW * max(max(len(found.queries), len(found.keys)) for found in panels)
    else:
        wanted = 130 + 64 * max(len(found.layers) for found in panels)
    return min(max(wanted, _LEAST_HEIGHT), _MOST_HEIGHT)


def _cell() -> int | None:
    """Number of the notebook cell that runs; None outside of IPython."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return None if shell is None else int(shell.execution_count)
