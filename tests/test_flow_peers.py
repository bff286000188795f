"""Attention flow of real models against two programs that solve one pair at a time: every pair of a matrix, or many."""

from __future__ import annotations

import numpy as np
import pytest

import flowgraph
from tests.benchmarks.flow import edges_of, igraph, or_tools
from tests.benchmarks.subject import attention_of_text

pytestmark = [pytest.mark.slow, pytest.mark.real_model]


def every_pair(tokens, causal):
    return np.argwhere(np.tri(tokens) if causal else np.ones((tokens, tokens))).tolist()


@pytest.mark.parametrize(("name", "causal", "count"), [("smollm2", True, 2080), ("minilm", False, 4096)])
def test_every_pair_equals_or_tools(name, causal, count, request):
    attention = attention_of_text(request.getfixturevalue(name), 64)
    flow = flowgraph.attention_flow(attention)
    assert flow.shape == (64, 64)
    solve = or_tools(edges_of(attention))
    expected = np.zeros((64, 64))
    pairs = every_pair(64, causal)
    assert len(pairs) == count
    for source, target in pairs:
        expected[source, target] = solve(source, target)
    # Capacities are whole multiples of 2^-50 there; what that rounds adds up over the edges of a cut.
    np.testing.assert_allclose(flow, expected, rtol=0, atol=1e-9)
    assert flow.max() > 0.5


@pytest.mark.parametrize("peer", [or_tools, igraph])
def test_many_pairs_of_a_long_text(peer, smollm2):
    attention = attention_of_text(smollm2, 125)
    flow = flowgraph.attention_flow(attention)
    solve = peer(edges_of(attention))
    for source, target in np.random.default_rng(31).permutation(every_pair(125, True))[:300].tolist():
        assert abs(flow[source, target] - solve(source, target)) <= 1e-9, (source, target)
