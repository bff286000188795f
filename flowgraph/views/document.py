"""What every self-contained page has: assets read from the package, data inside a script, a policy that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from ..graph import GraphInfo
from .text import visible

LIBRARY = "cytoscape.min.js"


def asset(name: str) -> str:
    """Text of a file beside this module."""
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def page_script(names: Sequence[str]) -> str:
    """One script of several files, which see each other and nothing else."""
    return "(() => {\n'use strict';\n" + "\n".join(asset(name) for name in names) + "})();\n"


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
    if info.target_token is None:
        return '<span class="note">none: the model has no head over a vocabulary</span>'
    probability = (
        ""
        if info.target_probability is None
        else f'<span class="number">{_probability(info.target_probability)}</span>'
    )
    chip = f'<span class="chip target"><i></i><b class="token">{escape(visible(info.target_token))}</b>{probability}</span>'
    if info.foil_token is None:
        return chip
    return f'{chip}<span class="note">against</span><span class="chip"><b class="token">{escape(visible(info.foil_token))}</b></span>'


def _digest(script: str) -> bytes:
    return hashlib.sha256(script.encode("utf-8")).digest()


def _probability(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value >= 0.01 else f"{value:.0e}"
