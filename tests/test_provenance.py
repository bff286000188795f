"""Every graph file and picture says what makes it again: the model's digests, versions, token ids and the call."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess

import pytest

import flowgraph
from flowgraph import FlowGraph, build_graph, edge_weights, keep_strongest, routes
from flowgraph.cli import main
from flowgraph.models.proof import OwnAttention
from flowgraph.render.print.tikz import paragraph
from tests.conftest import IDS
from tests.graphs import HOSTILE_TOKENS, token_graph


@pytest.fixture(scope="module")
def trace(tiny):
    return flowgraph.trace(tiny("llama"), IDS)


@pytest.fixture(scope="module")
def graph(trace):
    return keep_strongest(routes(edge_weights(trace), threshold=0.01), mass=0.8, max_edges=None)


def test_a_graph_names_its_model_its_versions_and_its_calls(trace, graph):
    said = graph.info.provenance
    assert {name: said[name] for name in trace.fingerprint} == dict(trace.fingerprint)
    assert said["token_ids"] == list(trace.token_ids)
    assert said["dtype"] == str(trace.model.dtype).removeprefix("torch.")
    assert said["flowgraph"] == flowgraph.__version__
    assert all(said[name] for name in ("torch", "transformers"))
    assert said["made_by"].startswith("flowgraph.routes(method='proximity', start=")
    assert "threshold=0.01" in said["made_by"]
    assert said["made_by"].endswith("flowgraph.keep_strongest(…, mass=0.8, max_edges=None)")
    assert "build_graph(method='norms', level='head', top_k=5)" in str(
        build_graph(trace, method="norms", level="head", top_k=5).info.provenance["made_by"]
    )


def test_a_graph_names_what_was_fed_and_attention_that_answers_otherwise(tiny):
    loaded = tiny("bert")
    types = [0] * 4 + [1] * 3
    said = build_graph(flowgraph.trace(loaded, IDS, position=-1, token_type_ids=types)).info.provenance
    assert said["token_types"] == types
    assert "attention" not in said
    other = dataclasses.replace(loaded, own_attention=OwnAttention("sdpa", 0.09, 1e-4))
    said = build_graph(flowgraph.trace(other, IDS, position=-1)).info.provenance
    assert said["attention"] == "eager attention traced, answers of its own 'sdpa' differ by 0.09"


@pytest.mark.parametrize("ending", ["json", "graphml"])
def test_files_that_are_read_back_give_it_back(graph, tmp_path, ending):
    assert FlowGraph.load(graph.save(tmp_path / f"flow.{ending}")).info.provenance == graph.info.provenance


@pytest.mark.parametrize("ending", ["gexf", "gml", "dot", "neuronpedia.json", "html", "svg", "tex", "pdf", "png"])
def test_every_other_file_holds_it(graph, tmp_path, ending):
    if ending in ("pdf", "png"):
        pytest.importorskip("matplotlib")
    content = graph.save(tmp_path / f"flow.{ending}").read_bytes()
    if ending == "pdf":
        content = content.replace(b"\x00", b"")
    assert str(graph.info.provenance["weights"]).encode() in content


def test_tables_hold_it_beside_them(graph, tmp_path):
    """A reader of the tables alone finds plain columns; the file beside them names the model and the call."""
    pandas = pytest.importorskip("pandas")
    nodes = graph.save(tmp_path / "flow.csv")
    assert len(pandas.read_csv(nodes)) == len(graph.nodes)
    (note,) = json.loads((tmp_path / "flow.csv-metadata.json").read_text(encoding="utf-8"))["notes"]
    assert note["provenance"] == graph.info.provenance


def test_old_files_without_it_open(graph, tmp_path):
    path = graph.save(tmp_path / "old.json")
    data = json.loads(path.read_text())
    del data["graph"]["provenance"]
    path.write_text(json.dumps(data))
    assert FlowGraph.load(path).info.provenance == {}


def test_the_command_line_is_written_as_a_shell_takes_it(graph, tmp_path):
    source = graph.save(tmp_path / "the flow.json")
    assert main(["export", str(source), str(tmp_path / "out.json"), "--quiet"]) == 0
    said = FlowGraph.load(tmp_path / "out.json").info.provenance["made_by"]
    assert said.startswith(graph.info.provenance["made_by"])
    assert said.endswith(f"; flowgraph export '{source}' {tmp_path / 'out.json'} --quiet")


def plain_text(source: str) -> str:
    """The text that LaTeX sets, by a strict reading: every special character must stand in a known command."""
    commands = (
        r"\\(?:text[a-z]+|[a-zA-Z]+|[%&#_{}$`'^~=\".])(?:\{\}|\{[a-zA-Z0-9\\]*\})?|\$\\?[a-zA-Z-]+\$|\\kern-\.3em|\{\}"
    )
    return re.sub(commands, "", source)


def test_a_caption_compiles_in_latex(tmp_path):
    graph = token_graph(
        tokens=(*HOSTILE_TOKENS, " 100%", "a&b", "#1", "x_y", "{", "}", "~", "^", "\\end{document}", "$")
    )
    graph.save(tmp_path / "flow.svg", caption=True)
    text = (tmp_path / "flow.caption.txt").read_text()
    source = (tmp_path / "flow.caption.tex").read_text()
    assert "% of the mass" in text
    assert r"\% of the mass" in source
    assert source == f"{paragraph(text.rstrip())}\n"
    assert source.count("\n") == 1
    left = plain_text(source)
    assert not set(left) & set("%&#_{}~^\\$"), left
    assert left.isascii(), left
    if shutil.which("pdflatex"):
        document = rf"\documentclass{{article}}\begin{{document}}\begin{{figure}}\caption{{{source}}}\end{{figure}}\end{{document}}"
        (tmp_path / "paper.tex").write_text(document)
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
            cwd=tmp_path, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-800:]
