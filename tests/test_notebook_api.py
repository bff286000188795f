"""What a result shows in a notebook and hands to pandas and to files: its own numbers, escaped, and no more than fits."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from html import escape
from html.parser import HTMLParser

import numpy as np
import pandas
import pytest

import flowgraph
from flowgraph import Table, logit_lens, read
from flowgraph.analyses import (
    edge_tokens,
    head_circuit,
    norm_filter,
    overlap_by_layer,
    regularization_neurons,
    trajectory,
)
from flowgraph.charts.table import columns_of, data_frame
from flowgraph.charts.text import visible
from flowgraph.errors import ArgumentError, ModelNeededError, NonFiniteError, UnsupportedReadingError
from flowgraph.render.page.tables import _wash, table_html
from flowgraph.render.words.table import table_text
from tests.conftest import IDS, JAPAN

HOSTILE = "<img src=x onerror=alert(1)>\"'&\n=1+1;\ud800"


@pytest.fixture(scope="module")
def results(tiny):
    """Every result that is a table, by its name."""
    loaded = tiny("gpt2")
    trace = flowgraph.trace(loaded, IDS, foil=9)
    graph = flowgraph.semantic_graph(trace, layers=0)
    value = next(e for e in range(len(graph)) if graph.nodes[graph.source[e]].kind == "value")
    return {
        "reading": logit_lens(trace, k=4),
        "vectors": read(trace, trace.resid_post[0], k=3),
        "vector": read(trace, trace.resid_post[0, 0], k=3),
        "heads written": logit_lens(trace, site="head_out", k=2),
        "rollout": flowgraph.attention_rollout(trace),
        "mixing": flowgraph.mixing_ratio(trace),
        "flow": flowgraph.attention_flow(trace, source=-1),
        "flow edges": flowgraph.flow_edges(trace, source=-1, target=0),
        "scores": flowgraph.head_scores(trace),
        "attribution": flowgraph.direct_logit_attribution(trace),
        "predictions": trace.predictions(5),
        "trajectory": trajectory(trace),
        "norm": norm_filter(trace, layer=1, k=4),
        "neurons": regularization_neurons(loaded, [[20, 31], [53]], most_active=9, threshold=0.5, others=3),
        "overlap": overlap_by_layer(logit_lens(trace, k=5), logit_lens(trace, site="resid_pre", k=5), 5),
        "circuit": head_circuit(trace, layer=1, head=2, sources=3),
        "edge": edge_tokens(trace, graph, value, k=4),
    }


NAMES = (
    "reading", "vectors", "vector", "heads written", "rollout", "mixing", "flow", "flow edges", "scores", "attribution",
    "predictions", "trajectory", "norm", "neurons", "overlap", "circuit", "edge",
)  # fmt: skip


class Seen(HTMLParser):
    """Tags, attributes and text of a piece of HTML, and whether every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.names, self.text = [], set(), set(), ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.names |= {name for name, _ in attributes}
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", NAMES)
def test_every_result_renders_itself(results, name):
    result = results[name]
    html, line = result._repr_html_(), repr(result)
    seen = Seen(html)
    assert seen.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "img", "span"}
    assert seen.names <= {"style", "title", "src", "alt", "width", "height"}
    assert len(html) < 60_000
    # A colour of text or of a whole table would be legible on one background only.
    assert not re.search(r"(?<!-)\bcolor:|background:(?!rgba)", html)
    assert "http" not in html
    assert line.startswith(type(result).__name__)
    assert "\n" not in line
    assert "array(" not in line
    assert len(line) < 300
    assert len(str(result).splitlines()) <= 26
    table = result.table()
    assert table.title in str(result)
    assert len(table) == len(result.to_dataframe())


@pytest.mark.parametrize("name", NAMES)
def test_tables_go_to_pandas_and_to_files(results, name, tmp_path):
    result = results[name]
    table, frame = result.table(), result.to_dataframe()
    assert list(frame) == list(table.columns)
    path = result.save(tmp_path / "numbers.csv")
    head, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    assert head == list(table.columns)
    assert len(rows) == len(table)
    for n, column in enumerate(head):
        for row, value in zip(rows, table.columns[column], strict=True):
            read_back = "" if value is None else value if column in table.words else json.loads(row[n])
            assert read_back == ("" if value is None else value)
            assert row[n][:1] not in ("=", "+", "@", "\t")
    path = result.save(tmp_path / "numbers.NPZ")
    with np.load(path, allow_pickle=False) as held:
        arrays = result.arrays()
        assert set(held) == set(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(held[key], array)
            assert not held[key].dtype.hasobject


@pytest.mark.parametrize("name", NAMES)
def test_results_draw_themselves(results, name, monkeypatch, tmp_path):
    result = results[name]
    # A table has no chart, and a reading has one where it has two axes.
    if name in ("predictions", "vectors", "vector", "heads written"):
        return
    figure = result.figure() if name != "rollout" else result.figure(layer=0)
    shown = []
    monkeypatch.setattr(type(figure), "show", lambda self: shown.append(self))
    result.show(theme="dark")
    assert figure.data
    assert "<svg" in result.save(tmp_path / "result.svg", width="two-column").read_text(encoding="utf-8")
    assert shown[0].layout.paper_bgcolor == "#12161C"


def test_files_are_whole_or_not_at_all(results, tmp_path):
    result = results["attribution"]
    with pytest.raises(ArgumentError, match=r"extension '.xlsx'; expected .csv or .npz"):
        result.save(tmp_path / "numbers.xlsx")
    path = result.save(tmp_path / "numbers.csv")
    before = path.read_bytes()
    with pytest.raises(ArgumentError, match="exists"):
        result.save(path, overwrite=False)
    with pytest.raises(NonFiniteError, match=r"x\[1\]"):
        Table("t", {"x": [1.0, float("nan")]}).save(path)
    with pytest.raises(ArgumentError, match="x holds Python objects"):
        Table("t", {"x": np.array([object()])}).to_npz()
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["numbers.csv"]


def test_without_pandas_the_message_says_what_to_install(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ArgumentError, match=r"pip install 'transformer-flowgraph\[notebook\]'"):
        results["reading"].to_dataframe()


@pytest.mark.slow
def test_nothing_heavy_comes_with_the_results():
    code = "import flowgraph as f, sys; f.Reading, f.TokenMatrix, f.head_scores, f.lens_figure, f.Table\n"
    code += "print([n for n in ('pandas', 'plotly', 'dash', 'transformers') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_hostile_texts_stay_texts(results, traces):
    reading = results["reading"]
    odd = tuple((HOSTILE, *tokens[1:]) for tokens in reading.top_tokens)
    odd_reading = dataclasses.replace(reading, top_tokens=odd, target_token=HOSTILE)
    named = odd_reading.named(("layer", "position"), prompt_tokens=[HOSTILE] * 7)
    trace = dataclasses.replace(traces("gpt2"), tokens=(HOSTILE,) * 7, model_name=HOSTILE)
    circuit = dataclasses.replace(results["circuit"], token=HOSTILE, source_tokens=(HOSTILE,) * 3)
    for shown in (
        odd_reading,
        named,
        trace,
        circuit,
        Table(HOSTILE, {HOSTILE: [HOSTILE]}, note=HOSTILE, words=(HOSTILE,)),
    ):
        seen = Seen(shown._repr_html_())
        assert "img" not in seen.tags
        assert not {"onerror"} & seen.names
        assert "\n" not in seen.text
    (field,) = (
        row[1] for row in csv.reader(io.StringIO(Table("", {"n": [1], "t": [HOSTILE]}).to_csv())) if row[0] == "1"
    )
    assert json.loads(field) == HOSTILE
    assert ";" not in field
    field.encode("utf-8")
    (own,) = list(csv.reader(io.StringIO(Table("", {"t": ["=1+1"]}, words=("t",)).to_csv())))[1]
    assert own == '"=1+1"'
    figure = named.figure()
    text = json.dumps(figure.to_plotly_json(), default=lambda x: x.tolist())
    assert "<img" not in text


def test_what_is_left_out_is_said():
    table = Table("many", {"n": np.arange(57), "t": ["a"] * 57}, note="a note")
    html, text = table_html(table, most=5), table_text(table, most=5)
    for shown in (Seen(html).text, text):
        assert "52 of 57 rows are not shown" in shown
        assert "a note" in shown
    assert html.count("<tr>") == 6
    assert "left" not in table_text(Table("few", {"n": [1, 2]}))
    ends = table_text(dataclasses.replace(table, both_ends=True), most=4).splitlines()
    assert [line.split()[0] for line in ends[2:7]] == ["0", "1", "⋮", "55", "56"]
    whole = table_text(dataclasses.replace(table, both_ends=True), most=57)
    assert "⋮" not in whole
    assert "not shown" not in whole
    assert table_text(Table("nothing", {"n": []})).splitlines() == ["nothing", "n"]
    assert Table("no columns", {})._repr_html_()


def test_tables_check_their_columns():
    with pytest.raises(ArgumentError, match="different lengths"):
        Table("t", {"a": [1], "b": [1, 2]})
    columns = columns_of([{"a": 1}, {"b": "x", "a": None}], ("z",))
    assert columns == {"z": [None, None], "a": [1, None], "b": [None, "x"]}
    frame = data_frame(columns)
    assert frame["a"].dtype == "Int64"
    assert frame["a"][1] is pandas.NA
    arrays = Table("t", {"a": [1, None], "x": [None, 0.5], "b": [None, "y"]}).arrays()
    assert arrays["a"].tolist() == [1, -1]
    assert np.isnan(arrays["x"][0])
    assert arrays["b"].tolist() == ["", "y"]


def contrast(one, other):
    """Of two colours, as WCAG has it."""

    def luminance(colour):
        parts = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("strength", [1.0, 0.5, -0.5, -1.0, 7.0])
@pytest.mark.parametrize(("page", "ink"), [((255, 255, 255), (0, 0, 0)), ((17, 17, 17), (224, 224, 224))])
def test_a_wash_is_legible_on_light_and_dark_pages(strength, page, ink):
    *colour, alpha = map(float, re.findall(r"[\d.]+", _wash(strength)))
    seen = [alpha * top + (1 - alpha) * below for top, below in zip(colour, page, strict=True)]
    assert contrast(seen, ink) >= 4.5


def test_the_lens_in_a_notebook(traces):
    trace = traces("llama")
    lens = read(trace, trace.resid_post, k=3)
    named = lens.named(("layer", "position"), first_layer=5, prompt_tokens=trace.tokens)
    html = named._repr_html_()
    seen = Seen(html).text
    assert html.index(">6</th>") < html.index(">5</th>")
    assert "layer \\ position" in seen
    assert html.count("<td") == len(named) == 14
    first = named[1, 0]
    best = f"{in_attribute(first.top[0][0])} {first.top[0][1]:.3f}"
    rank = f"rank of {in_attribute(lens.target_token)}: {first.target_rank:,}, entropy {first.entropy:.2f} nats"
    assert re.search(rf'title="layer 6, position 0 [^"]*\n{re.escape(best)}[^"]*\n{re.escape(rank)}"', html)
    frame = named.to_dataframe()
    assert list(frame)[:5] == ["layer", "position", "prompt_token", "order", "token"]
    assert len(frame) == 14 * 3
    for row in frame.itertuples():
        vector = named[row.layer - 5, row.position]
        assert vector.top[row.order - 1] == (row.token, row.probability, row.logit)
        assert (row.target_rank, row.entropy, row.norm) == (vector.target_rank, vector.entropy, vector.norm)
        assert row.prompt_token == trace.tokens[row.position]
    held = named.arrays()
    assert held["top_tokens"].shape == held["top_logits"].shape == (2, 7, 3)
    assert held["top_tokens"][1, 6, 0] == named[1, 6].top[0][0]
    assert held["axis_layer"].tolist() == [5, 6]
    assert held["prompt_tokens"].tolist() == list(trace.tokens)
    assert "foil" not in held
    assert "row \\ column" in Seen(lens._repr_html_()).text
    assert repr(named).startswith("Reading(2 layers × 7 positions, top 3")


def in_attribute(token):
    """A token as it stands in an attribute."""
    return escape(visible(token), quote=True)


def test_names_that_do_not_fit(traces):
    trace = traces("llama")
    lens = read(trace, trace.resid_post, k=2)
    with pytest.raises(ArgumentError, match=r"are 1 names; shape \(2, 7\) needs 2"):
        lens.named(("layer",))
    with pytest.raises(ArgumentError, match="prompt_tokens are 2"):
        lens.named(("layer", "position"), prompt_tokens=("a", "b"))
    assert lens.named(("layer", "position")).axes == ("layer", "position")
    assert lens.axes == ()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_lens_as_a_figure(traces, theme):
    trace = traces("llama")
    lens = logit_lens(trace, k=3).named(("layer", "position"), first_layer=5, prompt_tokens=trace.tokens)
    numbers = {
        "probability": lens.top_probabilities[:, 0], "rank": np.log10(lens.target_rank), "entropy": lens.entropy,
    }  # fmt: skip
    for colour, expected in numbers.items():
        figure = flowgraph.lens_figure(lens, colour=colour, theme=theme)
        grid = figure.data[0]
        np.testing.assert_allclose(np.array(grid.z).ravel(), expected)
        assert list(figure.layout.yaxis.ticktext) == ["5", "6"]
        assert len(grid.text) == 2
        assert grid.customdata[1][6].startswith("layer 6, position 6 ")
    with pytest.raises(ArgumentError, match="colour='pink' is not known; expected one of probability, rank, entropy"):
        # The tests check types at run time, which is not what a user meets.
        getattr(type(lens).chart, "__wrapped__", type(lens).chart)(lens, colour="pink")
    with pytest.raises(ArgumentError, match="a grid needs two axes"):
        read(trace, trace.resid_post[0], k=2).figure()


def test_a_trace_in_a_notebook(traces, tmp_path):
    trace = traces("gpt2")
    html = trace._repr_html_()
    seen = Seen(html).text
    for name, tensor in trace.sites.items():
        assert f"{name}{' × '.join(map(str, tensor.shape))}" in seen
    assert f"marked: position {trace.position}" in seen
    assert f"all tensors together {trace.nbytes / 2**20:.1f} MB" in seen
    frame = trace.to_dataframe()
    assert frame["token"].tolist() == list(trace.tokens)
    assert frame["token_id"].tolist() == list(trace.token_ids)
    assert frame.index[frame["explained"]].tolist() == [trace.position]
    best = trace.predictions(4)
    probability = trace.logits.double().softmax(-1)
    ids = probability.topk(4).indices.tolist()
    assert best.columns["token_id"].tolist() == ids
    np.testing.assert_allclose(best.columns["probability"], probability[ids])
    np.testing.assert_allclose(best.columns["logit"], trace.logits.double()[ids])
    assert list(best.columns["token"]) == [trace.model.vocabulary.string(i) for i in ids]
    assert f"predicts at position {trace.position}" in seen
    with pytest.raises(ArgumentError, match="k=0 must be between 1"):
        trace.predictions(0)
    stored = flowgraph.Trace.load(trace.save(tmp_path / "run.safetensors"))
    with pytest.raises(ModelNeededError):
        stored.predictions()
    assert "predicts" not in stored._repr_html_()


def test_a_trace_without_a_head_and_a_long_one(tiny):
    headless = flowgraph.trace(tiny("bert_headless"), IDS, position=-1)
    with pytest.raises(UnsupportedReadingError, match="predicts no token"):
        headless.predictions()
    assert "predicts" not in headless._repr_html_()
    long = flowgraph.trace(tiny("llama"), IDS * 9)
    assert "60 of 63 tokens are shown, the last" in long._repr_html_()


def test_attribution_parts_sum_to_the_logit(traces):
    for name in ("gpt2", "llama"):
        parts = flowgraph.direct_logit_attribution(traces(name))
        frame = parts.to_dataframe()
        assert frame["logits"].sum() == pytest.approx(parts.total)
        assert frame["logits"].abs().is_monotonic_decreasing
        heads = frame[frame["kind"] == "head"]
        assert len(heads) == parts.heads.size
        for row in heads.itertuples():
            assert row.logits == parts.heads[row.layer, row.head]
            assert row.part == f"L{row.layer}H{row.head}"
        held = parts.arrays()
        assert dict(zip(held["bias_names"].tolist(), held["biases"].tolist(), strict=True)) == dict(parts.biases)
        np.testing.assert_array_equal(held["neurons"], parts.neurons)


def test_a_trajectory_s_table_is_in_the_order_of_the_pass(results):
    found = results["trajectory"]
    frame = found.to_dataframe()
    assert frame["depth"].is_monotonic_increasing
    assert frame["place"].tolist()[:5] == ["embed", "L0.attn_out", "L0.resid_mid", "L0.mlp_out", "L0.resid_post"]
    stream = frame[frame["series"] == "stream"]
    assert stream["place"].tolist() == list(found.sites)
    for name in ("target_rank", "foil_log_probability", "entropy"):
        np.testing.assert_array_equal(stream[name], getattr(found.stream, name))
        np.testing.assert_array_equal(frame[frame["series"] == "mlp"][name], getattr(found.mlp, name))
    assert stream["top_token"].tolist() == [tokens[0] for tokens in found.stream.top_tokens]


def test_analyses_tables_hold_their_numbers(results):
    circuit = results["circuit"].to_dataframe()
    np.testing.assert_array_equal(circuit["contribution"], results["circuit"].contribution)
    assert circuit["value_token"].tolist() == [tokens[0] for tokens in results["circuit"].values.top_tokens]
    norm, frame = results["norm"], results["norm"].to_dataframe()
    steps = frame[[f"by_{step}" for step in norm.steps]].sum(axis=1)
    np.testing.assert_allclose(steps, frame["log_probability_after"] - frame["log_probability_before"], atol=1e-9)
    assert frame["change"].unique().tolist()[0] == "promoted in rank"
    neurons, frame = results["neurons"], results["neurons"].to_dataframe()
    for row in frame.itertuples():
        assert row.frequency == neurons.frequency[row.layer, row.neuron] > 0.5
    overlap, frame = results["overlap"], results["overlap"].to_dataframe()
    np.testing.assert_allclose(frame.groupby("layer")["overlap"].mean(), overlap.mean)
    edge, frame = results["edge"], results["edge"].to_dataframe()
    promoted = frame[frame["side"] == "promoted"][["token", "probability", "logit"]]
    assert list(promoted.itertuples(index=False, name=None)) == list(edge.promoted)
    flow = results["flow edges"]
    out = flow.to_dataframe().query("layer == layer.max()")["weight"].sum()
    assert out == pytest.approx(flow.value)


def test_edges_and_nodes_of_a_graph(traces):
    graph = flowgraph.build_graph(traces("gpt2"), method="attention", level="head")
    edges, nodes = graph.to_dataframe(), graph.to_dataframe(nodes=True)
    assert (len(edges), len(nodes)) == (len(graph), len(graph.nodes))
    for row in edges.sample(20, random_state=1).itertuples():
        e = row.Index
        assert nodes["label"][row.source] == row.source_label == str(graph.nodes[graph.source[e]])
        assert row.target_label == str(graph.nodes[graph.target[e]])
        assert bool(graph.structural[e]) == row.structural == pandas.isna(row.weight)
        if not row.structural:
            assert (row.weight, row.share) == (graph.weight[e], graph.share[e])
        assert (row.head is pandas.NA) == (graph.head[e] < 0)
    assert nodes["layer"].dtype == edges["head"].dtype == "Int64"
    read_nodes = [reading is not None for reading in graph.readings]
    assert any(read_nodes)
    assert nodes["norm"].notna().tolist() == read_nodes
    nothing = graph.keep(np.zeros(len(graph), dtype=bool))
    assert list(nothing.to_dataframe()) == list(edges)
    assert list(nothing.to_dataframe(nodes=True))[:7] == list(nodes)[:7]


def test_weights_say_what_they_hold(traces):
    weights = flowgraph.edge_weights(traces("gpt2"), method="norms")
    seen = Seen(weights._repr_html_()).text
    assert repr(weights) in seen
    assert "attention_summed2 × 7 × 7" in seen
    assert "unit: norm" in seen


@pytest.mark.real_model
def test_the_notebook_s_own_formatter_takes_them(smollm2):
    formatters = pytest.importorskip("IPython.core.formatters")
    trace = flowgraph.trace(smollm2, JAPAN)
    for result in (trace, logit_lens(trace), flowgraph.attention_rollout(trace), flowgraph.head_scores(trace)):
        shown, _ = formatters.DisplayFormatter().format(result)
        assert shown["text/html"] == result._repr_html_()
        assert shown["text/plain"] == repr(result)
        assert len(shown["text/html"]) < 80_000
    assert "␣Tokyo" in logit_lens(trace)._repr_html_()
