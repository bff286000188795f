"""Routes over dense weights, against the whole graph walked edge by edge."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowgraph
from flowgraph import EdgeWeights, FlowGraph, GraphInfo, Node, build_graph, edge_weights
from flowgraph.algorithms.incoming import incoming
from flowgraph.algorithms.routes import routes, routes_threshold
from flowgraph.errors import ArgumentError, GraphTooLargeError
from flowgraph.values.flow_graph import EDGE_KINDS
from flowgraph.values.node import label
from tests.conftest import IDS, JAPAN, LINEAR_REPRESENTATIVES, REPRESENTATIVES

# The shape checks that run in tests sample lists at random, also while hypothesis draws weights.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

CASES = [(name, method) for name in REPRESENTATIVES for method in ("attention", "norms", "proximity")]
CASES += [(name, "logits") for name in LINEAR_REPRESENTATIVES]
LEVELS = ("token", "head")
LOGIT = Node("logit", index=3, token=" x")


def edges_of(graph: FlowGraph) -> list[tuple[Any, ...]]:
    """Everything that a graph says of its edges, in their order."""
    columns = (graph.layer, graph.head, graph.query_pos, graph.key_pos, graph.weight, graph.share)
    return [
        (graph.nodes[s], graph.nodes[t], EDGE_KINDS[k], *(column[e].item() for column in columns))
        for e, (s, t, k) in enumerate(zip(graph.source, graph.target, graph.kind, strict=True))
    ]


def naive_routes(whole: FlowGraph, start: Node) -> FlowGraph:
    """Of a graph, the edges with a number from which the start is reached over such edges."""
    reached = {start}
    chosen: set[int] = set()
    grew = True
    while grew:
        found = {e for e in range(len(whole)) if whole.nodes[whole.target[e]] in reached and not whole.structural[e]}
        reached |= {whole.nodes[whole.source[e]] for e in found}
        grew = found != chosen
        chosen = found
    return whole.keep(np.array(sorted(chosen), dtype=np.int64))


def check(weights: EdgeWeights, start: Node | None, level: str, threshold: float | None, nucleus: float | None) -> None:
    """Routes are what the twin finds, and say where they come from."""
    found = routes(weights, start, threshold=threshold, nucleus=nucleus, level=level)
    whole = build_graph(weights, level=level, threshold=threshold or 0.0, nucleus=nucleus, readings=False)
    end = default_start(weights) if start is None else start
    expected = naive_routes(whole, end)
    assert edges_of(found) == edges_of(expected)
    assert found.nodes == expected.nodes
    assert found.undefined == expected.undefined
    assert not found.structural.any()
    assert found.info.total_edges == whole.info.total_edges
    assert found.info.total_share == pytest.approx(whole.info.total_share, rel=1e-12)
    asked = {"threshold": threshold, "nucleus": nucleus}
    named = next((node for node in build_graph(weights, readings=False).nodes if node == end), end)
    assert found.info.filters == {k: v for k, v in asked.items() if v is not None} | {"start": label(named)}
    assert (found.info.method, found.info.level, found.info.layers) == (weights.info.method, level, weights.info.layers)


def default_start(weights: EdgeWeights) -> Node:
    info = weights.info
    if weights.ends_in_logit or weights.unembed is not None:
        return Node("logit", index=info.target)
    return Node("resid_post", layer=info.layers[1] - 1, position=info.position)


def starts_in(weights: EdgeWeights, level: str) -> list[Node]:
    """The nodes of the whole graph that routes may start at."""
    nodes = build_graph(weights, level=level, readings=False).nodes
    return [node for node in nodes if node.kind != "position_embed" and not node.kind.endswith("bias")]


@st.composite
def dense(draw: st.DrawFn, *, into_logit: bool = False) -> EdgeWeights:
    """Draw weights of an invented method: any wiring, window and sign, with ties and zeros, MLPs with a number or without."""
    n, h, t = draw(st.integers(1, 3)), draw(st.integers(1 if into_logit else 0, 2)), draw(st.integers(1, 4))
    first = draw(st.sampled_from([0, 0, 2]))
    parallel, has_mlp = draw(st.booleans()), into_logit or draw(st.booleans())
    position = draw(st.integers(0, t - 1))
    at = (position,) if into_logit or draw(st.booleans()) else tuple(range(t))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Few different values make ties, many make sums whose last digit depends on their order.
    coarse, precision = draw(st.booleans()), draw(st.sampled_from([np.float32, np.float64]))

    def some(*shape: int) -> np.ndarray:
        drawn = rng.choice([0.0, 0.25, 0.5, 1.0, -0.5], shape) if coarse else rng.standard_normal(shape) ** 3
        return np.where(rng.random(shape) < 0.2, 0.0, drawn)

    def number() -> float:
        return float(some())

    info = GraphInfo(
        method="invented", unit="share", level="token", model="none", tokens=tuple("abcd"[:t]), layers=(first, first + n),
        total_layers=first + n, position=position, total_edges=0, total_share=0.0, target=3, target_token=" x",
    )  # fmt: skip
    further: dict[str, Any] = {"unembed": draw(st.sampled_from([None, 1.0, -2.0, 0.0])), "residual": some(n, len(at))}
    if not h and draw(st.booleans()):
        further["rest"] = np.abs(some(n, len(at)))
    if not parallel:
        further["residual_mlp"] = some(n, len(at))
    if has_mlp:
        further |= {"mlp": some(n, len(at)), "mlp_in": some(n, len(at))}
    if into_logit:
        biases = {f"L{first}.mlp_bias": number(), "unembed_bias": number(), "L9.attn_bias": number()}
        parts = {"embedding": number(), "position_embedding": number(), "biases": biases}
        further = {"mlp": some(n, 1), "ends_in_logit": True, **parts}
    return EdgeWeights(
        info=info,
        parallel=parallel,
        query_positions=at,
        attention=some(n, h, len(at), t).astype(precision),
        attention_summed=some(n, len(at), t),
        head=some(n, h, len(at)),
        undefined=tuple(Node("resid_post", layer=layer, position=0) for layer in range(first, first + n)),
        **further,
    )


THRESHOLDS = st.sampled_from([None, 0.0, 0.02, 0.1, 0.25, 0.5, 1.0])
NUCLEI = st.sampled_from([None, 0.1, 0.5, 0.8, 1.0])


@pytest.mark.parametrize("level", LEVELS)
@given(
    weights=dense() | dense(into_logit=True),
    asked=st.tuples(THRESHOLDS, NUCLEI).filter(lambda both: both != (None, None)),
    data=st.data(),
)
def test_routes_are_the_part_of_the_graph_that_leads_to_the_start(
    level: str, weights: EdgeWeights, asked: Any, data: Any
) -> None:
    if level == "head" and not weights.attention.shape[1]:
        level = "token"
    start = data.draw(st.none() | st.sampled_from(starts_in(weights, level)))
    check(weights, start, level, *asked)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("name", "method"), CASES)
def test_routes_of_traces(tiny: Any, name: str, method: str, level: str) -> None:
    weights = edge_weights(flowgraph.trace(tiny(name), IDS, position=-1), method=method)
    for threshold, nucleus in ((0.0, None), (None, 0.6), (0.03, 0.9)):
        check(weights, None, level, threshold, nucleus)
    starts = starts_in(weights, level)
    for start in starts[:: max(1, len(starts) // 4)]:
        check(weights, start, level, 0.05, None)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("layers", [(0, 1), (1, 2)])
@pytest.mark.parametrize("method", ["proximity", "attention"])
def test_routes_of_a_window_of_layers(tiny: Any, method: str, layers: tuple[int, int], level: str) -> None:
    keep = flowgraph.TraceSites(layers=layers)
    weights = edge_weights(flowgraph.trace(tiny("llama"), IDS, keep=keep), method=method)
    check(weights, None, level, 0.02, None)
    lowest = Node("embed", position=2) if layers[0] == 0 else Node("resid_pre", layer=1, position=2)
    assert len(routes(weights, lowest, nucleus=0.5, level=level)) == 0


@pytest.mark.real_model
@pytest.mark.parametrize("level", LEVELS)
def test_routes_of_the_real_model(smollm2: Any, level: str) -> None:
    weights = edge_weights(flowgraph.trace(smollm2, JAPAN), method="proximity")
    for threshold, nucleus in ((0.04, None), (0.01, None), (None, 0.7)):
        check(weights, None, level, threshold, nucleus)


def by_hand() -> EdgeWeights:
    """One block over two tokens, of which the second is explained."""
    info = GraphInfo(
        method="invented", unit="share", level="token", model="none", tokens=("a", "b"), layers=(0, 1), total_layers=1,
        position=1, total_edges=0, total_share=0.0, target=3, target_token=" x",
    )  # fmt: skip
    return EdgeWeights(
        info=info,
        parallel=False,
        query_positions=(0, 1),
        attention=np.array([[[[1.0, 0.0], [3.0, 1.0]]]]),
        attention_summed=np.array([[[1.0, 0.0], [3.0, 1.0]]]),
        head=np.array([[[1.0, 4.0]]]),
        residual=np.array([[1.0, 6.0]]),
        mlp=np.array([[5.0, 1.0]]),
        mlp_in=np.array([[1.0, 1.0]]),
        residual_mlp=np.array([[5.0, 3.0]]),
        unembed=2.0,
    )


def test_one_block_by_hand() -> None:
    graph = routes(by_hand(), threshold=0.3)
    middle, after = Node("resid_mid", layer=0, position=1), Node("resid_post", layer=0, position=1)
    assert edges_of(graph) == [
        (Node("embed", position=0), middle, "attention", 0, -1, 1, 0, 3.0, 0.3),
        (Node("embed", position=1), middle, "residual", 0, -1, 1, 1, 6.0, 0.6),
        (middle, after, "residual", 0, -1, 1, 1, 3.0, 0.75),
        (after, LOGIT, "unembed", -1, -1, 1, -1, 2.0, 1.0),
    ]
    # Two middle states, two MLPs, two last states and the logit receive weight.
    assert (graph.info.total_share, graph.info.total_edges) == (7.0, 3 + 2 + 2 + 2 + 2 + 1)
    assert graph.shown_share == pytest.approx((0.3 + 0.6 + 0.75 + 1.0) / 7)


@pytest.mark.parametrize("level", LEVELS)
def test_shares_are_those_of_the_graph_to_the_last_digit(level: str) -> None:
    """Sums over many edges: another order of summation would change their last digits."""
    rng = np.random.default_rng(0)
    t, h = 40, 12
    info = replace(by_hand().info, tokens=tuple("ab" * (t // 2)), position=t - 1)
    weights = replace(
        by_hand(),
        info=info,
        query_positions=tuple(range(t)),
        attention=rng.random((1, h, t, t)).astype(np.float32),
        attention_summed=rng.random((1, t, t)),
        head=rng.random((1, h, t)),
        **{name: rng.random((1, t)) for name in ("residual", "mlp", "mlp_in", "residual_mlp")},
    )
    check(weights, None, level, 0.0, None)
    for p in range(0, t, 6):
        check(weights, Node("resid_mid", layer=0, position=p), level, 0.001, None)


def test_a_weak_edge_hides_what_lies_behind_it() -> None:
    weights = by_hand()
    assert Node("mlp", layer=0, position=1) not in routes(weights, threshold=0.3).nodes
    assert Node("mlp", layer=0, position=1) in routes(weights, threshold=0.2).nodes
    assert len(build_graph(weights, threshold=0.3)) > len(routes(weights, threshold=0.3))


@given(dense(), st.data())
def test_a_lower_threshold_or_a_larger_nucleus_keeps_what_was_there(weights: EdgeWeights, data: Any) -> None:
    low, high = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    assert set(edges_of(routes(weights, threshold=high))) <= set(edges_of(routes(weights, threshold=low)))
    low, high = sorted(data.draw(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1))))
    assert set(edges_of(routes(weights, nucleus=low))) <= set(edges_of(routes(weights, nucleus=high)))


def test_nothing_strong_enough_is_an_empty_graph(tiny: Any) -> None:
    weights = edge_weights(flowgraph.trace(tiny("llama"), IDS), method="norms")
    graph = routes(weights, Node("resid_mid", layer=1, position=3), threshold=1.0)
    assert (len(graph), graph.nodes, graph.shown_share) == (0, (), 0.0)
    assert graph.info.filters == {"threshold": 1.0, "start": "L1.resid_mid@3"}


def test_sums_go_when_the_weights_go() -> None:
    weights = by_hand()
    known = weakref.ref(incoming(weights, "token"))
    assert incoming(weights, "token") is known()
    assert incoming(by_hand(), "token") is not known()
    routes(weights, threshold=0.1)
    del weights
    gc.collect()
    assert known() is None


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("method", ["proximity", "logits"])
def test_routes_that_are_too_large_say_their_size(tiny: Any, method: str, level: str) -> None:
    weights = edge_weights(flowgraph.trace(tiny("gpt2"), IDS), method=method)
    count = len(routes(weights, threshold=0.01, level=level))
    with pytest.raises(
        GraphTooLargeError, match=rf"have {count:,} edges, more than max_edges={count - 1:,}; set a larger"
    ):
        routes(weights, threshold=0.01, level=level, max_edges=count - 1)
    assert len(routes(weights, threshold=0.01, level=level, max_edges=count)) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "threshold=None, nucleus=None and mass=None: routes need threshold="),
        ({"threshold": 1.5}, "threshold=1.5 must lie between 0 and 1"),
        ({"threshold": -0.1}, "threshold=-0.1 must lie"),
        ({"threshold": float("nan")}, "threshold=nan must lie"),
        ({"mass": 0.0}, "mass=0.0 must lie above 0"),
        ({"nucleus": 1.5}, "nucleus=1.5 must lie"),
        ({"nucleus": float("nan")}, "nucleus=nan must lie"),
        ({"threshold": 0.1, "max_edges": 0}, "max_edges=0 must be at least 1"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        routes(by_hand(), **options)


@pytest.mark.parametrize(
    "start",
    [
        Node("resid_post", layer=1, position=0),
        Node("resid_post", layer=0, position=2),
        Node("resid_post", layer=0),
        Node("resid_pre", layer=0, position=0),
        Node("embed"),
        Node("mlp", layer=0, position=5),
        Node("neuron", layer=0, position=0, index=4),
        Node("unembed_bias"),
        Node("logit", index=4),
        Node("head", layer=0, head=0, position=1),
    ],
    ids=repr,
)
def test_a_start_that_is_no_node(start: Node) -> None:
    expected = r"expected logit\[ x\] \(index=3\), embed, resid_mid, resid_post, mlp within layers 0…0 and 2 positions"
    with pytest.raises(ArgumentError, match=expected) as caught:
        routes(by_hand(), start, threshold=0.1)
    assert f"start={label(start)} is not a node of these weights at level='token'" in str(caught.value)


def test_starts_that_a_wiring_does_not_have(tiny: Any) -> None:
    parallel = edge_weights(flowgraph.trace(tiny("gptj"), IDS))
    with pytest.raises(ArgumentError, match=r"expected logit.*, embed, resid_post, mlp, head within"):
        routes(parallel, Node("resid_mid", layer=0, position=1), threshold=0.1, level="head")
    headless = edge_weights(flowgraph.trace(tiny("bert_headless"), IDS))
    with pytest.raises(ArgumentError, match=r"expected embed, resid_mid, resid_post, mlp within"):
        routes(headless, Node("logit", index=1), threshold=0.1)


def test_heads_taken_together_have_no_head_level() -> None:
    together = replace(by_hand(), attention=np.zeros((1, 0, 2, 2)), head=np.zeros((1, 0, 2)))
    assert len(routes(together, threshold=0.3)) == 4
    with pytest.raises(ArgumentError, match=r"level='head', but the method \(invented\) takes heads together"):
        routes(together, threshold=0.3, level="head")


@pytest.mark.parametrize("level", ["token", "head"])
def test_the_rule_for_single_heads(tiny, level):
    """Under the other published rule the routes are those of the graph that is built under it."""
    weights = flowgraph.edge_weights(flowgraph.trace(tiny("llama"), [20, 31, 42, 53, 64]), method="proximity")
    options = {"threshold": 0.03, "threshold_rule": "per_head", "level": level}
    found, whole = routes(weights, **options), flowgraph.build_graph(weights, readings=False, **options)
    start = flowgraph.Node("logit", index=weights.info.target)
    expected = flowgraph.connected_flow(whole, start) > 0
    kept = found.keep(found.weight > 0)  # an edge without weight is kept above a threshold of 0, and carries nothing
    names = [
        sorted(
            (str(g.nodes[g.source[e]]), str(g.nodes[g.target[e]]), int(g.kind[e]), float(g.share[e]))
            for e in range(len(g))
        )
        for g in (kept, whole.keep(expected))
    ]
    assert names[0] == names[1]
    assert found.info.filters["threshold_rule"] == "per_head"


@pytest.mark.parametrize("level", LEVELS)
def test_the_threshold_is_the_smallest_that_a_picture_holds(tiny, level):
    weights = edge_weights(flowgraph.trace(tiny("llama"), IDS), method="proximity")
    state = Node("resid_post", layer=1, position=3)
    for start in (None, state):
        sizes = {share: len(routes(weights, start, threshold=share, level=level)) for share in (0.01, 0.02, 0.04, 0.08)}
        assert sizes[0.01] > sizes[0.02] > sizes[0.04]
        for most in (10**6, sizes[0.01], sizes[0.01] - 1, sizes[0.02], sizes[0.02] - 1, 1):
            holding = [share for share in (0.01, 0.02, 0.04) if sizes[share] <= most] or [0.04]
            assert routes_threshold(weights, start, level=level, most_edges=most) == holding[0]
        assert routes_threshold(weights, start, level=level, most_edges=1, smallest=0.08, largest=0.08) == 0.08


def test_a_threshold_that_cannot_be_chosen_says_why(tiny):
    weights = edge_weights(flowgraph.trace(tiny("llama"), IDS), method="proximity")
    for options, words in (
        ({"smallest": 0.0}, "smallest=0.0 and largest=0.04 must be shares"),
        ({"smallest": 0.5}, "smallest=0.5 and largest=0.04 must be shares"),
        ({"most_edges": 0}, "most_edges=0 must be at least 1"),
    ):
        with pytest.raises(ArgumentError, match=words):
            routes_threshold(weights, **options)
    with pytest.raises(GraphTooLargeError):
        routes_threshold(weights, max_edges=3)
