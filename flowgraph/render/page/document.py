"""What every page has: its markup, styles and scripts from the package, data inside a script, a policy that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from ...charts.text import printable, visible
from ...values.flow_graph import FlowGraph
from ...values.graph_info import GraphInfo
from ..scene.semantic_style import semantic_variables
from ..scene.style import DARK, LIGHT, css_variables
from ..words.caption import caption, model_text, prompt_text
from ..words.kept import badge, kept_of

LIBRARY = "cytoscape.min.js"
ROOT = ".flowgraph"
"""Selector of the element that a page is mounted on: styles reach no further."""

# In this order: each file is a group of functions, and the last of a kind puts its mount() into the namespace.
_SHARED = (
    "text.js", "page.js", "graph.js", "picture.js", "choice.js", "pointer.js", "tables.js", "search.js", "keys.js",
    "printing.js", "mount.js",
)  # fmt: skip
_OWN = {
    "flow": (
        "flow_geometry.js", "flow_picture.js", "flow_filter.js", "flow_axes.js", "flow_lift.js", "flow_details.js",
        "flow_keys.js", "flow.js",
    ),
    "semantic": ("semantic_picture.js", "semantic_lift.js", "semantic_details.js", "semantic_keys.js", "semantic.js"),
    "attention": (
        "arrows.js", "attention_numbers.js", "attention_lines.js", "attention_pins.js", "attention_matrix.js", "attention_map.js",
        "attention_panel.js",
    ),
}  # fmt: skip
_GRAPHS = ("flow", "semantic")

HEIGHT = 640
HEIGHTS = (200, 4000)
"""Height of a page in a notebook in px, and the lowest and highest that one can choose."""
THEME_CHOICES = ("auto", "light", "dark")


@dataclass(frozen=True)
class Page:
    """A graph as everything that a browser needs to show it.

    Attributes
    ----------
    kind
        Which of the namespaces mounts it: ``window.flowgraph.flow`` or ``window.flowgraph.semantic``.
    title
        One line of plain text.
    shell
        Markup of the parts, every text in it escaped.
    data
        What the script is given.
    """

    kind: str
    title: str
    shell: str
    data: Mapping[str, Any]


def asset(name: str) -> str:
    """Text of a file beside this module."""
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def page_script(names: Sequence[str]) -> str:
    """One script of several files, which see each other and nothing else."""
    return f"(() => {{\n'use strict';\n{_joined(names)}}})();\n"


def page_bundle(*, panels: bool = False) -> str:
    """The page scripts as one text of JavaScript.

    It defines ``window.flowgraph.flow.mount(root, data, options)``, ``window.flowgraph.semantic.mount`` and what both make elements with,
    ``window.flowgraph.element(tag, attributes, …children)``, and starts nothing.
    Cytoscape.js is not in it: it has to be there as ``cytoscape``, or the picture is lent as ``options.cy``.

    Parameters
    ----------
    panels
        Also what panels beside a picture are drawn with: ``window.flowgraph.attention.mount(host, data, tell)``, where ``data`` is
        that of :func:`attention_data` and more, and ``window.flowgraph.tips``, ``show(text, x, y)`` and ``hide()``.
    """
    return _bundle((*_GRAPHS, "attention") if panels else _GRAPHS, ("tips.js",) if panels else ())


def page_library() -> str:
    """Cytoscape.js as one text, for pages that have no copy of their own; it defines ``cytoscape``."""
    return asset(LIBRARY)


def page_styles(*, panels: bool = False) -> str:
    """CSS of a page in both themes; everything in it is inside ``.flowgraph``, the class of the element mounted on.

    ``panels`` as for :func:`page_bundle`: also that of panels beside a picture.
    """
    own = f':root {{\n{semantic_variables(LIGHT)}}}\n:root[data-theme="dark"] {{\n{semantic_variables(DARK)}}}\n'
    variables = (css_variables() + own).replace(":root", ROOT)
    semantic = f'{ROOT}[data-kind="semantic"]'
    graphs = f"{variables}{ROOT} {{\n{asset('page.css')}}}\n{semantic} {{\n{asset('semantic.css')}}}\n"
    return graphs + _panel_styles() * panels


def _panel_styles() -> str:
    attention = f"{asset('attention_panel.css')}.lines {{\n{asset('attention_lines.css')}}}\n"
    return f"{ROOT} {{\n{asset('tips.css')}.attention {{\n{attention}}}\n}}\n"


def document(page: Page, *, theme: str = "auto", compact: bool = False) -> str:
    """The self-contained document of a page. Encode it as UTF-8.

    Parameters
    ----------
    page
        What it shows.
    theme
        ``"auto"`` follows the system.
    compact
        Arranged for a frame inside another document.
    """
    library, script = asset(LIBRARY), _bundle((page.kind,)) + _start(page.kind)
    return Template(asset("page.html")).substitute(
        policy=policy(library, script),
        kind=page.kind,
        classes="flowgraph compact" if compact else "flowgraph",
        theme="" if theme == "auto" else f' data-theme="{theme}"',
        title=escape(page.title),
        caption=escape(str(page.data["caption"])),
        provenance=escape(str(page.data.get("provenance", ""))),
        styles=page_styles(),
        shell=page.shell,
        data=embedded_json({**page.data, "edges": packed(page.data["edges"])}),
        library=library,
        script=script,
    )


def shell(graph: FlowGraph, *, origin: Sequence[tuple[str, str]], note: str = "", **texts: str) -> str:
    """Markup of the parts around and in the stage.

    Parameters
    ----------
    graph
        What is shown.
    origin
        (name, HTML) of the facts in the header.
    note
        Added to the caption, as plain text.
    **texts
        HTML for the places of ``shell.html`` that differ from one kind of page to another.
    """
    info = graph.info
    return Template(asset("shell.html")).substitute(
        origin="\n".join(f"      <div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in origin),
        prompt=escape(prompt_text(info)),
        prediction=prediction(info),
        kept=kept_badge(info),
        caption=escape(noted_caption(graph, note)),
        **texts,
    )


def noted_caption(graph: FlowGraph, note: str = "") -> str:
    """The graph's caption, and what the page alone has to say."""
    return caption(graph) + (f" · {note}" if note else "")


def title(info: GraphInfo) -> str:
    """Model and prompt on one line."""
    return f"{model_text(info)}: {prompt_text(info, 60)}"


def packed(edges: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Edges as columns, a third as long in JSON: ``unpacked`` in the page scripts is the way back.

    Parameters
    ----------
    edges
        [E] elements as Cytoscape takes them, ``e0``, ``e1`` … in this order, between nodes ``n0``, ``n1`` ….

    Returns
    -------
    ``classes`` [E] are indices into ``names``; ``ends`` holds ``source`` and ``target`` [E], numbers of nodes; ``columns``
    holds [E] of every other field, None where an edge does not have it.
    """
    names = list(dict.fromkeys(edge["classes"] for edge in edges))
    number = {name: i for i, name in enumerate(names)}
    fields = list(
        dict.fromkeys(name for edge in edges for name in edge["data"] if name not in ("id", "source", "target"))
    )
    ends = {end: [int(edge["data"][end].removeprefix("n")) for edge in edges] for end in ("source", "target")}
    columns = {name: [edge["data"].get(name) for edge in edges] for name in fields}
    return {"names": names, "classes": [number[edge["classes"]] for edge in edges], "ends": ends, "columns": columns}


def _bundle(kinds: Sequence[str], shared: Sequence[str] = ()) -> str:
    own = "".join(f"(() => {{\n{_joined(_OWN[kind])}}})();\n" for kind in kinds)
    return f"(() => {{\n'use strict';\nconst flowgraph = (window.flowgraph ??= {{}});\n{_joined((*_SHARED, *shared))}\n{own}}})();\n"


def _joined(names: Sequence[str]) -> str:
    return "\n".join(asset(name) for name in names)


def _start(kind: str) -> str:
    data = "JSON.parse(document.getElementById('data').textContent)"
    return f"window.flowgraph.{kind}.mount(document.getElementById('app'), {data}, {{}});\n"


def policy(*scripts: str) -> str:
    """The content security policy under which nothing is fetched and only these scripts run."""
    hashes = " ".join(f"'sha256-{base64.b64encode(_digest(script)).decode()}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def embedded_json(data: Any) -> str:
    """JSON that can stand inside a script element: no markup in a string can end the element or open a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def prediction(info: GraphInfo) -> str:
    """HTML of the target with its probability, and of the foil."""
    if info.target_token is None and not info.tokens:
        return '<span class="note">that of each prompt</span>'
    if info.target_token is None:
        return '<span class="note">the graph names no target</span>'
    probability = (
        ""
        if info.target_probability is None
        else f'<span class="number">{_probability(info.target_probability)}</span>'
    )
    chip = f'<span class="chip target"><i></i><b class="token">{escape(visible(info.target_token))}</b>{probability}</span>'
    if info.foil_token is None:
        return chip
    return f'{chip}<span class="note">against</span><span class="chip"><b class="token">{escape(visible(info.foil_token))}</b></span>'


def kept_badge(info: GraphInfo) -> str:
    """HTML of how much of the answer the picture keeps, the whole sentence on hover; empty where it was not measured."""
    kept = kept_of(info)
    if kept is None:
        return ""
    return f'      <p class="kept" title="{escape(printable(kept.text))}">{escape(badge(kept))}</p>\n'


def _digest(script: str) -> bytes:
    return hashlib.sha256(script.encode("utf-8")).digest()


def _probability(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value >= 0.01 else f"{value:.0e}"
