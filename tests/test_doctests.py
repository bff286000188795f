"""Examples in docstrings: each runs on the real default model, and every main public function has one."""

from __future__ import annotations

import ast
import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowgraph
from tests.conftest import JAPAN

ROOT = Path(flowgraph.__file__).parent
WITHOUT = {
    # They draw what another function returns, whose example shows the way there.
    "attention_figure", "edge_tokens_figure", "head_circuit_figure", "head_scores_figure", "head_view", "lens_figure",
    "matrix_figure", "model_view", "norm_filter_figure", "overlap_figure", "regularization_figure", "sankey",
    "trajectory_figure",
    # They say in their own tests, with prompts of their own, what they are for: a single prompt shows nothing.
    "gradients", "regularization_neurons",
    # It is for mixtures of experts.
    "experts",
    # They run a model hundreds of times, over the prompts of a task.
    "benchmark_faithfulness", "compare", "completeness", "discover", "faithfulness", "head_roles", "minimality",
    # Parts of what has an example.
    "node_readings", "overlap_by_layer",
}  # fmt: skip
METHODS = ("save", "load", "explain", "caption", "to_networkx")
"""Of :class:`flowgraph.FlowGraph`."""


def docstrings(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str, int]]:
    """(name, docstring, line) of a module or class and of all that it defines."""
    text = ast.get_docstring(node)
    if text:
        yield name, text, node.body[0].lineno
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, ast.FunctionDef) and (found := ast.get_docstring(child)):
            yield f"{name}.{child.name}", found, child.body[0].lineno


def examples() -> dict[str, tuple[str, Path, int]]:
    """Name → (docstring, file, line) of everything whose docstring has an example."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(["flowgraph", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        for name, text, line in docstrings(ast.parse(path.read_text(encoding="utf-8")), module):
            if ">>>" in text:
                found[name] = (text, path, line)
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def trace(smollm2):
    return flowgraph.trace(smollm2, JAPAN)


@pytest.fixture(autouse=True)
def _families():
    """An example may add a family; no test after it should find it."""
    before = dict(flowgraph.FAMILIES)
    yield
    flowgraph.FAMILIES.clear()
    flowgraph.FAMILIES.update(before)


@pytest.mark.real_model
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_say_what_happens(name, trace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, path, line = EXAMPLES[name]
    made = doctest.DocTestParser().get_doctest(text, {"fg": flowgraph, "trace": trace}, name, str(path), line)
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(made, out=said.append)
    assert result.attempted
    assert not result.failed, "".join(said)


def test_every_main_function_has_an_example():
    functions = {name for name in flowgraph.__all__ if inspect.isfunction(getattr(flowgraph, name))}
    assert functions >= WITHOUT, f"there is no function {sorted(WITHOUT - functions)} any more"
    shown = {name.rsplit(".", 1)[-1] for name in EXAMPLES if ".FlowGraph." not in name}
    missing = functions - WITHOUT - shown
    assert not missing, f"no example in the docstring of {', '.join(sorted(missing))}"
    assert not WITHOUT & shown, f"{sorted(WITHOUT & shown)} have an example now; take them off the list"
    for name in METHODS:
        assert f"flowgraph.values.flow_graph.FlowGraph.{name}" in EXAMPLES


def test_examples_are_short_and_alike():
    for name, (text, _, _) in EXAMPLES.items():
        assert "Examples\n--------\n>>> " in text, f"{name}: a section Examples starts with a line of code"
        parts = doctest.DocTestParser().get_examples(text)
        lines = sum(part.source.count("\n") + part.want.count("\n") for part in parts)
        assert 1 <= lines <= 9, f"{name} has an example of {lines} lines"


def test_a_wrong_example_would_fail():
    made = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(made, out=lambda _: None).failed == 1
