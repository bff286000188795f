"""What the tests check at each call of the package's functions: types everywhere, shapes where one is named."""

from __future__ import annotations

from dataclasses import dataclass

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Float, TypeCheckError

import flowgraph
from flowgraph.charts.text import prompt_line, visible
from flowgraph.values.node import Node
from tests.checked_types import checked
from tests.graphs import token_graph

Row = Float[np.ndarray, "n"]


def plain(words: list[str], times: int = 2, *, end: str = "") -> str:
    return " ".join(words * times) + end


def shaped(one: Row, other: Row, names: dict[str, int] | None = None) -> Row:
    return one + other


def wrong() -> int:
    return "text"


def unknown(what: NotThere) -> NotThere:  # noqa: F821 — as a class that is imported for mypy alone
    return what


@dataclass(frozen=True)
class Pair:
    name: str
    row: Row


def as_in_the_package(function):
    return checked(typechecker=beartype)(function)


def test_types_are_checked_in_and_out():
    function = as_in_the_package(plain)
    assert function(["a", "b"], 1, end=".") == "a b."
    assert function(["a"]) == "a a"
    for arguments in (("ab",), (["a"], "2"), ([1],)):
        with pytest.raises(TypeCheckError, match="Type-check error"):
            function(*arguments)
    with pytest.raises(TypeCheckError, match="Type-check error"):
        as_in_the_package(wrong)()
    with pytest.raises(TypeError):
        function()
    assert function.__wrapped__ is plain
    assert as_in_the_package(unknown)(3) == 3


def test_shapes_are_tied_to_one_another_under_any_name():
    function = as_in_the_package(shaped)
    assert function(np.ones(3), np.ones(3)).tolist() == [2, 2, 2]
    for other in (np.ones(4), np.ones((3, 1)), np.ones(3, dtype=int), 1.0):
        with pytest.raises(TypeCheckError, match="Type-check error"):
            function(np.ones(3), other)


def test_fields_of_dataclasses_are_checked():
    made = as_in_the_package(Pair)
    assert made("a", np.ones(2)).name == "a"
    for name, row in (("a", np.ones((2, 2))), (1, np.ones(2))):
        with pytest.raises(TypeCheckError):
            made(name, row)


def test_the_package_is_checked(tiny):
    with pytest.raises(TypeCheckError):
        visible(3)
    with pytest.raises(TypeCheckError):
        Node("head", layer="1")
    graph = token_graph(3)
    with pytest.raises(TypeCheckError):
        graph.keep(np.ones((2, 2), dtype=int))
    with pytest.raises(TypeCheckError):
        flowgraph.head_effects(tiny("gpt2"), [1, 2, 3], metric="text")
    with pytest.raises(TypeCheckError):
        prompt_line([1, 2])


def test_it_can_be_turned_off():
    function = as_in_the_package(plain)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        assert function(("a", "b")) == "a b a b"
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    with pytest.raises(TypeCheckError):
        function(("a", "b"))
