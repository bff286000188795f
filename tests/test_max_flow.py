import json
import os
import subprocess
import sys
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flowgraph
from flowgraph.algorithms import attention_flow, flow_edges, minimum_cut
from flowgraph.errors import ArgumentError, NonFiniteError
from tests.conftest import MARY

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

NEAR = {"rtol": 1e-9, "atol": 0.0}
KINDS = (
    "softmax", "peaky", "sink", "strong sink", "one head", "identity", "permutation", "one-hot", "zero rows", "zero columns",
    "sparse", "ties", "no residual", "wide range",
)  # fmt: skip


def twin(blocks, source, target, algorithm=nx.algorithms.flow.edmonds_karp):
    """The same number from networkx, over the graph written out edge by edge."""
    graph = nx.DiGraph()
    graph.add_nodes_from([(len(blocks), source), (0, target)])
    for layer, block in enumerate(blocks):
        for i, j in np.argwhere(np.asarray(block) > 0).tolist():
            graph.add_edge((layer + 1, i), (layer, j), capacity=float(block[i][j]))
    return nx.maximum_flow_value(graph, (len(blocks), source), (0, target), flow_func=algorithm)


def with_residual(attention):
    """(A + I) / row sum of each block."""
    return [(a + np.eye(len(a))) / (a + np.eye(len(a))).sum(1, keepdims=True) for a in attention]


def softmax(rng, layers, tokens, causal, *, sharpness=1.0, sink=0.0):
    """Rows that sum to 1, a part ``sink`` of which is on token 0."""
    scores = sharpness * rng.normal(size=(layers, tokens, tokens))
    if causal:
        scores[:, ~np.tri(tokens, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (1 - sink) * weights + sink * np.eye(tokens)[0]


def capacities(kind, rng, layers, tokens, causal):
    """[layer, query_pos, key_pos] capacities of one kind."""
    plain = softmax(rng, layers, tokens, causal)
    identity = np.broadcast_to(np.eye(tokens), plain.shape)
    one_hot = np.zeros_like(plain)
    picked = rng.integers(0, np.arange(1, tokens + 1) if causal else tokens, (layers, tokens))
    np.put_along_axis(one_hot, picked[..., None], 1.0, -1)
    made = {
        "softmax": plain,
        "peaky": softmax(rng, layers, tokens, causal, sharpness=8.0),
        "sink": softmax(rng, layers, tokens, causal, sink=0.8),
        "strong sink": softmax(rng, layers, tokens, causal, sink=0.99),
        "one head": (3 * plain + one_hot) / 4,
        "identity": identity,
        "permutation": identity[:, rng.permutation(tokens)],
        "one-hot": one_hot,
        "zero rows": plain * (rng.random((layers, tokens, 1)) < 0.7),
        "zero columns": plain * (rng.random((layers, 1, tokens)) < 0.7),
        "sparse": plain * (rng.random(plain.shape) < 0.4),
        "ties": rng.integers(0, 3, plain.shape) * (plain > 0) / 4,
        "no residual": plain,
        "wide range": np.where(plain > 0, 10.0 ** rng.uniform(-15, 12, plain.shape), 0),
    }[kind]
    raw = ("identity", "permutation", "zero rows", "zero columns", "sparse", "no residual", "wide range")
    return made if kind in raw else (made + identity) / 2


@st.composite
def layered_graphs(draw, *, max_layers=6, max_tokens=6):
    kind = draw(st.sampled_from(KINDS))
    layers, tokens = draw(st.integers(1, max_layers)), draw(st.integers(1, max_tokens))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made = capacities(kind, rng, layers, tokens, draw(st.booleans()))
    return made * draw(st.sampled_from([1.0, 1.0, 1e-15, 1e12]))


@settings(max_examples=300, deadline=None)
@given(layered_graphs(), st.data())
def test_equals_edmonds_karp(caps, data):
    flow = attention_flow(caps, residual=False)
    tokens = len(flow)
    position = st.integers(0, tokens - 1)
    pairs = data.draw(st.lists(st.tuples(position, position), min_size=1, max_size=6))
    for source, target in pairs:
        np.testing.assert_allclose(flow[source, target], twin(caps, source, target), **NEAR)


@settings(max_examples=60, deadline=None)
@given(layered_graphs(max_layers=18, max_tokens=12), st.data())
def test_equals_edmonds_karp_through_many_blocks(caps, data):
    source, target = (data.draw(st.integers(0, caps.shape[1] - 1)) for _ in range(2))
    flow = attention_flow(caps, residual=False)
    np.testing.assert_allclose(flow[source, target], twin(caps, source, target), **NEAR)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=6),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([0, 4]),
)
def test_rectangular_blocks(sizes, seed, residual, spread):
    rng = np.random.default_rng(seed)
    blocks = [rng.random((above, below)) ** (1 + spread) for below, above in pairwise(sizes)]
    blocks = [block / block.sum(1, keepdims=True) for block in blocks]
    flow = attention_flow(blocks, residual=residual)
    assert flow.shape == (sizes[-1], sizes[0])
    mixed = [
        (block + np.eye(len(block))) / 2 if residual and block.shape[0] == block.shape[1] else block for block in blocks
    ]
    for source, target in {(0, 0), (sizes[-1] - 1, 0), (sizes[-1] // 2, sizes[0] - 1)}:
        np.testing.assert_allclose(flow[source, target], twin(mixed, source, target), **NEAR)


def prove(value, caps, source, target):
    """A flow of this value that is possible, and a cut that lets no more through: it is the maximum."""
    layers, tokens = caps.shape[:2]
    edges = flow_edges(caps, residual=False, source=source, target=target)
    cut = minimum_cut(caps, residual=False, source=source, target=target)
    np.testing.assert_allclose([edges.value, cut.value, cut.weight.sum()], value, **NEAR)

    carried = np.zeros_like(caps)
    carried[edges.layer, edges.query_pos, edges.key_pos] = edges.weight
    assert (edges.weight > 0).all()
    assert (carried <= caps).all()
    balance = np.zeros((layers + 1, tokens))
    balance[1:] += carried.sum(2)
    balance[:-1] -= carried.sum(1)
    expected = np.zeros_like(balance)
    expected[layers, source], expected[0, target] = value, -value
    np.testing.assert_allclose(balance, expected, atol=1e-12 * max(value, 0), rtol=1e-9)

    np.testing.assert_array_equal(cut.weight, caps[cut.layer, cut.query_pos, cut.key_pos])
    opened = caps.copy()
    opened[cut.layer, cut.query_pos, cut.key_pos] = 0
    assert attention_flow(opened, residual=False, source=source, target=target) <= 1e-9 * value


@settings(max_examples=200, deadline=None)
@given(layered_graphs(), st.data())
def test_the_edges_carry_the_flow_and_the_cut_holds_it(caps, data):
    source, target = (data.draw(st.integers(0, caps.shape[1] - 1)) for _ in range(2))
    prove(attention_flow(caps, residual=False, source=source, target=target), caps, source, target)


@pytest.mark.parametrize(
    ("layers", "tokens", "causal"),
    [
        (2, 65, True), (4, 64, True), (3, 130, True), (9, 65, True), (17, 66, True), (2, 65, False), (4, 64, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, 130, False), (9, 65, False), (17, 66, False))),
    ],
)  # fmt: skip
def test_more_tokens_than_a_word_has_bits(layers, tokens, causal):
    rng = np.random.default_rng(31)
    for kind in ("peaky", "strong sink", "permutation", "sparse", "wide range"):
        caps = capacities(kind, rng, layers, tokens, causal)
        flow = attention_flow(caps, residual=False)
        for source, target in ((tokens - 1, 0), (tokens - 1, 63), (64, 2), (0, tokens - 1)):
            if source < tokens:
                prove(flow[source, target], caps, source, target)


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_asked_for_is_a_part_of_the_matrix(causal):
    attention = softmax(np.random.default_rng(3), 5, 7, causal, sink=0.5)
    flow = attention_flow(attention)
    assert flow.dtype == np.float64
    assert flow.shape == (7, 7)
    np.testing.assert_array_equal(attention_flow(attention, source=4), flow[4])
    np.testing.assert_array_equal(attention_flow(attention, target=2), flow[:, 2])
    np.testing.assert_array_equal(attention_flow(attention, source=-1, target=-2), flow[6, 5])
    assert isinstance(attention_flow(attention, source=4, target=2), float)
    shares = flow / flow.sum(1, keepdims=True)
    np.testing.assert_allclose(attention_flow(attention, normalize=True), shares, rtol=1e-12)
    np.testing.assert_allclose(attention_flow(attention, normalize=True, target=2), shares[:, 2], rtol=1e-12)
    np.testing.assert_allclose(attention_flow(attention, normalize=True, source=4, target=2), shares[4, 2], rtol=1e-12)
    if causal:
        assert (flow[~np.tri(7, dtype=bool)] == 0).all()


def test_the_direction_is_from_the_upper_token_to_the_input_token():
    attention = np.array([[[1.0, 0.0], [0.9, 0.1]], [[1.0, 0.0], [0.4, 0.6]]])
    flow = attention_flow(attention)
    # Token 1 reaches input 0 straight down its own column, then 0.45 over; or 0.2 over at once, then all the way.
    np.testing.assert_allclose(flow, [[1.0, 0.0], [0.65, 0.55]], rtol=1e-12)


def test_layer_starts_from_the_output_of_a_block():
    attention = softmax(np.random.default_rng(5), 6, 5, True)
    for layer in range(6):
        expected = attention_flow(attention[: layer + 1])
        np.testing.assert_array_equal(attention_flow(attention, layer=layer), expected)
        np.testing.assert_array_equal(attention_flow(attention, layer=layer - 6), expected)
    np.testing.assert_allclose(attention_flow(attention, layer=0), with_residual(attention)[0], rtol=1e-12)
    expected = twin(with_residual(attention)[:3], 3, 1)
    np.testing.assert_allclose(minimum_cut(attention, source=3, target=1, layer=2).value, expected, **NEAR)


def test_every_form_of_the_same_attention():
    rng = np.random.default_rng(7)
    heads = np.stack([softmax(rng, 4, 6, True) for _ in range(3)], axis=1)
    expected = attention_flow(heads.mean(1))
    tensors = [torch.tensor(layer)[None] for layer in heads]
    for form in (
        heads,
        list(heads),
        list(heads.mean(1)),
        tensors,
        tuple(tensors),
        torch.tensor(heads),
        torch.stack(tensors),
    ):
        np.testing.assert_allclose(attention_flow(form), expected, rtol=1e-12, atol=1e-15)
    single = attention_flow(heads.astype(np.float32))
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = [tensor.to(dtype) for tensor in tensors]
        exact = [tensor.double() for tensor in rounded]
        np.testing.assert_array_equal(attention_flow(rounded, residual=False), attention_flow(exact, residual=False))


def test_single_precision_equals_edmonds_karp():
    attention = softmax(np.random.default_rng(8), 4, 6, False, sink=0.9).astype(np.float32)
    flow = attention_flow(attention)
    blocks = with_residual(attention.astype(np.float64))
    for source, target in ((0, 5), (5, 0), (3, 3)):
        np.testing.assert_allclose(flow[source, target], twin(blocks, source, target), **NEAR)


def test_padding_is_as_if_it_were_not_there():
    rng = np.random.default_rng(11)
    inner = softmax(rng, 4, 5, False)
    attention = np.full((4, 8, 8), np.nan)
    present = np.array([True, True, False, True, False, True, True, False])
    attention[np.ix_(range(4), present, present)] = inner
    attention[:, present] = np.nan_to_num(attention[:, present])
    flow = attention_flow(attention, mask=present)
    np.testing.assert_allclose(flow[np.ix_(present, present)], attention_flow(inner), rtol=1e-12)
    assert (flow[~present] == 0).all()
    assert (flow[:, ~present] == 0).all()
    for form in (present.astype(int), torch.tensor(present), torch.tensor(present)[None].long(), present.tolist()):
        np.testing.assert_array_equal(attention_flow(attention, mask=form), flow)
    normalized = attention_flow(attention, mask=present, normalize=True)
    np.testing.assert_allclose(normalized.sum(1), present, rtol=1e-12)


def test_rows_may_miss_one_by_half_precision():
    attention = softmax(np.random.default_rng(13), 3, 4, True)
    off = attention * 1.0008
    np.testing.assert_allclose(attention_flow(off), attention_flow(with_residual(off), residual=False), rtol=1e-12)


def test_extreme_units():
    caps = (softmax(np.random.default_rng(17), 4, 5, False) + np.eye(5)) / 2
    flow = attention_flow(caps, residual=False)
    for exponent in (-1000, 1020):
        scaled = attention_flow(np.ldexp(caps, exponent), residual=False)
        assert np.isfinite(scaled).all()
        np.testing.assert_allclose(np.ldexp(scaled, -exponent), flow, rtol=1e-9)
    assert (attention_flow(np.zeros((3, 4, 4)), residual=False) == 0).all()
    assert len(minimum_cut(np.zeros((3, 4, 4)), residual=False, source=1, target=2)) == 0


GOOD = softmax(np.random.default_rng(19), 3, 4, True)


def changed(value, at=(1, 2, 0)):
    attention = GOOD.copy()
    attention[at] = value
    return attention


@pytest.mark.parametrize(
    ("attention", "options", "error", "message"),
    [
        (changed(np.nan), {}, NonFiniteError, r"attention\[1\] is nan at query 2, key 0"),
        (changed(np.inf), {"residual": False}, NonFiniteError, "not finite"),
        (changed(-0.5), {"residual": False}, ArgumentError, "negative"),
        (changed(0.9), {}, ArgumentError, "do not sum to 1.*residual=False"),
        (GOOD * 1.002, {}, ArgumentError, "4 of 4 rows that do not sum to 1"),
        (np.zeros((2, 3, 3)), {}, ArgumentError, "do not sum to 1"),
        ((), {}, ArgumentError, "output_attentions=True"),
        ([None, None], {}, ArgumentError, r"attention\[0\] is None; make sure you set output_attentions=True"),
        (None, {}, ArgumentError, "output_attentions=True"),
        (np.zeros((0, 3, 3)), {}, ArgumentError, "no block"),
        (np.zeros((2, 0, 0)), {}, ArgumentError, "no token"),
        (np.zeros((2, 0, 3, 3)), {}, ArgumentError, "no head"),
        (GOOD[0], {}, ArgumentError, r"shape \(4, 4\)"),
        ([GOOD[0], GOOD[0][:, :3]], {"residual": False}, ArgumentError, r"attention\[1\] reads 3 keys, .* 4 queries"),
        ([np.stack([GOOD, GOOD])], {}, ArgumentError, "a batch of 2"),
        ([[[1.0], [0.5, 0.5]]], {}, ArgumentError, "rows differ in length"),
        ("attention", {}, ArgumentError, "expected an array of real numbers"),
        (GOOD.astype(complex), {}, ArgumentError, "real numbers"),
        (GOOD, {"source": 4}, ArgumentError, "source=4 is not one of the 4 tokens"),
        (GOOD, {"target": -5}, ArgumentError, "target=-5"),
        (GOOD, {"layer": 3}, ArgumentError, "layer=3 is not one of the 3 blocks"),
        (GOOD, {"layer": -4}, ArgumentError, "layer=-4"),
        (GOOD, {"mask": [True] * 3}, ArgumentError, r"mask has shape \(3,\); expected \(4,\)"),
        (GOOD, {"mask": [False] * 4}, ArgumentError, "no token left"),
        (GOOD, {"mask": [2, 1, 1, 1]}, ArgumentError, "True"),
        (GOOD, {"mask": [False, True, True, True]}, ArgumentError, "give the model its attention mask"),
        ([np.ones((2, 3)) / 3], {"mask": [True] * 3}, ArgumentError, "blocks of one size"),
    ],
)  # fmt: skip
def test_bad_input_is_named(attention, options, error, message):
    with pytest.raises(error, match=message):
        attention_flow(attention, **options)
    for function in (flow_edges, minimum_cut):
        with pytest.raises(error, match=message):
            function(attention, **{"source": 0, "target": 0, **options})


def test_a_trace_is_its_pattern(tiny):
    for name in ("gpt2", "bert_headless"):
        trace = flowgraph.trace(tiny(name), MARY)
        flow = attention_flow(trace)
        np.testing.assert_array_equal(flow, attention_flow(trace.pattern))
        blocks = with_residual(trace.pattern.double().mean(1).numpy())
        last = len(trace.tokens) - 1
        np.testing.assert_allclose(flow[last, 1], twin(blocks, last, 1), **NEAR)


SCRIPT = """
import hashlib, json, sys
import numpy as np
from flowgraph.algorithms import attention_flow, flow_edges, minimum_cut
from tests.test_max_flow import KINDS, capacities
rng = np.random.default_rng(23)
flows, sums = [], []
sizes = [(int(layers), int(tokens)) for layers, tokens in zip(sys.argv[1::2], sys.argv[2::2])]
for layers, tokens in sizes:
    for kind, causal in [(kind, causal) for kind in KINDS for causal in (True, False)]:
        caps = capacities(kind, rng, layers, tokens, causal)
        flow = attention_flow(caps, residual=False)
        edges = flow_edges(caps, residual=False, source=tokens - 1, target=0)
        cut = minimum_cut(caps, residual=False, source=tokens - 1, target=0)
        flows += [flow, edges.weight, cut.weight]
        sums += [*flow.ravel().tolist(), edges.value, cut.value]
digest = hashlib.sha256(b"".join(flow.tobytes() for flow in flows)).hexdigest()
print(json.dumps({"digest": digest, "sums": sums}))
"""


def elsewhere(*sizes, **environment):
    """The same flows in a process of its own; ``sizes`` are layers and tokens of each graph in turn."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, sizes)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow(seconds=20)
def test_the_number_of_threads_changes_no_bit():
    runs = [elsewhere(5, 23, 18, 13, NUMBA_NUM_THREADS=count) for count in ("1", "2", "4")]
    assert len({run["digest"] for run in runs}) == 1


@pytest.mark.slow
def test_kernels_as_plain_python():
    compiled, plain = elsewhere(6, 5), elsewhere(6, 5, NUMBA_DISABLE_JIT="1")
    np.testing.assert_allclose(plain["sums"], compiled["sums"], rtol=1e-12)


TEXT = (
    "When Mary and John went to the store, John gave a drink to Mary, and then both of them walked home along the river, "
    "talking"
)


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_real_attention_equals_preflow_push(name, request):
    trace = flowgraph.trace(request.getfixturevalue(name), TEXT, keep=("pattern",))
    count = len(trace.tokens)
    assert 16 <= count <= 32
    flow = attention_flow(trace)
    blocks = with_residual(trace.pattern.double().mean(1).numpy())
    rng = np.random.default_rng(29)
    pairs = {
        (count - 1, 0),
        (count - 1, count - 2),
        *(tuple(sorted(rng.integers(0, count, 2))[::-1]) for _ in range(8)),
    }
    for source, target in sorted(pairs):
        expected = twin(blocks, source, target, nx.algorithms.flow.preflow_push)
        np.testing.assert_allclose(flow[source, target], expected, **NEAR)


@pytest.mark.parametrize("options", [{"method": "proximity", "parts": "token"}, {"method": "norms"}])
def test_flow_of_dense_weights_is_that_of_their_shares(tiny, options):
    weights = flowgraph.edge_weights(flowgraph.trace(tiny("llama"), [20, 31, 42, 53, 64]), **options)
    shares = weights.attention_summed.astype(np.float64) + weights.residual[:, :, None] * np.eye(5)
    shares /= shares.sum(-1, keepdims=True)
    np.testing.assert_allclose(attention_flow(weights), attention_flow(shares, residual=False), rtol=1e-12)
    with pytest.raises(ArgumentError, match="hold the residual stream already"):
        attention_flow(weights, residual=True)
