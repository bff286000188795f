"""The notebooks run as they are stored, show what they say, and are small."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import flowgraph
from tests.notebooks import (
    FOLDER,
    MOST_BYTES,
    PLOTLY,
    WIDGET,
    complaints,
    differences,
    executed,
    normal,
    numbers_of,
    opened,
    paths,
    text_of,
    written,
)

NAMES = [path.stem for path in paths()]
_PATH = re.compile(r"/(?:tmp|home|root|usr|var)/")
"""A place on the machine that a notebook ran on."""

CLAIMS = {
    "1_trace_and_lens": """
        ranks = [lens[layer, -1].target_rank for layer in range(30)]
        assert min(ranks[:23]) > 10_000 and ranks[22] > 10 * ranks[23] and ranks.index(1) == 29
        words = [lens[layer, -1].top[0][0] for layer in range(30)]
        assert [any(letter.isalpha() for letter in word) for word in words[27:]] == [True] * 3 and words[26] == ","
        assert abs(parts.total - parts.logit) < 1e-4 and len(parts.to_dataframe()) == 302
        assert by_source.argmax() == 3 and by_source[3] > 0.95 * by_source.sum()
        assert str(scores.strongest("direct_logit", 1)[0][0]) == "L23H3"
        written, lost = (dict(zip([row[0] for row in rows], [row[n] for row in rows])) for n in (2, 3))
        assert abs(written["L23H3"] + lost["L23H3"]) < 0.1 * written["L23H3"]
        assert -lost["L23H4"] < 0.25 * written["L23H4"] and -lost["L23H5"] > 2 * written["L23H5"]
        """,
    "2_flow_graphs": """
        assert abs(flow[into_logit].sum() - 1) < 1e-6 and abs(flow[from_inputs].sum() - 1) < 1e-6
        e, carried = strongest_read(kept)
        assert kept.layer[e] == 23 and trace.tokens[kept.key_pos[e]] == " Japan" and kept.query_pos[e] == 7
        assert len(kept) == 40 and len(graph) == 2_040
        assert 0.01 < fg.strongest_paths(fg.merge_parallel(graph), k=1)[0].strength < 0.011
        reads = {row[0]: row[3] for row in rows}
        assert list(reads) == list(fg.EDGE_METHODS)
        assert reads == {"attention": "The", "norms": "The", "ff": "The", "proximity": " Japan", "logits": " Japan"}
        best = into_last.sort_values("share", ascending=False)["source_label"]
        assert len(into_last) == 9 and best.iloc[0] == "L23H4@7"
        """,
    "3_rollout_flow_routes": """
        assert rollout[-1, :, 0].min() > 0.9995
        for text, answer in (("Our capital of Japan is the city of", " Tokyo"), ("The capital of Italy is the city of", " Rome")):
            other = fg.trace(model, text)
            assert other.target_token == answer and fg.attention_rollout(other)[-1, -1, 0] > 0.9995
        row = [last_row[position:].sum() for position in range(8)]
        assert all(abs(flow[n] - row[n]) < 5e-4 for n in range(4)) and flow[7] < row[7] - 0.05
        assert all(flow[n] > flow[n + 1] for n in range(7))
        assert set(cut.layer) == {29} and set(cut.query_pos) == {7} and sorted(cut.key_pos) == [3, 4, 5, 6, 7]
        assert abs(cut.weight.sum() - flow[3]) < 1e-9
        starts = [
            {node.position for node in fg.routes(weights, threshold=least).nodes if node.kind == "embed"} for least in (0.1, 0.15)
        ]
        assert 0 in starts[0] and 0 not in starts[1] and 3 in starts[1]
        assert into["share"].idxmax() in into[into["source_label"] == "L22.resid_post@7"].index
        assert max(inputs, key=inputs.get) == 0 and abs(sum(inputs.values()) - 1) < 1e-6
        assert len(pruned) < len(graph) / 10
        """,
    "4_semantic_graph": """
        stream = fg.trajectory(trace)
        ranks = dict(zip(stream.sites, stream.stream.target_rank.tolist()))
        assert all(ranks[f"L{layer}.resid_post"] > 10_000 for layer in range(23)) and ranks["L29.resid_post"] == 1
        assert len(units) > 1 and head.top[0][0] == " Japanese" and head.contribution > 2.5
        assert circuit.source_tokens[0] == " Japan" and circuit.values.top_tokens[0][0] == " Japanese"
        assert (circuit.queries.top_tokens[0][0], circuit.keys.top_tokens[0][0]) == (" affili", " Bunny")
        assert circuit.pattern[0] > 0.9 and abs(circuit.logits[0] - 2.67) < 0.01
        assert [found.overlap for found in norms[:2]] == [0, 0] and min(found.overlap for found in norms[2:]) >= 0.8
        for found in norms:
            steps = dict(zip(found.steps, found.step_divergence))
            assert steps["scale"] < 0.01 * steps["gain"]
        """,
    "5_from_picture_to_paper": """
        assert {"mary.svg", "mary.pdf", "mary.tex", "mary.png", "mary.caption.txt"} <= {path.name for path in folder.iterdir()}
        assert len(figure) == 16 and figure.caption() in (folder / "mary.caption.txt").read_text(encoding="utf-8")
        assert again.nodes == figure.nodes and np.array_equal(again.weight, figure.weight)
        assert networkx.is_directed_acyclic_graph(net) and net.number_of_edges() == 16
        assert [round(path.strength, 3) for path in fg.strongest_paths(theirs)] == [0.833, 0.167]
        by_john = fg.direct_logit_attribution(trace).heads_by_source[23, 3]
        assert by_john.argmax() == 9 and edges["weight"].abs().idxmax() == 1 and trace.tokens[9] == " John"
        """,
    "6_heads_and_circuits": """
        head = {name: fg.Node("head", layer=layer, head=n) for name, layer, n in (("L23H3", 23, 3), ("L24H4", 24, 4), ("L29H0", 29, 0))}
        of = lambda node: sweep.effects[node.layer, node.head]
        assert abs(of(head["L23H3"])) == abs(sweep.effects).max() and of(head["L23H3"]) < 0
        assert of(head["L24H4"]) > 1 and of(head["L29H0"]) > 1
        assert "negative_copying" in roles.of(head["L23H3"])
        assert set(head.values()) <= set(heads) and len(drawn_heads) == len(heads)
        assert cut.mean_after > 0.8 * cut.mean_before
        lost = fg.ablate(model, clean, heads, "resample", reference=corrupted, **asked)
        assert lost.mean_after < 0 and kept.value < 0.5
        into = {str(edge) for edge in both.edges.only_a + both.edges.shared}
        assert {"L23H0 → L24H4.q", "L23H1 → L24H4.q"} <= into
        assert count >= 32 and stored["prompts_in_both"] == 0
        values = {name: one["curve"]["value"] for name, one in circuits.items()}
        assert values["backward"] < values["eap-ig"] < 0.5
        effects = {row["head"]: row["ablation_effect"] for row in circuits["backward"]["heads"]["strongest"]}
        movers = {row["head"] for row in circuits["backward"]["heads"]["strongest"] if "name_mover" in row["roles"]}
        assert {"L23H0", "L23H1"} <= movers and max(abs(effects["L23H0"]), abs(effects["L23H1"])) < 0.05
        """,
}
"""What the texts say, of the variables that a notebook leaves: checked in its own kernel after its last cell."""


def dedented(code):
    return "\n".join(line.removeprefix(" " * 8) for line in code.strip("\n").splitlines())


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """``fresh(name)`` → the notebook after a run in an empty folder, its claims checked; run once."""
    done = {}

    def run(name):
        if name not in done:
            stored = opened(FOLDER / f"{name}.ipynb")
            done[name] = executed(stored, tmp_path_factory.mktemp("notebook"), dedented(CLAIMS[name]))
        return done[name]

    return run


def test_every_notebook_has_claims():
    assert list(CLAIMS) == NAMES


@pytest.mark.slow(seconds=20)
@pytest.mark.real_model
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(fresh, name):
    assert complaints(fresh(name)) == []


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_are_what_comes_out(fresh, name):
    stored, now = opened(FOLDER / f"{name}.ipynb"), normal(fresh(name))
    for cell, again in zip(stored.cells, now.cells, strict=True):
        assert not differences(text_of(cell), text_of(again)), cell.id
        kinds = [sorted(output.get("data", [])) for output in cell.get("outputs", [])]
        assert kinds == [sorted(output.get("data", [])) for output in again.get("outputs", [])]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_in_the_text_stand_in_a_cell_above(name):
    shown: list[float] = []
    for cell in opened(FOLDER / f"{name}.ipynb").cells:
        if cell.cell_type == "code":
            shown += numbers_of(text_of(cell))
            continue
        said = re.sub(r"`[^`]*`|\$[^$]*\$", "", cell.source)
        for number in re.findall(r"(?<![\w.,])\d+(?:,\d{3})*\.\d+(?!\d| in\b)|\d+(?= %)|(?<![\w.])\d+,\d{3}\b", said):
            digits = len(number.partition(".")[2])
            value = float(number.replace(",", ""))
            assert any(round(abs(one), digits) == value for one in shown), f"{number} in {cell.source[:80]!r}"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_in_its_stored_form(name):
    path = FOLDER / f"{name}.ipynb"
    content = path.read_text(encoding="utf-8")
    notebook = opened(path)
    assert written(normal(notebook)) == content, "python -m tests.notebooks writes it in its stored form"
    assert len(content.encode()) <= MOST_BYTES
    for kept_out in (
        "<iframe",
        "<script",
        PLOTLY,
        WIDGET,
        "iopub",
        "\\u001b",
        "0x7f",
    ):
        assert kept_out not in content
    assert _PATH.search(content) is None
    assert complaints(notebook) == []
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_something_and_uses_public_names_only(name):
    notebook = opened(FOLDER / f"{name}.ipynb")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 1
    source = "\n".join(cell.source for cell in code)
    assert "import flowgraph as fg" in source
    assert "from flowgraph" not in source
    assert set(re.findall(r"\bfg\.(\w+)", source)) <= set(flowgraph.__all__)
    for cell in notebook.cells:
        for link in re.findall(r"\]\((\S+?)\)", cell.source) if cell.cell_type == "markdown" else []:
            assert (FOLDER / link).is_file(), link


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_the_code_in_notebooks_is_clean(command):
    ruff = [sys.executable, "-m", "ruff", *command, "notebooks"]
    done = subprocess.run(ruff, cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def with_output(*outputs):
    return new_notebook(
        cells=[new_markdown_cell("text"), new_code_cell("1", outputs=list(outputs), execution_count=7)],
        metadata={"widgets": {"state": {}}, "kernelspec": {"name": "mine", "display_name": "mine"}},
    )


def test_what_is_interactive_is_taken_out():
    frame = {"text/html": "<iframe srcdoc='…'></iframe>", "text/plain": "FlowGraph('norms')"}
    widget = {WIDGET: {"model_id": "1"}, "text/plain": "FlowWidget()"}
    plotly = {PLOTLY: {"data": [], "layout": {"title": {"text": "Ranks"}}}, "text/html": "<script></script>"}
    table = {"text/html": "<table></table>", "text/plain": "Table()", "image/svg+xml": "<svg/>"}
    outputs = [
        new_output("display_data", data=data, metadata={"isolated": True}) for data in (frame, widget, plotly, table)
    ]
    notebook = normal(with_output(*outputs))
    assert [output.data for output in notebook.cells[1].outputs] == [
        {"text/plain": "FlowGraph('norms')\n[interactive: run the cell to see it]"},
        {"text/plain": "FlowWidget()\n[interactive: run the cell to see it]"},
        {"text/plain": "[plotly figure “Ranks”: run the cell to see it]"},
        {"text/html": "<table></table>", "text/plain": "Table()"},
    ]
    assert all(output.metadata == {} for output in notebook.cells[1].outputs)
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[1].execution_count == 1
    assert written(normal(notebook)) == written(notebook)


def test_printed_pieces_are_one_and_complaints_are_found():
    pieces = [new_output("stream", name="stdout", text="a\n"), new_output("stream", name="stdout", text="b\n")]
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    notebook = normal(with_output(*pieces, new_output("stream", name="stderr", text="Warning"), error))
    assert [output.get("text") for output in notebook.cells[1].outputs] == ["a\nb\n", "Warning", None]
    assert complaints(notebook) == ["Warning", "no"]


def test_texts_differ_in_words_and_in_more_than_rounding():
    assert differences("rank 1,166 p 0.851 e 2e-07", "rank 1,170 p 0.852 e 9e-08") == []
    assert differences("rank 1,166", "rank 1,366") == ["1166 is now 1366"]
    assert differences("L23H4", "L24H4") == ["23 is now 24"]
    assert differences("+2.68 logits", "−2.68 logits") == ["2.68 is now -2.68"]
    assert differences(" Tokyo 0.85", " Kyoto 0.85") == ["'Tokyo' is now 'Kyoto'"]
    assert differences("one", "one two") == ["1 words are now 2"]
    assert differences("flowgraph 0.1.0", "flowgraph 0.2.0") == []


def test_a_cell_that_fails_stops_the_run(tmp_path):
    from nbclient.exceptions import CellExecutionError

    notebook = new_notebook(cells=[new_code_cell("print(1)")])
    assert text_of(executed(notebook, tmp_path).cells[0]) == "1\n"
    with pytest.raises(CellExecutionError, match="assert 1 == 2"):
        executed(notebook, tmp_path, "assert 1 == 2")
    assert list(tmp_path.iterdir()) == []
