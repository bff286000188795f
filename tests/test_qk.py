"""Queries and keys taken back to the residual stream give the model's own scores, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowgraph
from flowgraph.errors import ArgumentError
from flowgraph.lenses.query_key import attention_input, key_directions, query_directions
from flowgraph.models.attention_weights import attention_weights
from tests.conftest import IDS, JAPAN
from tests.tiny_models import TINY


def triples(trace):
    """Every head with every pair of positions, also those that a mask hides."""
    count = len(trace.tokens)
    found = torch.cartesian_prod(torch.arange(trace.n_heads), torch.arange(count), torch.arange(count))
    return found[:, 0], found[:, 1], found[:, 2]


def check(trace, layer, tolerance):
    anatomy = trace.model.anatomy
    heads, t, i = triples(trace)
    row = layer - trace.layers[0]
    keys = anatomy.per_query_head(trace.k[row].double())
    scale = anatomy.blocks[layer].scale
    scores = scale * (trace.q[row].double()[heads, t] * keys[heads, i]).sum(-1)
    read = attention_input(trace, layer).double()
    size = scores.abs().max()
    for side, position in ((key_directions, t), (query_directions, i)):
        directions, bias = side(trace, layer, heads, query_pos=t, key_pos=i)
        assert directions.shape == (len(heads), anatomy.d_model)
        found = scale * ((read[position] * directions.double()).sum(-1) + bias.double())
        assert (found - scores).abs().max() <= tolerance * size, side.__name__


@pytest.mark.parametrize("name", TINY)
def test_directions_give_the_scores(tiny, name):
    trace = flowgraph.trace(tiny(name), IDS, position=-1)
    for layer in range(trace.n_layers):
        check(trace, layer, 1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gptj", "gpt_neox"])
def test_a_window_that_starts_later(tiny, name):
    trace = flowgraph.trace(tiny(name), IDS, keep=flowgraph.TraceSites(layers=(1, 2)))
    check(trace, 1, 1e-5)
    zero = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ArgumentError, match="layer=0 is not one of the trace's layers 1…1"):
        key_directions(trace, 0, zero, query_pos=zero, key_pos=zero)


@pytest.mark.parametrize("name", TINY)
def test_weights_of_heads_make_what_was_recorded(tiny, name):
    trace = flowgraph.trace(tiny(name), IDS, position=-1)
    for layer in range(trace.n_layers):
        read = attention_input(trace, layer)
        for role, recorded in (("query", trace.q_proj), ("key", trace.k_proj), ("value", trace.v)):
            weight, bias = attention_weights(trace.model.anatomy, layer, role)
            made = torch.einsum("td,hdk->htk", read, weight)
            made = made if bias is None else made + bias[:, None]
            np.testing.assert_allclose(made, recorded[layer], atol=1e-5 * float(recorded[layer].abs().max()))


def test_a_file_gives_the_same_directions(tiny, tmp_path):
    trace = flowgraph.trace(tiny("gemma3"), IDS)
    back = flowgraph.Trace.load(trace.save(tmp_path / "run.safetensors")).attach(tiny("gemma3"))
    heads, t, i = triples(trace)
    for found, expected in zip(
        key_directions(back, 1, heads, query_pos=t, key_pos=i),
        key_directions(trace, 1, heads, query_pos=t, key_pos=i),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.real_model
def test_the_real_model(smollm2):
    trace = flowgraph.trace(smollm2, JAPAN)
    for layer in range(0, trace.n_layers, 7):
        check(trace, layer, 1e-5)
