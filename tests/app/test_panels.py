"""The panels as data: trees that are walked, numbers that add up, texts that cannot become markup."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from dash.development.base_component import Component
from flowgraph_webapp.node_key import parse_node_key
from flowgraph_webapp.panels import (
    attention,
    attention_views,
    bars,
    details_of_edge,
    details_of_graph,
    details_of_node,
    heads,
    lens,
    semantic,
)
from flowgraph_webapp.panels.attention import Attention
from flowgraph_webapp.panels.bars import Bar, Bars
from flowgraph_webapp.panels.edges import edges_at, flows, strongest_moves
from flowgraph_webapp.panels.heads import Heads
from flowgraph_webapp.panels.prediction import predictions
from flowgraph_webapp.panels.semantic import Semantic
from flowgraph_webapp.panels.writers import writers
from flowgraph_webapp.present.drawn import ATTRIBUTES, TAGS, element, token
from flowgraph_webapp.present.figures import plural, probability, short, signed
from flowgraph_webapp.present.palette import BOUNDS, EVEN_BOUNDS, colours, contrast, panel_variables, step_of
from flowgraph_webapp.present.tables import Cell, Column, table
from flowgraph_webapp.recipe import Recipe
from flowgraph_webapp.server.run import Run

import flowgraph
from flowgraph import Node, NodeDetails, NodeReading, Reading, node_key
from flowgraph.render import THEMES, drawing, rank_decade, visible
from flowgraph.render.page.document import asset
from tests.synthetic_graphs import HOSTILE, JAPAN, empty_graph, head_graph, logits_graph, token_graph, with_structural


class Tree:
    """A component as the browser gets it: [tag, attributes, child, …] from its JSON."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.tree = json.loads(json.dumps(component.to_plotly_json()["props"]["chart"]))
        self.all = list(_walk(self.tree))

    def find(self, tag: str = "", **attributes: str) -> list:
        wanted = {name.replace("_", "-").replace("cls", "class"): value for name, value in attributes.items()}
        return [
            node
            for node in self.all
            if (not tag or node[0] == tag) and all(_has(node[1], name, value) for name, value in wanted.items())
        ]

    @property
    def text(self) -> str:
        return text_of(self.tree)


def _has(attributes: dict, name: str, value: str) -> bool:
    if name == "class":
        return value in attributes.get("class", "").split()
    return name in attributes and value in (None, attributes[name])


def _walk(node):
    yield node
    for child in node[2:]:
        if not isinstance(child, str):
            yield from _walk(child)


def text_of(node) -> str:
    return node if isinstance(node, str) else "".join(map(text_of, node[2:]))


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").replace("> ", ""))


def a_run(tokens=JAPAN, **changes) -> Run:
    basic = Run(
        model="smollm2", family="llama", prompt="".join(tokens), tokens=tuple(tokens), token_ids=(), position=len(tokens) - 1,
        n_layers=6, n_heads=4, layers=(0, 6), causal=True, target=7, target_token=" Tokyo", foil=None, foil_token=None,
        predictions=(), has_head=True, has_attribution=True, seconds=0.1,
    )  # fmt: skip
    return replace(basic, **changes)


def a_lens(run: Run, words=(" Tokyo", " the", "\n", "<script>alert(1)</script>", " שלום")) -> Reading:
    layers, count = run.layers[1] - run.layers[0], len(run.tokens)
    rng, size = np.random.default_rng(0), layers * count
    chances = -np.sort(-rng.dirichlet(np.ones(5), size), axis=1)
    names = tuple(tuple(words[(n + k) % len(words)] for k in range(5)) for n in range(size))
    ids = np.zeros((size, 5), dtype=np.int64)
    logits = np.log(chances) + 10
    return Reading(
        top_tokens=names, top_token_ids=ids, top_logits=logits, top_probabilities=chances, bottom_tokens=names,
        bottom_token_ids=ids, bottom_logits=-logits, bottom_probabilities=chances / 1e9, target=7, target_token=" Tokyo",
        target_logit=rng.normal(size=size), target_probability=10.0 ** -rng.uniform(0, 9, size),
        target_log_probability=-rng.uniform(0, 9, size), target_rank=rng.integers(1, 49_000, size),
        entropy=rng.uniform(0, 10, size), norm=rng.uniform(1, 100, size), shape=(layers, count),
    )  # fmt: skip


def some_heads(run: Run, count=4, undefined=None) -> Heads:
    rng, layers = np.random.default_rng(1), run.layers[1] - run.layers[0]
    names = {"direct_logit": "logits", "strongest_other": "share"}
    if undefined:
        names.pop("direct_logit")
    scores = {
        name: rng.normal(size=(layers, count)) if unit == "logits" else rng.random((layers, count))
        for name, unit in names.items()
    }
    return Heads(
        scores=scores, units=names, descriptions={name: f"what {name} says" for name in names}, layers=run.layers,
        bounds=dict.fromkeys(names, (None, None)), undefined=undefined or {},
        strongest_key=rng.integers(0, len(run.tokens), (layers, count)),
    )  # fmt: skip


def a_pattern(count: int, heads=4, layer=3) -> Attention:
    rng = np.random.default_rng(2)
    raw = np.tril(rng.random((heads, count, count)) ** 6)
    return Attention(layer, raw / raw.sum(-1, keepdims=True))


def some_bars(run: Run, heads=4, biases=True) -> Bars:
    rng, at, layers = np.random.default_rng(3), run.position, run.layers[1] - run.layers[0]
    by_head, by_neuron = rng.normal(size=(layers, heads)), rng.normal(size=(layers, 40)) / 5
    rows = [_bar(Node("embed", position=at), 0.25)]
    rows += [_bar(Node("head", n, h, at), by_head[n, h]) for n in range(layers) for h in range(heads)]
    rows += [_bar(Node("mlp", n, position=at), by_neuron[n].sum()) for n in range(layers)]
    rows += [_bar(Node("attn_bias", 0), 0.5), _bar(Node("unembed_bias"), -0.125)] if biases else []
    order = np.argsort(-np.abs(by_neuron), axis=None)[:50]
    strongest = [
        _bar(Node("neuron", int(n) // 40, position=at, index=int(n) % 40), by_neuron.ravel()[n]) for n in order
    ]
    total = sum(bar.value for bar in rows)
    shares = rng.dirichlet(np.ones(len(run.tokens)))
    return Bars(
        rows=tuple(rows), total=total, logit=total + 1e-6, error=1e-6, unit="logits", heads=by_head, mlps=by_neuron.sum(1),
        sources=shares * by_head.sum(), neurons=tuple(strongest),
        neurons_rest=float(by_neuron.sum() - sum(bar.value for bar in strongest)), target=7, foil=None, target_token=" Tokyo",
        foil_token=None,
    )  # fmt: skip


def _bar(node: Node, value: float) -> Bar:
    return Bar(str(node), node.kind, node.layer, node.head, node.position, node.index, float(value))


RUNS = {
    "japan": a_run(),
    "one token": a_run(("Hello",)),
    "hostile": a_run(HOSTILE),
    "512 tokens": a_run(tuple(f" word{i}" for i in range(512))),
}


def panels(run: Run) -> dict[str, Component]:
    graph = head_graph(run.tokens[:20], layers=4)
    node = Node("head", layer=2, head=1, position=0)
    reading = NodeReading(
        norm=3.0,
        top=((" <b>", 0.5, 2.0), ("\n", 0.1, 1.0)),
        bottom=((" x", 1e-9, -3.0),),
        target_rank=3,
        target_probability=0.2,
    )
    answer = NodeDetails(node, reading, 0.5, np.ones(1), run.tokens[:1], "")
    return {
        "lens": lens.panel(a_lens(run), run),
        "heads": heads.panel(some_heads(run), run),
        "attention": attention.panel(a_pattern(len(run.tokens)), run),
        "bars": bars.panel(some_bars(run), run),
        "details": details_of_node.panel(answer, graph, run).children[1],
        "edge": details_of_edge.panel(graph, 0, run),
        "opening": details_of_graph.panel(graph, run),
    }


@pytest.mark.parametrize("name", RUNS)
def test_what_is_drawn_is_on_the_lists_and_every_pick_is_a_node(name):
    for panel, component in panels(RUNS[name]).items():
        tree = Tree(component)
        assert component.to_plotly_json()["props"]["label"]
        for tag, attributes, *_ in tree.all:
            assert tag in TAGS
            assert all(key in ATTRIBUTES or key.startswith(("aria-", "data-", "--")) for key in attributes)
            key = attributes.get("data-pick") or attributes.get("data-node")
            if key and not key.startswith("edge."):
                assert node_key(parse_node_key(key)) == key
        for button in tree.find("button"):
            assert text_of(button).strip() or button[1].get("aria-label"), f"a button of {panel} has no name"
        for made in tree.find("table"):
            assert any(node[0] == "caption" and text_of(node) for node in _walk(made)) or made[1]["aria-label"]


def test_the_script_draws_from_the_same_lists():
    script = _asset("chart_panel.js")
    listed = {
        name: set(re.findall(r"'([\w-]+)'", re.search(rf"const {name} = new Set\(\[(.*?)\]\)", script)[1]))
        for name in ("TAGS", "ATTRIBUTES")
    }
    assert listed == {"TAGS": set(TAGS), "ATTRIBUTES": set(ATTRIBUTES)}
    for script in (_asset("chart_panel.js"), *map(asset, ("attention_map.js", "attention_panel.js", "tips.js"))):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_styles_name_no_colour_of_their_own():
    styles = _asset("panels.css")
    assert not re.search(r"#[0-9a-fA-F]{6}\b|rgba?\(|hsl", styles)
    named = set(re.findall(r"var\(--([\w-]+)", styles)) - {
        "from",
        "size",
        "zero",
        "part",
        "pitch",
        "count",
        "least",
        "cell",
        "font",
    }
    from flowgraph.render import css_variables, page_styles

    known = set(re.findall(r"--([\w-]+):", css_variables() + panel_variables() + page_styles()))
    assert named <= known, named - known


def _asset(name: str) -> str:
    from pathlib import Path

    return (Path(__file__).parents[2] / "webapp" / "assets" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read_on_every_step(theme):
    steps = colours(THEMES[theme])
    assert len(steps) == 2 * (6 + 8)
    for name, colour in steps.items():
        if not name.endswith("-text"):
            assert contrast(colour, steps[f"{name}-text"]) >= 4.5, name
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)


def test_steps_have_a_sign_and_begin_at_their_bounds():
    assert [step_of(bound * 7.0, 7.0) for bound in BOUNDS] == [1, 2, 3, 4]
    assert [step_of(-bound * 7.0, 7.0) for bound in BOUNDS] == [-1, -2, -3, -4]
    assert step_of(0.0, 0.0) == step_of(0.1, 7.0) == 0
    assert [step_of(bound * 7.0, 7.0, EVEN_BOUNDS) for bound in EVEN_BOUNDS] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (signed(2.314), "+2.31"), (signed(-0.04), "−0.04"), (signed(0.0), "0"), (signed(-1e-7), "−1e−7"),
        (short(0.0), "0"), (short(1166.2), "1,166"), (short(7.1e-10), "7.1e−10"), (probability(0.8534), ".853"),
        (probability(1.0), "1"), (probability(0.99999), "> .999"), (probability(3e-4), "3.0e−4"), (plural(1, "head"), "1 head"),
        (plural(1500, "head"), "1,500 heads"),
    ],
)  # fmt: skip
def test_numbers_as_written(written, expected):
    assert written == expected


def test_tokens_are_visible_and_never_markup():
    for text in HOSTILE:
        made = token(text)
        assert made.text == visible(text)
        assert all(child.tag == "i" for child in made.walk() if child is not made)
    with pytest.raises(ValueError, match="script"):
        element("script", "alert(1)")
    with pytest.raises(ValueError, match="onclick"):
        element("p", onclick="alert(1)")


# Lens


def test_lens_has_layers_from_top_to_bottom_and_a_cell_for_every_state():
    run = RUNS["japan"]
    states = a_lens(run)
    tree = Tree(lens.panel(states, run, selected="resid_post.2.-.3.-", start="resid_post.4.-.5.-"))
    assert [text_of(head) for head in tree.find("th", scope="row")] == [f"L{layer}" for layer in reversed(range(6))]
    assert [text_of(head) for head in tree.find("th", scope="col")] == [f"{visible(t)}{i}" for i, t in enumerate(JAPAN)]
    assert [text_of(head) for head in tree.find("th", cls="here")] == ["␣of7"]
    assert len(tree.find("td", role="gridcell")) == 48
    [cell] = tree.find("td", data_pick="resid_post.2.-.3.-")
    reading = states[2, 3]
    assert text_of(cell) == visible(reading.top[0][0])
    assert f"fill-{rank_decade(reading.target_rank)}" in cell[1]["class"]
    lines = cell[1]["data-tip"].split("\n")
    assert lines[0] == "layer 2, ␣Japan at 3"
    assert lines[1:6] == [f"{visible(text)}\t{probability(chance)}" for text, chance, _ in reading.top]
    assert f"rank of ␣Tokyo\t{reading.target_rank:,}" in lines
    assert lines[-1] == f"entropy\t{reading.entropy:.2f} nats"
    assert [node[1]["data-pick"] for node in tree.find("td", cls="start")] == ["resid_post.4.-.5.-"]
    assert tree.component.to_plotly_json()["props"]["selected"] == "resid_post.2.-.3.-"


@pytest.mark.parametrize("fill", lens.FILLS)
def test_lens_legend_says_what_colour_means(fill):
    run = RUNS["japan"]
    states = a_lens(run)
    tree = Tree(lens.panel(states, run, fill=fill))
    legend = tree.find("span", cls="fill-step")
    assert [text_of(step) for step in legend] == list(lens.FILLS[fill].steps)
    assert {cls for step in legend for cls in step[1]["class"].split()} >= {f"fill-{n}" for n in range(6)}
    assert ("␣Tokyo" in text_of(tree.find("span", cls="scale-name")[0])) == (fill != "entropy")
    assert {lens.FILLS[fill].step(reading) for reading in states} <= set(range(6))


@pytest.mark.parametrize(
    ("fill", "values", "steps"),
    [
        ("probability", (1.0, 0.5, 0.49, 0.01, 2e-4, 1e-9), (0, 0, 1, 2, 4, 5)),
        ("entropy", (0.0, 1.0, 3.9, 4.0, 7.9, 11.0), (0, 1, 2, 3, 4, 5)),
    ],
)
def test_lens_steps(fill, values, steps):
    name = {"probability": "target_probability", "entropy": "entropy"}[fill]
    assert tuple(lens.FILLS[fill].step(NodeReading(norm=1.0, **{name: value})) for value in values) == steps


@pytest.mark.parametrize(
    ("position", "first", "shown"),
    [(511, None, (448, 512)), (0, None, (0, 64)), (300, None, (252, 316)), (511, 100, (100, 164)), (511, 9_999, (448, 512)), (511, -5, (0, 64))],
)  # fmt: skip
def test_a_long_prompt_is_shown_in_windows(position, first, shown):
    run = replace(RUNS["512 tokens"], position=position)
    tree = Tree(lens.panel(a_lens(run), run, first=first))
    assert len(tree.find("td", role="gridcell")) == 64 * 6
    assert f"tokens {shown[0]}–{shown[1] - 1} of 512 tokens" in tree.text
    buttons = {text_of(button): button[1] for button in tree.find("button", data_set="first")}
    assert ("disabled" in buttons["Earlier"]) == (shown[0] == 0)
    assert ("disabled" in buttons["Later"]) == (shown[1] == 512)
    assert int(buttons["Earlier"]["data-value"]) == max(0, shown[0] - 32)


def test_the_largest_lens_stays_small():
    run = replace(RUNS["512 tokens"], layers=(0, 30), n_layers=30)
    component = lens.panel(a_lens(run), run)
    assert len(json.dumps(component.to_plotly_json()["props"]["chart"], separators=(",", ":"))) < 1_000_000


def test_lens_rows_hold_every_state():
    run = RUNS["japan"]
    states = a_lens(run)
    header, rows = lens.rows(states, run)
    assert len(rows) == 48
    assert all(len(row) == len(header) for row in rows)
    row = dict(zip(header, rows[3 * 8 + 2], strict=True))
    assert (row["layer"], row["position"], row["token"]) == (3, 2, " of")
    assert row["target_rank"] == states[3, 2].target_rank
    assert row["top_1"] == states[3, 2].top[0][0]


# Heads


def test_heads_show_the_first_score_and_select_at_the_position():
    run = RUNS["japan"]
    scores = some_heads(run)
    tree = Tree(heads.panel(scores, run, selected="head.2.1.7.-"))
    values = scores.scores["direct_logit"]
    for layer in range(6):
        for head in range(4):
            [cell] = tree.find("td", data_pick=f"head.{layer}.{head}.7.-")
            value = values[layer, head]
            assert text_of(cell) == ("≈ 0" if abs(value) < 0.005 else signed(value))
            assert cell[1]["data-tip"].startswith(f"L{layer}H{head}\n")
            assert ("down" in cell[1]["class"]) == (step_of(values[layer, head], np.abs(values).max()) < 0)
    assert "what direct_logit says" in tree.text
    legend = [text_of(step) for step in tree.find("span", cls="fill-step")]
    assert len(legend) == 9
    assert legend[-1] == f"≥ {signed(BOUNDS[-1] * np.abs(values).max())}"
    assert legend[4] == "≈ 0"


def test_a_score_without_sign_has_a_sequential_scale():
    run = RUNS["japan"]
    tree = Tree(heads.panel(some_heads(run), run, score="strongest_other"))
    assert len(tree.find("span", cls="fill-step")) == 5
    assert not [node for node in tree.all if "down-" in node[1].get("class", "")]


def test_many_heads_leave_their_numbers_to_the_tips():
    run = RUNS["japan"]
    scores = some_heads(run, count=32)
    tree = Tree(heads.panel(scores, run))
    assert {text_of(cell) for cell in tree.find("td", role="gridcell")} <= {"", "−"}
    assert all("logits" in cell[1]["data-tip"] for cell in tree.find("td", role="gridcell"))


def test_what_is_not_scored_says_why():
    run = replace(RUNS["japan"], has_head=False, has_attribution=False)
    scores = some_heads(run, undefined={"direct_logit": "the model has no head"})
    assert "Not here: direct logit (the model has no head)." in Tree(heads.panel(scores, run)).text
    assert "no head" in Tree(heads.panel(scores, run, score="direct_logit")).text
    assert "not a score" in Tree(heads.panel(scores, run, score="nonsense")).text
    assert [option["value"] for option in heads.options(scores)] == ["strongest_other"]


def test_head_rows_name_the_unit():
    header, rows = heads.rows(some_heads(RUNS["japan"]))
    assert header == ("layer", "head", "direct_logit_logits", "strongest_other_share")
    assert len(rows) == 24


# Attention


@pytest.mark.parametrize("name", RUNS)
def test_attention_sends_numbers_that_come_back(name):
    run = RUNS[name]
    pattern = a_pattern(len(run.tokens))
    data = attention_views.model(pattern, run, attention_views.window(run), [0], 0)
    queries, keys = len(data["queries"]), len(data["keys"])
    assert keys == queries + (data["others"] > 0)
    codes = np.frombuffer(base64.b64decode(data["codes"]), "<u2") / 65_535 * data["scale"]
    sent = np.zeros((4, queries, keys))
    if data["causal"]:
        sent[:, *np.tril_indices(queries)] = codes.reshape(4, -1)
    else:
        sent[:] = codes.reshape(4, queries, keys)
    first = data["first"]
    np.testing.assert_allclose(
        sent[:, :, :queries], pattern.pattern[:, first : first + queries, first : first + queries], atol=1e-5
    )
    np.testing.assert_allclose(sent.sum(-1), 1, atol=queries / 60_000)
    assert queries <= attention_views.MOST_TOKENS
    assert data["queries"] == [visible(text) for text in run.tokens[first : first + queries]]


def test_attention_of_a_long_prompt_says_what_is_left_out():
    run = RUNS["512 tokens"]
    component = attention.panel(a_pattern(512, heads=9), run)
    tree = Tree(component)
    assert "Shown are tokens 384–511 of 512 tokens" in tree.text
    assert "disabled" in tree.find("input")[0][1]
    assert len(json.dumps(component.to_plotly_json()["props"]["chart"], separators=(",", ":"))) < 600_000


def test_attention_opens_at_the_selected_node_and_the_chosen_heads():
    run = RUNS["japan"]
    model = _attention_model(attention.panel(a_pattern(8), run, heads=(2, 99), selected="head.3.2.5.-"))
    assert (model["chosen"], model["query"]) == ([2], 5)
    assert _attention_model(attention.panel(a_pattern(8), run))["chosen"] == [0, 1, 2, 3]
    pressed = {
        text_of(chip): chip[1]["aria-pressed"]
        for chip in Tree(attention.panel(a_pattern(8), run, heads=(2,))).find("button", cls="toggle")
    }
    assert pressed == {"all": "false", "H0": "false", "H1": "false", "H2": "true", "H3": "false"}


def _attention_model(component) -> dict:
    return json.loads(Tree(component).find(data_widget="attention")[0][1]["data-model"])


def test_the_strongest_pairs_leave_out_the_first_token_and_the_token_itself():
    run = RUNS["japan"]
    pattern = a_pattern(8)
    tree = Tree(attention.panel(pattern, run))
    rows = [row for row in tree.find("tr") if "data-node" in row[1]]
    values = [float(row[-1][1]["data-sort"]) for row in rows]
    places = [[int(float(cell[1]["data-sort"])) for cell in row[2:5]] for row in rows]
    assert values == sorted(values, reverse=True)
    assert all(pattern.pattern[h, q, k] == pytest.approx(v) for (h, q, k), v in zip(places, values, strict=True))
    assert all(q != k and k != 0 for _, q, k in places)
    lower = [pattern.pattern[h, q, k] for h in range(4) for q in range(8) for k in range(1, q)]
    assert values == pytest.approx(sorted(lower, reverse=True)[: len(values)])


def test_attention_rows_are_what_a_head_may_see():
    header, rows = attention.rows(a_pattern(8), RUNS["japan"])
    assert len(rows) == 4 * 36
    assert len(header) == len(rows[0])


# Bars


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("biases", [True, False])
def test_every_grouping_adds_up_to_the_logit_in_the_numbers_shown(name, biases):
    run = RUNS[name]
    parts = some_bars(run, biases=biases)
    tree = Tree(bars.panel(parts, run))
    groups = tree.find("div", cls="group")
    assert [group[1]["data-group"] for group in groups] == ["layer", "head", "neuron", "source token"]
    assert ["hidden" in group[1] for group in groups] == [False, True, True, True]
    for group in groups:
        cells = [node for node in _walk(group) if node[0] == "td" and node[1]["class"] == "number"]
        assert sum(float(cell[1]["data-sort"]) for cell in cells) == pytest.approx(parts.total)
        assert sum(number(text_of(cell)) for cell in cells) == pytest.approx(parts.total, abs=0.005 * len(cells))
        assert len(cells) <= 22


def test_bars_say_their_sign_by_side_and_pattern():
    tree = Tree(bars.panel(some_bars(RUNS["japan"]), RUNS["japan"]))
    for row in tree.find("tr"):
        found = [node for node in _walk(row) if "measure" in node[1].get("class", "").split()]
        if not found:
            continue
        value = float(row[-1][1]["data-sort"])
        [track] = [node for node in _walk(row) if node[1].get("class") == "track"]
        zero, start, size = (float(x) for x in (track[1]["--zero"], found[0][1]["--from"], found[0][1]["--size"]))
        assert ("down" in found[0][1]["class"]) == (value < 0)
        assert (start + size if value < 0 else start) == pytest.approx(zero, abs=2e-4)


def test_bars_are_the_strongest_first_and_the_rest_says_how_many():
    run = RUNS["japan"]
    found = bars.groupings(some_bars(run), run)
    for parts in found.values():
        listed = [abs(p.value) for p in parts[:16] if p.node is not None and p.node.kind != "embed"]
        assert listed == sorted(listed, reverse=True)
    assert [part.name for part in found["head"] if part.node is None] == [
        "rest: 8 heads",
        "all 6 MLPs",
        "2 bias vectors",
    ]
    assert "rest: all other neurons" in [part.name for part in found["neuron"]]


def test_the_equation_names_the_foil_and_the_error():
    run = RUNS["japan"]
    parts = replace(some_bars(run), foil=9, foil_token=" Kyoto")
    text = Tree(bars.panel(parts, run)).text
    assert (
        f"all parts together {signed(parts.total)} = logit of ␣Tokyo minus that of ␣Kyoto {signed(parts.logit)} logits"
        in text
    )
    assert "1.0e−6 of the logit is lost to rounding" in text


def test_bar_rows_end_with_the_sum():
    parts = some_bars(RUNS["japan"])
    _, rows = bars.rows(parts)
    assert sum(row[-1] for row in rows[:-2]) == pytest.approx(rows[-2][-1]) == parts.total


# Details


GRAPHS = {
    "token": lambda: token_graph(layers=6),
    "heads": lambda: head_graph(layers=4),
    "logits": lambda: logits_graph(layers=4),
    "structural": lambda: with_structural(token_graph(layers=4)),
    "no head": lambda: token_graph(layers=4, head=False),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_details_of_every_node_and_edge_say_the_graphs_numbers(name):
    graph = GRAPHS[name]()
    run = a_run(graph.info.tokens, target_token=graph.info.target_token)
    flow = flowgraph.connected_flow(graph)
    np.testing.assert_allclose(flows(graph), flow)
    for n in range(0, len(graph.nodes), 7):
        node = graph.nodes[n]
        answer = NodeDetails(node, graph.readings[n], None, None, run.tokens, "")
        tree = Tree(details_of_node.panel(answer, graph, run).children[1])
        shares = [
            float(row[-2][1]["data-sort"])
            for row in tree.find("tr")
            if "data-node" in row[1] and len(row) >= 5 and "data-sort" in row[-2][1]
        ]
        touching = [e for e in range(len(graph)) if n in (graph.source[e], graph.target[e]) and not graph.structural[e]]
        assert sorted(shares) == pytest.approx(sorted(float(graph.share[e]) for e in touching))
    for e in range(0, len(graph), 11):
        tree = Tree(details_of_edge.panel(graph, e, run))
        ends = [node[1]["data-pick"] for node in tree.find("button", cls="link")]
        assert ends == [node_key(graph.nodes[n]) for n in (graph.source[e], graph.target[e])]


def test_edges_are_the_strongest_first():
    graph = token_graph(layers=6)
    n = int(graph.target[40])
    into = edges_at(graph, n, "in")
    assert sorted(into) == np.flatnonzero(graph.target == n).tolist()
    assert list(graph.share[into]) == sorted(graph.share[into], reverse=True)


def test_nothing_selected_shows_the_strongest_moves():
    graph = token_graph(layers=6)
    run = a_run(graph.info.tokens)
    tree = Tree(details_of_graph.panel(graph, run))
    picks = [button[1]["data-pick"] for button in tree.find("button", cls="link")]
    flow = flowgraph.connected_flow(graph)
    moves = (graph.key_pos != graph.query_pos) & (graph.key_pos >= 0) & (graph.query_pos >= 0)
    moved = [e for e in np.argsort(-flow, kind="stable") if moves[e] and flow[e] > 0]
    assert picks == [f"edge.{e}" for e in moved[:12]]
    assert [one.edge for one in strongest_moves(graph)] == moved[:12]
    assert "Ctrl + click" in tree.text
    assert "No edge of this graph leads" in Tree(details_of_graph.panel(empty_graph(), run)).text
    assert "No graph" in Tree(details_of_graph.panel(None, run)).text


@pytest.mark.parametrize("level", ["token", "head"])
def test_moves_of_logits_are_sorted_by_their_size_and_show_their_signs(level):
    graph = logits_graph(layers=6, level=level)
    tree = Tree(details_of_graph.panel(graph, a_run(graph.info.tokens)))
    assert "Strongest moves between tokens, by |logits|" in tree.text
    assert tree.find("th", cls="number")[-1][2][3][2] == " logits"
    shown = [row[-1] for row in tree.find("tbody")[0][2:]]
    values = [float(cell[1]["data-sort"]) for cell in shown]
    moves = [
        float(graph.weight[e]) for e in range(len(graph))
        if graph.edge_dict(e)["kind"] == "attention" and graph.nodes[graph.source[e]].position != len(JAPAN) - 1
    ]  # fmt: skip
    assert values == pytest.approx(sorted(moves, key=lambda value: -abs(value))[:12])
    assert min(values) < 0 < max(values)
    assert [text_of(cell)[0] for cell in shown] == ["−" if value < 0 else "+" for value in values]
    # What stands beside a node has its sign too, and no arrow claims an order of signed numbers.
    n = int(graph.target[-1])
    node = graph.nodes[n]
    tree = Tree(
        details_of_node.panel(
            NodeDetails(node, None, None, None, graph.info.tokens, ""), graph, a_run(graph.info.tokens)
        ).children[1]
    )
    assert "What enters, by |share|" in tree.text
    assert not [head for head in tree.find("th") if head[1].get("aria-sort") == "descending"]
    assert {text_of(row[-1])[0] for row in tree.find("tr") if "data-node" in row[1]} == {"−", "+"}


def test_no_moves_are_said_only_where_there_are_none():
    graph = token_graph(layers=4)
    run = a_run(graph.info.tokens)
    bare = replace(graph, key_pos=np.full(len(graph), -1), query_pos=np.full(len(graph), -1))
    assert "Strongest moves between tokens" in Tree(details_of_graph.panel(bare, run)).text
    own = graph.key_pos == graph.query_pos
    assert "No edge of this graph leads from one token" in Tree(details_of_graph.panel(graph.keep(own), run)).text
    still = replace(bare, share=np.where(own, bare.share, 0.0))
    assert "No edge between different tokens carries flow" in Tree(details_of_graph.panel(still, run)).text


def test_what_a_part_adds_and_what_it_says_alone_are_told_apart():
    run, node = a_run(), Node("mlp", layer=4, position=len(JAPAN) - 1)
    reading = NodeReading(
        norm=3.0, top=((" strugg", 0.8, 2.0),), bottom=((" x", 1e-9, -3.0),), target_rank=29_984, target_logit=0.1
    )
    text = Tree(
        details_of_node.panel(NodeDetails(node, reading, 5.08, None, run.tokens, ""), None, run).children[1]
    ).text
    assert (
        "it adds +5.08 to the logit of ␣Tokyo; read alone, through the final norm, 29,983 other tokens stand above ␣Tokyo"
        in text
    )
    assert "Highest tokens, read alone" in text
    assert "read alone, target ␣Tokyo" in text
    state = replace(node, kind="resid_post")
    assert (
        "alone"
        not in Tree(
            details_of_node.panel(NodeDetails(state, reading, None, None, run.tokens, ""), None, run).children[1]
        ).text
    )


def test_the_largest_parts_of_the_logit_are_shown_or_said_not_to_be():
    run = a_run()
    graph = token_graph(layers=6)
    parts = some_bars(run)
    mlps = np.array(parts.mlps)
    mlps[4], mlps[3] = 50.0, -40.0
    parts = replace(parts, mlps=mlps)
    far = Node("mlp", layer=4, position=run.position)
    without = graph.keep(
        np.array([graph.nodes.index(far) not in (s, t) for s, t in zip(graph.source, graph.target, strict=True)]),
        threshold=0.02,
    )
    said = writers(parts, run, Recipe(text="x"), without)
    assert said["about"] == f"of {signed(parts.total)} logits for ␣Tokyo"
    first, second, _ = said["parts"]
    assert (first["name"], first["adds"], first["edges"], first["key"]) == ("L4 MLP", "+50.00", [], node_key(far))
    assert first["why"] == "share below .02; proximity measures nearness, not logits"
    assert (second["name"], second["adds"], second["why"]) == ("L3 MLP", "−40.00", "")
    order = drawing(without).order
    ends = {without.nodes[n] for e in second["edges"] for n in (without.source[order[e]], without.target[order[e]])}
    assert Node("mlp", layer=3, position=run.position) in ends
    attention = replace(without, info=replace(without.info, method="attention"))
    assert writers(parts, run, Recipe(text="x"), attention)["parts"][0]["why"] == "attention gives MLPs no number"
    assert "outside the layers" in writers(parts, run, Recipe(text="x", layers=(0, 2)), without)["parts"][0]["why"]


def test_what_a_file_does_not_say_is_not_said_of_the_model():
    graph_file = a_run(target_token=" Tokyo")
    assert "no head" not in spoken(predictions(graph_file))
    assert "Tokyo" in spoken(predictions(graph_file))
    assert "not in this file" in spoken(predictions(a_run(target=None, target_token=None, has_head=False)))
    traced = a_run(target=None, target_token=None, has_head=False, token_ids=tuple(range(len(JAPAN))))
    assert "the model has no head over a vocabulary" in spoken(predictions(traced))


def spoken(found) -> str:
    """All text of components."""
    if isinstance(found, str):
        return found
    if isinstance(found, list):
        return "".join(map(spoken, found))
    return spoken(getattr(found, "children", None) or [])


def test_acts_are_buttons_with_ids():
    run, node = RUNS["japan"], Node("resid_post", layer=2, position=3)
    answer = NodeDetails(node, None, None, None, run.tokens, "why not")
    component = details_of_node.panel(answer, None, run)
    assert [button.id for button in component.children[0].children] == [
        {"type": "act", "act": act, "node": "resid_post.2.-.3.-"} for act in ("pin", "start")
    ]
    pinned = details_of_node.panel(answer, None, run, pinned=("resid_post.2.-.3.-",))
    assert pinned.children[0].children[0].id["act"] == "unpin"
    assert "Not said: why not." in Tree(component.children[1]).text
    logit = Node("logit", index=7, token=" Tokyo")
    acts = details_of_node.panel(NodeDetails(logit, None, None, None, run.tokens, ""), None, run).children[0].children
    assert [button.id["act"] for button in acts] == ["pin"]


def test_details_say_the_roles_of_a_head_with_their_scores():
    graph, run = head_graph(layers=3), RUNS["japan"]
    n = next(n for n, node in enumerate(graph.nodes) if node.kind == "head")
    answer = NodeDetails(graph.nodes[n], None, None, None, run.tokens, "")
    roles = (("induction", 0.97), ("<script>alert(1)</script>", -3.25))
    named = replace(graph, roles=tuple(roles if i == n else () for i in range(len(graph.nodes))))
    said = {
        name: Tree(details_of_node.panel(answer, made, run).children[1])
        for name, made in (("named", named), ("not", graph))
    }
    assert "roles: induction 0.97, <script>alert(1)</script> −3.25" in said["named"].text
    assert not said["named"].find("script")
    assert "roles" not in said["not"].text
    state = next(node for node in graph.nodes if node.kind != "head")
    other = NodeDetails(state, None, None, None, run.tokens, "")
    assert "roles" not in Tree(details_of_node.panel(other, named, run).children[1]).text


# Tables


def test_a_table_sorts_by_number_or_by_text():
    made = table(
        "Things",
        (Column("name"), Column("bar", kind="plot"), Column("size", "px", "number")),
        [[Cell("a"), Cell(element("i")), Cell("1.0", 1.0)], [Cell("b"), Cell(element("i")), Cell("none")]],
        by=(2, "descending"),
    )
    heads_ = [one for one in made.walk() if one.tag == "th"]
    assert [head.attributes.get("aria-sort") for head in heads_] == ["none", None, "descending"]
    assert [head.text for head in heads_] == ["name", "bar", "size px"]
    assert [cell.attributes.get("data-sort") for cell in made.walk() if cell.tag == "td"] == [
        None,
        None,
        "1.0",
        None,
        None,
        None,
    ]


# Semantic


@pytest.mark.real_model
def test_semantic_carries_the_page_data_and_a_key_for_every_node(smollm2):
    trace = flowgraph.trace(smollm2, "".join(JAPAN))
    graph = flowgraph.semantic_graph(trace, layers=23, positions=7, neurons_per_block=4)
    run = a_run(tuple(trace.tokens))
    tree = Tree(semantic.panel(Semantic(graph, "layer 23"), run))
    [root] = tree.find(data_widget="semantic")
    model = json.loads(root[1]["data-model"])
    assert model["page"]["kind"] == "semantic"
    assert [parse_node_key(key) for key in model["keys"]] == list(graph.nodes)
    assert len(model["page"]["nodes"]) == len(graph.nodes)
    parts = {node[1]["data-part"] for node in tree.all if "data-part" in node[1]}
    assert parts >= {
        "stage",
        "picture",
        "heads",
        "rows",
        "tip",
        "details",
        "layer",
        "position",
        "earlier",
        "later",
        "table",
        "live",
    }
    header, rows = semantic.rows(Semantic(graph, ""))
    assert len(rows) == len(graph)
    assert all(len(row) == len(header) for row in rows)
