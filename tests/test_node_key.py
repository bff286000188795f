"""Nodes as text and back, against every kind that there is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given

import flowgraph as fg
from flowgraph.errors import ArgumentError
from flowgraph.values.node import NODE_KINDS, WITH_HEAD, WITH_INDEX, WITHOUT_LAYER
from tests.graphs import nodes


@given(nodes())
def test_a_node_is_read_back(node):
    assert fg.parse_node(fg.node_key(node)) == node


@pytest.mark.parametrize("kind", NODE_KINDS)
def test_the_short_form_has_what_the_kind_has(kind):
    numbers = {"layer": 3, "head": 5, "position": 7, "index": 11}
    has = {
        "layer": kind not in WITHOUT_LAYER,
        "head": kind in WITH_HEAD,
        "position": kind != "logit",
        "index": kind in WITH_INDEX,
    }
    node = fg.Node(kind, **{name: number for name, number in numbers.items() if has[name]})
    short = fg.node_key(node, short=True)
    assert short == ".".join([kind, *(str(number) for name, number in numbers.items() if has[name])])
    assert fg.node_key(node) == ".".join(
        [kind, *(str(number) if has[name] else "-" for name, number in numbers.items())]
    )
    assert fg.parse_node(short) == fg.parse_node(fg.node_key(node)) == node


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a node: expected a text of 1 to 80 characters"), ("head.1.2", r"expected head\.layer\.head\.position, or kind\."),
        ("nothing.1", "kind='nothing' in 'nothing.1' is not a kind of node"), ("head.1.2.-3", "'-3' in"), ("HEAD.1.2.3", "kind='HEAD'"),
        ("head.1.2.2147483648", "is not a number from 0 to 2147483647"), ("head.+1.2.3", r"'\+1'"), ("head.٣.2.3", "'٣'"),
        ("head.1.-.3.-", "a node of kind 'head' needs head="), ("x" * 81, "1 to 80 characters"), ("head.1.2.3.4.5", "is not a node"),
    ],
)  # fmt: skip
def test_what_names_no_node_is_refused(text, words):
    with pytest.raises(ArgumentError, match=words):
        fg.parse_node(text)


def test_keys_are_light():
    code = "import sys, flowgraph\nflowgraph.parse_node('embed.3')\nprint([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
