"""Norm-based maps and mixing ratios against the vectors themselves, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flowgraph
from flowgraph import mixing_ratio, norm_map
from flowgraph.errors import ArgumentError
from tests.conftest import IDS, JAPAN, REPRESENTATIVES


def vectors(trace, row: int, residual: bool, layer_norm: bool) -> np.ndarray:
    """[T, S, d] what each token hands to each other, dense."""
    anatomy = trace.model.anatomy
    layer = trace.layers[0] + row
    u = torch.einsum("hsk,hkd->hsd", anatomy.per_query_head(trace.v[row]).double(), anatomy.W_O(layer).double())
    made = torch.einsum("hts,hsd->tsd", trace.pattern[row].double(), u)
    stream = torch.diag_embed(trace.resid_pre[row].double().T).permute(1, 2, 0) if residual else 0.0
    block = anatomy.blocks[layer]
    if layer_norm and trace.wiring == "post_norm":
        norm, scale = block.attention_norm, trace.norm_scales["attention"][row].double()
        return norm.linear(made + stream, scale[:, None].expand(made.shape[:2])).numpy()
    if layer_norm:
        norm, scale = block.attention_post_norm, trace.norm_scales["attention_post"][row].double()
        made = norm.linear(made, scale[:, None].expand(made.shape[:2]))
    return (made + stream).numpy()


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("name", [*REPRESENTATIVES, "opt_post_norm"])
def test_against_the_vectors(tiny, name, residual, layer_norm):
    trace = flowgraph.trace(tiny(name), IDS, position=-1)
    options = {"residual": residual, "layer_norm": layer_norm}
    if layer_norm and trace.wiring not in ("post_norm", "sandwich"):
        for function in (norm_map, mixing_ratio):
            with pytest.raises(ArgumentError, match="no norm follows attention"):
                function(trace, **options)
        return
    found, ratio = norm_map(trace, **options), mixing_ratio(trace, **options)
    assert found.shape == (trace.n_layers, 7, 7)
    assert ratio.shape == (trace.n_layers, 7)
    for row in range(trace.n_layers):
        dense = vectors(trace, row, residual, layer_norm)
        expected = np.linalg.norm(dense, axis=-1)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5 * expected.max())
        own = dense[np.arange(7), np.arange(7)]
        others = np.linalg.norm(dense.sum(1) - own, axis=-1)
        np.testing.assert_allclose(ratio[row], others / (others + np.linalg.norm(own, axis=-1)), atol=1e-5)
    if trace.causal:
        assert not np.triu(found, 1).any()
        assert not ratio[:, 0].any()  # the first token has no others


def test_a_window_of_layers(tiny):
    whole = flowgraph.trace(tiny("llama"), IDS)
    window = flowgraph.trace(tiny("llama"), IDS, keep=flowgraph.TraceSites(layers=(1, 2)))
    np.testing.assert_allclose(norm_map(window), norm_map(whole)[1:2], rtol=1e-6)
    np.testing.assert_allclose(mixing_ratio(window), mixing_ratio(whole)[1:2], rtol=1e-6)


@pytest.mark.real_model
def test_real_models_mix_little(smollm2, minilm):
    """Published for masked language models: with residual and norm, a token is mostly itself."""
    bert = flowgraph.trace(minilm, JAPAN)
    with_both = mixing_ratio(bert, layer_norm=True)
    assert 0 < with_both.mean() < mixing_ratio(bert, residual=False).mean()
    assert with_both.mean() < 0.5
    decoder = mixing_ratio(flowgraph.trace(smollm2, JAPAN))
    assert np.isfinite(decoder).all()
    assert (decoder >= 0).all()
    assert (decoder <= 1).all()
