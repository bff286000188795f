"""A matrix that knows its tokens is still the array that it holds."""

from __future__ import annotations

import copy
import io
import pickle
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import flowgraph
from flowgraph import TokenMatrix, attention_flow, attention_rollout, edge_weights, mixing_ratio, norm_map
from flowgraph.errors import ArgumentError, NonFiniteError
from flowgraph.models import load_model
from tests.conftest import IDS
from tests.tiny_models import tiny_model

AXES = ("layer", "query_pos", "key_pos")
TOKENS = ("<b>", "=1+1", " x")


def matrix(values=None, axes=AXES, **options):
    values = np.arange(18.0).reshape(2, 3, 3) if values is None else values
    return TokenMatrix(values, axes, "a measure", "share", **options)


def test_it_is_used_as_the_array_it_holds():
    made = matrix()
    plain = np.arange(18.0).reshape(2, 3, 3)
    assert (made.shape, made.ndim, made.dtype, made.size, len(made)) == ((2, 3, 3), 3, np.float64, 18, 2)
    for found, expected in (
        (made[1], plain[1]), (made[:, 0, -1], plain[:, 0, -1]), (made[made > 3], plain[plain > 3]),
        (made + 1, plain + 1), (1 - made, 1 - plain), (made - made, plain - plain), (made * plain, plain * plain),
        (-made, -plain), (made == plain, plain == plain), (made.sum(-1), plain.sum(-1)), (made.mean(), plain.mean()),
        (np.abs(made), np.abs(plain)), (np.triu(made, 1), np.triu(plain, 1)), (np.mean(made, axis=0), plain.mean(0)),
        (np.concatenate([made, plain]), np.concatenate([plain, plain])), (np.stack(list(made)), plain),
        (made @ plain, plain @ plain), (made.T, plain.T), (np.add.reduce(made), plain.sum(0)),
        (np.asarray(made, dtype=np.float32), plain.astype(np.float32)), (torch.as_tensor(np.array(made)), plain),
        (made.argmax(), 17), (made.tolist(), plain.tolist()), (np.einsum("lqk->q", made), plain.sum((0, 2))),
    ):  # fmt: skip
        np.testing.assert_array_equal(found, expected)
        assert not isinstance(found, TokenMatrix)
    total = np.zeros((2, 3, 3))
    total += made
    np.testing.assert_array_equal(total, plain)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(made)
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = made.nothing


def test_it_is_frozen_and_leaves_the_array_alone():
    values = np.zeros((1, 2, 2))
    made = matrix(values)
    with pytest.raises(TypeError, match="item assignment"):
        made[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        made.values[0, 0, 0] = 1
    values[0, 0, 0] = 1
    changed = made.copy()
    changed += 1
    assert changed[0, 0, 0] == 2
    again = pickle.loads(pickle.dumps(made))
    assert again.axes == copy.deepcopy(made).axes == AXES
    np.testing.assert_array_equal(again, made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": ("key_pos", "query_pos", "layer")}, "is not known; expected one of"),
        ({"axes": ("layer",)}, "is not known"),
        ({"axes": ("query_pos", "key_pos")}, r"shape \(2, 3, 3\)"),
        ({"tokens": ("a",)}, "3 places along 'query_pos'; there are 1 tokens"),
    ],
)
def test_bad_matrices_are_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        matrix(**options)


def test_layers_are_called_as_the_model_calls_them():
    made = matrix(first_layer=7, tokens=TOKENS)
    for layer, row in ((7, 0), (8, 1), (-1, 1), (-2, 0)):
        one = made.layer(layer)
        np.testing.assert_array_equal(one, made[row])
        assert (one.axes, one.measure, one.tokens) == (AXES[1:], f"a measure, layer {7 + row}", TOKENS)
    for layer in (0, 6, 9, -3):
        with pytest.raises(ArgumentError, match=r"not one of 7…8"):
            made.layer(layer)
    with pytest.raises(ArgumentError, match="no matrix for each layer"):
        made.layer(7).layer(7)


def test_the_table_says_every_value_with_its_place():
    made = matrix(first_layer=7, tokens=TOKENS)
    frame = made.to_dataframe()
    assert list(frame) == ["layer", "query_pos", "query_token", "key_pos", "key_token", "value"]
    assert len(frame) == 18
    for row in frame.itertuples():
        assert row.value == made.layer(row.layer)[row.query_pos, row.key_pos]
        assert (row.query_token, row.key_token) == (TOKENS[row.query_pos], TOKENS[row.key_pos])
    assert list(matrix(np.eye(2), ("layer", "query_pos")).to_dataframe()) == ["layer", "query_pos", "value"]
    with np.load(io.BytesIO(made.to_npz()), allow_pickle=False) as held:
        np.testing.assert_array_equal(held["values"], made.values)
        assert (tuple(held["tokens"]), tuple(held["layer"]), tuple(held["axes"])) == (TOKENS, (7, 8), AXES)
        assert (str(held["measure"]), str(held["unit"])) == ("a measure", "share")
    with pytest.raises(NonFiniteError, match=r"value\[1\] is NaN"):
        matrix(np.array([0.0, np.nan]), ("key_pos",)).to_csv()


def test_the_grid_in_a_notebook():
    made = matrix(first_layer=7, tokens=TOKENS)
    html = made._repr_html_()
    assert "shown: layer 8; .layer(n) is another" in html
    assert "0 &lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count('title="') == 9
    assert "17 share" in html
    assert "8 share" not in html
    big = matrix(np.ones((1, 40, 40)))._repr_html_()
    assert "14 of 40 queries are shown, the last" in big
    assert "14 of 40 keys are shown, the last" in big
    assert big.count("<td") == 14 * 14
    layers = matrix(np.ones((100, 3)), ("layer", "query_pos"))._repr_html_()
    assert "32 of 100 layers are shown, evenly spaced" in layers
    assert layers.index(">99<") < layers.index(">0</th>", layers.index(">99<"))
    assert "empty cells: exactly 0" in matrix(np.eye(2), AXES[1:])._repr_html_()
    for empty in (np.zeros((0, 2, 2)), np.zeros((2, 0, 0))):
        assert "A measure" in matrix(empty)._repr_html_()


def test_the_figures_hold_the_values():
    made = matrix(first_layer=7, tokens=TOKENS)
    for figure, row in ((made.figure(), 1), (made.figure(layer=7, theme="dark"), 0)):
        np.testing.assert_array_equal(figure.data[0].z, made[row])
        assert figure.layout.yaxis.autorange == "reversed"
        assert figure.layout.title.text == f"A measure, layer {7 + row} (share)"
        assert "&lt;b&gt;" in figure.layout.xaxis.ticktext[0]
    bars = made.layer(7)[0]
    one = TokenMatrix(bars, ("key_pos",), "a measure", "share", TOKENS).figure()
    np.testing.assert_array_equal(one.data[0].y, bars)
    signed = matrix(made.layer(7) - 4, AXES[1:]).figure()
    assert (signed.data[0].zmin, signed.data[0].zmax) == (-4, 4)
    with pytest.raises(ArgumentError, match="one layer can be drawn"):
        flowgraph.matrix_figure(made)


def test_measures_know_where_they_come_from(tiny):
    trace = flowgraph.trace(tiny("llama"), IDS, keep=flowgraph.TraceSites(layers=(1, 2)))
    weights = edge_weights(trace, method="proximity")
    for found, measure, axes in (
        (attention_rollout(trace), "attention rollout", AXES),
        (attention_rollout(trace, method="proximity"), "rollout of proximity", AXES),
        (attention_rollout(weights), "rollout of proximity", AXES),
        (norm_map(trace, residual=False), "norms of what tokens hand over", AXES),
        (mixing_ratio(trace), "mixing ratio, residual stream included", AXES[:2]),
    ):
        assert (found.measure, found.axes, found.first_layer, found.tokens) == (measure, axes, 1, trace.tokens)
        assert set(found.to_dataframe()["layer"]) == {1}
    for options, axes, measure in (
        ({}, AXES[1:], "attention flow"),
        ({"source": -1}, ("key_pos",), f"attention flow from position {len(IDS) - 1}"),
        ({"target": 2}, ("query_pos",), "attention flow to position 2"),
    ):
        found = attention_flow(trace, **options)
        assert (found.axes, found.measure, found.unit, found.tokens) == (axes, measure, "flow", trace.tokens)
    assert attention_flow(trace, normalize=True).unit == "share"
    plain = attention_rollout(trace.pattern)
    assert (plain.tokens, plain.first_layer) == (None, 0)
    np.testing.assert_array_equal(plain, attention_rollout(trace))


FIVE = IDS[:5]
GROUPS = [[0], [1, 2], [3, 4]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_between_groups_of_tokens(dtype):
    traced = flowgraph.trace(tiny_model("llama", dtype), FIVE)
    pattern = traced.pattern.double().mean(1).numpy()
    wanted = np.array([[[layer[np.ix_(a, b)].sum(1).mean() for b in GROUPS] for a in GROUPS] for layer in pattern])
    made = traced.grouped(GROUPS)
    np.testing.assert_allclose(made, wanted, atol=1e-7 if dtype == torch.float32 else 1e-2)
    np.testing.assert_allclose(made.sum(-1), 1, atol=1e-6)
    assert made.tokens == tuple("".join(traced.tokens[n] for n in group) for group in GROUPS)
    assert "<table" in made._repr_html_()
    assert len(made.to_dataframe()) == made.size
    one = traced.grouped(GROUPS, head=2)
    pattern = traced.pattern[:, 2].double().numpy()
    np.testing.assert_allclose(one[0, 1, 2], pattern[0][np.ix_([1, 2], [3, 4])].sum(1).mean(), atol=1e-2)
    window = flowgraph.trace(tiny_model("llama"), FIVE, keep=flowgraph.TraceSites(frozenset({"pattern"}), (1, 2)))
    np.testing.assert_allclose(
        window.grouped(GROUPS).layer(1), flowgraph.trace(tiny_model("llama"), FIVE).grouped(GROUPS)[1]
    )


def test_attention_between_words(tmp_path):
    model = load_model(tiny_model("bert"))
    traced = flowgraph.trace(model, "the cat chased the dog", position=-1)
    assert len(traced.tokens) > 7
    made = traced.grouped("words")
    assert [token.replace("##", "").replace(" ", "") for token in made.tokens] == [
        "[CLS]", "the", "cat", "chased", "the", "dog", "[SEP]",
    ]  # fmt: skip
    np.testing.assert_allclose(made.sum(-1), 1, atol=1e-6)
    again = flowgraph.Trace.load(traced.save(tmp_path / "words.safetensors")).grouped()
    np.testing.assert_array_equal(again, made)
    with pytest.raises(ArgumentError, match="groups='words' needs the text"):
        flowgraph.trace(model, traced.token_ids, position=-1).grouped()


def test_rollout_between_groups():
    rolled = attention_rollout(flowgraph.trace(tiny_model("llama"), FIVE))
    made = rolled.grouped(GROUPS)
    np.testing.assert_allclose(made[1, 2, 1], rolled[1, 3:5, 1:3].sum(1).mean())
    assert matrix(np.arange(3.0), ("key_pos",)).grouped([[0, 2], [1]]).tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 1], [2]], "every position 0…4 exactly once; 3, 4 missing"),
        ([[0, 1, 2], [2, 3, 4]], "exactly once; 2 twice"),
        ([[0, 1, 2, 3, 5]], "groups hold position 5; positions are 0…4"),
        ([[0, 1, 2, 3, 4], []], "an empty group"),
        ([0, 1], "expected the positions of each group"),
        ([[0.5]], "expected the positions of each group"),
        ("letters", "expected 'words', or the positions"),
    ],
)
def test_groups_that_do_not_hold_every_position_once(groups, message):
    with pytest.raises(ArgumentError, match=message):
        flowgraph.trace(tiny_model("llama"), FIVE).grouped(groups)


@pytest.mark.parametrize("ending", ["svg", "tex", "pdf", "png"])
def test_a_matrix_is_a_picture_for_a_paper(ending, tmp_path):
    rolled = attention_rollout(flowgraph.trace(tiny_model("llama"), "The cat sat on the mat"))
    path = rolled.save(tmp_path / f"rollout.{ending}", width="one-column", theme="print")
    assert (
        path.read_bytes() == rolled.save(tmp_path / f"again.{ending}", width="one-column", theme="print").read_bytes()
    )
    said = (tmp_path / "rollout.caption.txt").read_text(encoding="utf-8")
    count = len(rolled.tokens)
    assert said == f"attention rollout, layer 1, {count} queries × {count} keys; colour: share, from 0 to 1\n"
    other = rolled.save(tmp_path / f"other.{ending}", layer=0, width="one-column", theme="print")
    assert other.read_bytes() != path.read_bytes()
    with pytest.raises(ArgumentError, match="exists"):
        rolled.save(path, overwrite=False)


def test_every_number_of_a_matrix_is_a_square_of_its_own_colour(tmp_path):
    values = np.array([[0.0, 0.5], [1.0, 0.25]])
    made = matrix(values, ("query_pos", "key_pos"), tokens=("<b>", " x"))
    svg = ElementTree.fromstring(made.save(tmp_path / "a.svg", theme="print").read_bytes())
    marks = next(group for group in svg if group.get("class") == "marks")
    squares = [(float(r.get("x")), float(r.get("y")), r.get("fill")) for r in marks]
    assert [fill for *_, fill in squares[:3]] == ["#808080", "#000000", "#BFBFBF"]
    (x0, y0, _), (x1, y1, _), (x2, y2, _) = squares[:3]
    assert y0 < y1 == y2
    assert x1 < x0 == x2
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<b>", "␣x", "A measure (share)", "1 share"} <= set(texts)
    signed = matrix(np.array([[-2.0, 1.0]]), ("layer", "query_pos"), tokens=("a", "b"))
    svg = signed.save(tmp_path / "b.svg").read_text(encoding="utf-8")
    assert "-2" in svg
    assert "2 share" in svg


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.gif", {}, r"expected \.csv or \.npz for the numbers, or \.svg"),
        ("a.csv", {"width": 300}, "width= is for pictures"),
        ("a.svg", {"layer": 7}, "layer=7 is not one of"),
        ("a.svg", {"width": 101}, "400 columns, and a width of 101 points has room for"),
    ],
)
def test_pictures_of_a_matrix_that_cannot_be_made(name, options, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        matrix(np.ones((2, 400, 400))).save(tmp_path / name, **options)
    assert not list(tmp_path.iterdir())
