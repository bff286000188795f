"""Edges cut exactly, against forwards written out by hand; attribution, against autograd and against what it estimates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.errors import ArgumentError, CancelledError
from flowgraph.interventions.edges import edge_network
from flowgraph.interventions.network import LAST, norm_vjp
from flowgraph.interventions.passes import Pass, logits_of_states
from flowgraph.interventions.senders import Paths, keep_senders, kept_of, written
from tests.circuit_graphs import every_edge
from tests.conftest import IDS, LINEAR_REPRESENTATIVES
from tests.live_memory import Live
from tests.naive_interventions import FORWARDS, logit_difference

OTHER = [20, 31, 44, 53, 60, 75, 86]
TARGET, FOIL = 7, 11
FAMILIES = (*LINEAR_REPRESENTATIVES, "phi3", "qwen3", "opt_post_norm")
"""Fused projections, norms of queries and keys, and norms on the stream itself, besides."""
PATHS = {"gpt2": 1e-9, "llama": 1e-5}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("how", ["noise", "zero"])
def test_every_edge_is_the_edge_of_the_forward_by_hand(tiny, name, how):
    loaded = tiny(name, torch.float64)
    forward = FORWARDS[name]
    with torch.no_grad():
        clean, _ = forward(loaded.model, IDS, {})
        _, other = forward(loaded.model, OTHER, {})
        edges = every_edge(loaded.anatomy)
        found = fg.edge_effects(loaded, IDS, OTHER, edges, how, target=TARGET, foil=FOIL)
        start = logit_difference(clean, TARGET, FOIL)
        assert found.clean[0] == pytest.approx(start, rel=PATHS[name])
        for edge, effect in zip(edges, found.effects, strict=True):
            seen = {str(edge.source): other[str(edge.source)] * (how == "noise")}
            logits, _ = forward(loaded.model, IDS, {(str(edge.target), edge.into): seen})
            expected = logit_difference(logits, TARGET, FOIL) - start
            assert effect == pytest.approx(expected, abs=PATHS[name], rel=PATHS[name]), str(edge)


@pytest.mark.parametrize("name", PATHS)
def test_an_edge_at_one_position_is_cut_there_alone(tiny, name):
    loaded = tiny(name, torch.float64)
    everywhere = [edge for edge in every_edge(loaded.anatomy) if edge.source.kind == "embed"]
    assert {edge.into for edge in everywhere} == {"q", "k", "v", "mlp", "logits"}
    edges = [
        fg.Edge(replace(edge.source, position=n), replace(edge.target, position=n), edge.into)
        for edge in everywhere for n in (2, 4, 6)
    ]  # fmt: skip
    found = fg.edge_effects(loaded, IDS, OTHER, [*everywhere, *edges], target=TARGET, foil=FOIL)
    for edge, effect in zip(edges, found.effects[len(everywhere) :], strict=True):
        alone = fg.ablate(loaded, IDS, edge, "resample", reference=OTHER, target=TARGET, foil=FOIL)
        assert effect == pytest.approx(alone.effect[0], rel=1e-6, abs=1e-9), str(edge)
    whole, parts = found.effects[: len(everywhere)], found.effects[len(everywhere) :].reshape(-1, 3)
    assert (np.abs(parts - whole[:, None]).min(1) > 1e-6).any()


@pytest.mark.parametrize("name", PATHS)
def test_edges_at_one_position_and_several_edges_together(tiny, name):
    loaded = tiny(name, torch.float64)
    forward, anatomy = FORWARDS[name], loaded.anatomy
    keys = "kv_group" if anatomy.n_kv_heads < anatomy.n_heads else "head"
    head, mlp = fg.Node("head", layer=0, head=1), fg.Node("mlp", layer=0)
    edges = [
        fg.Edge(head, fg.Node("head", layer=1, head=2), "q"),
        fg.Edge(fg.Node("embed", position=4), fg.Node(keys, layer=1, head=1), "k"),
        fg.Edge(mlp, fg.Node(keys, layer=1, head=1, position=2), "v"),
        fg.Edge(head, mlp, "mlp"),
        fg.Edge(mlp, fg.Node("logits"), "logits"),
        fg.Edge(fg.Node("head", layer=1, head=2), fg.Node("logits"), "logits"),
    ]
    with torch.no_grad():
        _, other = forward(loaded.model, OTHER, {})
        cuts: dict = {}
        for edge in edges:
            name_of = str(fg.Node(edge.target.kind, layer=edge.target.layer, head=edge.target.head))
            cuts.setdefault((name_of, edge.into), {})[edge] = None

        def seen_by(stream, cut):
            changed = {}
            for edge in cut:
                sender = str(fg.Node(edge.source.kind, layer=edge.source.layer, head=edge.source.head))
                value = stream[sender].clone()
                rows = slice(None) if edge.position is None else edge.position
                value[rows] = other[sender][rows]
                changed[sender] = value
            return changed

        class Live(dict):
            """What a receiver sees, from the stream as it is by then."""

            def __init__(self, cut):
                super().__init__()
                self.cut = cut

            def get(self, sender, now=None):
                for edge in self.cut:
                    if str(fg.Node(edge.source.kind, layer=edge.source.layer, head=edge.source.head)) == sender:
                        return seen_by({sender: now}, [edge])[sender]
                return now

        logits, _ = forward(loaded.model, IDS, {receiver: Live(cut) for receiver, cut in cuts.items()})
    effect = fg.ablate(loaded, IDS, edges, "resample", reference=OTHER, target=TARGET, foil=FOIL)
    assert effect.after[0] == pytest.approx(logit_difference(logits, TARGET, FOIL), abs=PATHS[name], rel=PATHS[name])
    assert str(edges[0]) == "L0H1 → L1H2.q"
    assert str(edges[4]) == "L0.mlp → logits"


@pytest.mark.parametrize("name", FAMILIES)
def test_one_edge_in_a_batch_is_the_edge_by_itself(tiny, name):
    loaded = tiny(name, torch.float64)
    every = every_edge(loaded.anatomy)
    edges = every[:: max(1, len(every) // 25)] + every[-3:]
    batch = fg.edge_effects(loaded, [IDS, OTHER], [OTHER, IDS], edges, target=TARGET)
    for n in range(0, len(edges), 5):
        alone = fg.patch(loaded, [IDS, OTHER], [OTHER, IDS], edges[n], "noise", target=TARGET)
        np.testing.assert_allclose(batch.by_prompt[n], alone.effect, rtol=1e-5, atol=1e-6)
    assert np.abs(batch.effects).max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_all_edges_into_everything_are_the_other_run(tiny, name):
    """Every receiver sees the other run: so does the answer, where biases are the same in both."""
    loaded = tiny(name, torch.float64)
    edges = every_edge(loaded.anatomy)
    effect = fg.patch(loaded, IDS, OTHER, edges, "noise", target=TARGET)
    np.testing.assert_allclose(effect.after, effect.corrupted, rtol=2e-5)
    nothing = fg.patch(loaded, IDS, OTHER, edges, "noise", target=TARGET, outside=True)
    np.testing.assert_allclose(nothing.after, nothing.clean, rtol=1e-7)
    alone = fg.patch(loaded, IDS, OTHER, edges[-2:], "noise", target=TARGET)
    rest = fg.patch(loaded, IDS, OTHER, edges[:-2], "noise", target=TARGET, outside=True)
    np.testing.assert_allclose(rest.after, alone.after, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_edges_into_one_receiver_change_its_input(tiny, name):
    """For the MLP of the second layer: what it writes is what it writes in the other run."""
    loaded = tiny(name, torch.float64)
    target = fg.Node("mlp", layer=1)
    edges = [edge for edge in every_edge(loaded.anatomy) if edge.target == target]
    cut = fg.patch(loaded, IDS, OTHER, edges, "noise", target=TARGET)
    moved = fg.patch(loaded, IDS, OTHER, target, "noise", target=TARGET)
    np.testing.assert_allclose(cut.after, moved.after, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_first_order_scores_are_the_slope_of_exact_effects(tiny, name):
    """A corruption scaled down to nothing: the effect of an edge is its score times the scale."""
    loaded = tiny(name, torch.float64)
    scores = fg.edge_scores(loaded, IDS, OTHER, target=TARGET)
    edges = every_edge(loaded.anatomy)
    assert scores.possible.sum() == len(edges)
    assert not scores.scores[~scores.possible].any()
    for edge in edges[:: max(1, len(edges) // 12)]:
        slope = _slope(loaded, edge)
        tolerance = 1e-6 if loaded.anatomy.family.norm == "layer" else 1e-5
        assert scores.score(edge) == pytest.approx(slope, rel=tolerance, abs=tolerance), str(edge)


def cut(paths, network, edge):
    reader = network.reader(edge.target, edge.into)
    mask = torch.zeros(reader.reads.count, len(IDS))
    mask[reader.reads.index(edge.source)] = 1.0
    paths.cut(network.readers.index(reader), edge.target.head or 0, mask)


def _slope(loaded, edge):
    """Derivative of the metric along the change of the sender, as its one receiver sees it, by autograd through the model."""
    from flowgraph.interventions.ablation import answer_logits

    network = edge_network(loaded.anatomy)
    ids = torch.tensor([IDS, OTHER])
    with torch.no_grad():
        both = Pass(loaded, 2)
        keep_senders(both, network)
        both.run({"input_ids": ids})
        outputs = written(network, kept_of(both, network))[LAST]
        clean, other = outputs[:, :1], outputs[:, 1:]
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    run = Pass(loaded, 1, gradients=True)
    paths = Paths(run, network, {LAST: clean + scale * (other - clean)})
    cut(paths, network, edge)
    paths.install()
    states = run.run({"input_ids": ids[:1]})
    with torch.enable_grad():
        logits = answer_logits(loaded, states, torch.tensor([len(IDS) - 1]))[0]
        (slope,) = torch.autograd.grad(logits[TARGET] - logits.mean(), scale)
    return float(slope)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_the_norms_gradient_is_autograds(tiny, kind):
    norm = tiny(kind, torch.float64).anatomy.blocks[0].attention_norm
    x = torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    g = torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad(norm.module(x), x, g)
    error = (norm_vjp(norm, x.detach(), g) - expected).norm() / expected.norm()
    assert error < (1e-6 if kind == "gpt2" else 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gemma2", "phi3", "opt", "bert", "opt_post_norm"])
def test_gradients_are_autograds(tiny, name):
    """Each gradient, against the derivative along a direction that is added at that place."""
    loaded = tiny(name, torch.float64)
    prompts = [fg.trace(loaded, ids, keep=(), position=-1) for ids in (IDS, OTHER)]
    found = fg.gradients(loaded, prompts, target=TARGET)
    sites = {"attn_out": found.attn_out, "mlp_out": found.mlp_out, "z": found.z.flatten(3), "mlp_in": found.mlp_in}
    sites |= {"q": found.q, "k": found.k, "v": found.v, "resid_pre": found.embed[None], "final": found.final[None]}
    generator = torch.Generator().manual_seed(0)
    for site, gradient in sites.items():
        direction = torch.randn(gradient[0].shape, generator=generator, dtype=torch.float64)
        amount = torch.zeros(2, 1, 1, dtype=torch.float64, requires_grad=True)
        run = Pass(loaded, 2, gradients=True)
        moved = amount.view(-1, *[1] * (direction.ndim - 1)) * direction
        run.edit(site, len(loaded.anatomy.blocks) - 1 if site == "final" else 0, lambda x, moved=moved: x + moved)
        with torch.enable_grad():
            logits = logits_of_states(loaded, run.run({"input_ids": torch.tensor([IDS, OTHER])})[:, -1])
            values = logits[:, TARGET] - logits.mean(-1)
            (expected,) = torch.autograd.grad(values.sum(), amount)
        ours = (gradient[0] * direction).flatten(1).sum(1)
        tolerance = 1e-6 if loaded.anatomy.family.norm == "layer" else 1e-5
        torch.testing.assert_close(ours, expected[:, 0, 0], rtol=tolerance, atol=tolerance)
        assert float(ours.abs().max()) > 1e-4


def test_attribution_is_exact_into_the_logits_of_a_linear_head(tiny):
    """Without the norm's bend the score of an edge into the logits is its effect; with it, to first order."""
    loaded = tiny("gpt2", torch.float64)
    scores = fg.edge_scores(loaded, IDS, OTHER, target=TARGET)
    edges = [edge for edge in every_edge(loaded.anatomy) if edge.into == "logits"]
    exact = fg.edge_effects(loaded, IDS, OTHER, edges, target=TARGET).effects
    estimated = np.array([scores.score(edge) for edge in edges])
    assert np.corrcoef(exact, estimated)[0, 1] > 0.9


@pytest.mark.parametrize("name", FAMILIES)
def test_the_qk_fix_is_exact_where_the_rest_is_linear(tiny, name):
    """What the fix adds: Σ (patched pattern − pattern) · (g_z · v), by patching the query of one head by hand."""
    loaded = tiny(name, torch.float64)
    fixed = fg.edge_scores(loaded, IDS, OTHER, target=TARGET, qk_fix=True)
    plain = fg.edge_scores(loaded, IDS, OTHER, target=TARGET)
    into = np.array([kind for _, kind in fixed.receivers])
    same = (into != "q") & (into != "k")
    np.testing.assert_allclose(fixed.scores[:, same], plain.scores[:, same], rtol=1e-9)
    assert np.abs(fixed.scores - plain.scores)[:, ~same].max() > 1e-4
    found = fg.gradients(loaded, IDS, target=TARGET)
    group = loaded.anatomy.n_heads // loaded.anatomy.n_kv_heads
    clean = fg.trace(loaded, IDS)
    for kind in ("q", "k"):
        n = int(np.flatnonzero(into == kind)[-1])
        target = fixed.receivers[n][0]
        edge = fg.Edge(fg.Node("head", layer=0, head=1), target, kind)
        heads = [target.head] if kind == "q" else range(target.head * group, (target.head + 1) * group)
        layer = target.layer
        patterns = {}

        def keep(x, patterns=patterns):
            patterns["now"] = x
            return x

        network = edge_network(loaded.anatomy)
        with torch.no_grad():
            theirs = Pass(loaded, 1)
            keep_senders(theirs, network)
            theirs.run({"input_ids": torch.tensor([OTHER])})
            run = Pass(loaded, 1)
            paths = Paths(run, network, written(network, kept_of(theirs, network)))
            cut(paths, network, edge)
            paths.install()
            run.edit("pattern", layer, keep)
            run.run({"input_ids": torch.tensor([IDS])})
        expected = 0.0
        for head in heads:
            worth = found.z[layer, 0, :, head] @ clean.v[layer, head // group].T
            expected += float(((patterns["now"][0, head] - clean.pattern[layer, head]) * worth).sum())
        assert fixed.score(edge) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_the_strongest_scores_come_first(tiny):
    scores = fg.edge_scores(tiny("llama"), IDS, OTHER, target=TARGET)
    strongest = scores.strongest(5)
    assert [abs(s) for _, s in strongest] == sorted((abs(s) for _, s in strongest), reverse=True)
    assert abs(strongest[0][1]) == np.abs(scores.scores).max()
    assert len(scores.strongest(10**6)) == scores.possible.sum()
    assert len(scores.table()) == min(1000, scores.possible.sum())
    with pytest.raises(ArgumentError, match="k=0 must be"):
        scores.strongest(0)
    with pytest.raises(ArgumentError, match="not among the scored"):
        scores.score(fg.Edge(fg.Node("embed", position=1), fg.Node("logits"), "logits"))


# Bad input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((fg.Node("resid_mid", layer=0), fg.Node("mlp", layer=1), "mlp"), "only what writes to the residual stream"),
        ((fg.Node("embed"), fg.Node("mlp", layer=1), "q"), "into='q' needs a 'head'"),
        ((fg.Node("embed", position=1), fg.Node("mlp", layer=1, position=2), "mlp"), "from position 1 to position 2"),
    ],
)
def test_impossible_edges(values, message):
    with pytest.raises(ArgumentError, match=message):
        fg.Edge(*values)


def test_an_edge_ends_in_something_that_reads():
    edge = object.__new__(fg.Edge)
    for name, value in (("source", fg.Node("embed")), ("target", fg.Node("mlp", layer=1)), ("into", "x")):
        object.__setattr__(edge, name, value)
    with pytest.raises(ArgumentError, match="into='x' must be one of q, k, v, mlp, logits"):
        edge.__post_init__()


def test_edges_that_the_model_does_not_have(tiny):
    gpt2, llama, gptj = tiny("gpt2"), tiny("llama"), tiny("gptj")
    backward = fg.Edge(fg.Node("mlp", layer=1), fg.Node("head", layer=1, head=0), "q")
    with pytest.raises(ArgumentError, match="against the direction of computation"):
        fg.edge_effects(gpt2, IDS, OTHER, [backward])
    beside = fg.Edge(fg.Node("head", layer=1, head=0), fg.Node("mlp", layer=1), "mlp")
    fg.edge_effects(gpt2, IDS, OTHER, [beside])
    with pytest.raises(ArgumentError, match="against the direction"):
        fg.edge_effects(gptj, IDS, OTHER, [beside])
    head = fg.Edge(fg.Node("embed"), fg.Node("head", layer=1, head=3), "k")
    with pytest.raises(ArgumentError, match=r"Node\('kv_group', layer=1, head=1\)"):
        fg.edge_effects(llama, IDS, OTHER, [head])
    group = fg.Edge(fg.Node("embed"), fg.Node("kv_group", layer=1, head=3), "k")
    with pytest.raises(ArgumentError, match=r"Node\('head', layer=1, head=3\)"):
        fg.edge_effects(gpt2, IDS, OTHER, [group])
    with pytest.raises(ArgumentError, match="layer=5 does not exist"):
        fg.edge_effects(gpt2, IDS, OTHER, [fg.Edge(fg.Node("embed"), fg.Node("mlp", layer=5), "mlp")])
    with pytest.raises(ArgumentError, match="edges is empty"):
        fg.edge_effects(gpt2, IDS, OTHER, [])
    with pytest.raises(ArgumentError, match="position=9 is outside"):
        fg.edge_effects(gpt2, IDS, OTHER, [fg.Edge(fg.Node("embed", position=9), fg.Node("mlp", layer=1), "mlp")])


def test_a_rank_has_no_gradient(tiny):
    with pytest.raises(ArgumentError, match="'rank' has no gradient"):
        fg.gradients(tiny("gpt2"), IDS, fg.target_rank)


def test_cutting_can_be_cancelled_and_says_how_far_it_is(tiny):
    edges = every_edge(tiny("gpt2").anatomy)
    seen = []
    fg.edge_effects(tiny("gpt2"), IDS, OTHER, edges, progress=lambda stage, part: seen.append(part))
    assert seen[-1] == 1.0
    assert seen == sorted(seen)
    with pytest.raises(CancelledError, match="after 0 of"):
        fg.edge_effects(tiny("gpt2"), IDS, OTHER, edges, cancel=lambda: True)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("qk_fix", [False, True])
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_scores_keep_the_memory_that_is_stated(tiny, name, qk_fix, part):
    loaded = tiny(name)
    prompts = [(IDS * 6)[shift : 36 + shift] for shift in range(6)]
    asked = {"target": TARGET, "foil": FOIL, "qk_fix": qk_fix}
    whole = fg.scores_size(loaded, prompts, qk_fix=qk_fix)
    least = fg.scores_size(loaded, prompts[:1], qk_fix=qk_fix)
    limit = int(least + part * (whole - least))
    stated = fg.scores_size(loaded, prompts, qk_fix=qk_fix, max_bytes=limit)
    assert stated <= limit
    with Live(loaded.model) as live:
        found = fg.edge_scores(loaded, prompts, prompts[::-1], max_bytes=limit, **asked)
    assert 0.2 * stated < live.peak <= stated
    together = fg.edge_scores(loaded, prompts, prompts[::-1], **asked)
    np.testing.assert_allclose(found.scores, together.scores, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.clean, together.clean, rtol=1e-5)
    np.testing.assert_allclose(found.corrupted, together.corrupted, rtol=1e-5)
    with pytest.raises(ArgumentError, match="does not hold the two passes of one prompt of 36 tokens"):
        fg.edge_scores(loaded, prompts, prompts[::-1], max_bytes=least - 1, **asked)
