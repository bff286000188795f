"""Roles of heads, on constructed models whose heads are known and against loops over single tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.circuits.copying import copy_scores
from flowgraph.circuits.detectors import attention_scores, repeating
from flowgraph.errors import ArgumentError, CancelledError
from tests.circuit_graphs import induction_data
from tests.conftest import IDS, LINEAR_REPRESENTATIVES
from tests.induction_circuits import VARIANTS, gpt2_circuit, llama_circuit

OTHER = [20, 31, 44, 53, 60, 75, 86]
DATA = [
    fg.Example(tuple(IDS), tuple(OTHER), 31, 11),
    fg.Example(tuple(IDS[::-1]), tuple(OTHER[::-1]), 7, 12),
    fg.Example(tuple(IDS[:5]), tuple(OTHER[:5]), 42, 11),
]
"""Prompts of two lengths; the answer's token stands in two of them."""
MODELS = {name: (lambda name=name: gpt2_circuit(name)) for name in VARIANTS} | {"llama": llama_circuit}
ATTENTION = ("previous_token", "duplicate_token", "induction", "sink")


@pytest.fixture(scope="module")
def constructed():
    """``constructed(name)`` → circuit, model, and its roles on repeated tokens as a task."""
    made = {}

    def of(name):
        if name not in made:
            circuit = MODELS[name]()
            loaded = fg.load_model(circuit.model)
            data = induction_data(circuit.model.config.vocab_size)
            made[name] = circuit, data, loaded, fg.head_roles(loaded, data)
        return made[name]

    return of


def places(nodes):
    return {(node.layer, node.head) for node in nodes}


# Known heads


@pytest.mark.parametrize("name", MODELS)
def test_known_heads_have_their_roles_and_no_other_head_has_one(constructed, name):
    circuit, _, _, found = constructed(name)
    heads = circuit.heads
    assert found["previous_token"][heads["previous"]] > 0.99
    assert found["induction"][heads["induction"]] > 0.99
    writer = heads["mover"] if name == "mover" else heads["induction"]
    looking = {place for role, place in heads.items() if role != "previous"}
    expected = {
        "previous_token": {heads["previous"]},
        "induction": looking,
        "copying": {writer},
        "name_mover": {writer},
    }
    if name == "negative":
        expected |= {"negative_copying": {heads["negative"]}, "negative_mover": {heads["negative"]}}
    assert {role: places(nodes) for role, nodes in found.roles.items()} == expected


def test_the_negative_head_copies_negatively(constructed):
    circuit, _, _, found = constructed("negative")
    for score, strength in (("copying", 3.0), ("copying_eigenvalues", 0.99)):
        assert found[score][circuit.heads["negative"]] < -strength
        assert found[score][circuit.heads["induction"]] > strength
    assert found["ablation_effect"][circuit.heads["negative"]] > 10
    assert found["ablation_effect"][circuit.heads["induction"]] < -30


@pytest.mark.parametrize("name", MODELS)
def test_idle_heads_copy_nothing(constructed, name):
    circuit, _, _, found = constructed(name)
    idle = np.ones(found["copying"].shape, bool)
    for place in circuit.heads.values():
        idle[place] = False
    for score in ("copying", "copying_eigenvalues", "importance", "ablation_effect"):
        np.testing.assert_allclose(found[score][idle], 0, atol=1e-9)


def test_roles_are_found_on_nodes_of_a_graph(constructed):
    circuit, _, _, found = constructed("plain")
    layer, head = circuit.heads["induction"]
    for position in (None, 3):
        roles = found.of(fg.Node("head", layer=layer, head=head, position=position))
        behind = {"induction": "induction", "copying": "copying", "name_mover": "answer"}
        assert roles == {role: found[score][layer, head] for role, score in behind.items()}
    assert found.of(fg.Node("head", layer=0, head=0)) == {}
    assert found.of(fg.Node("mlp", layer=layer)) == {}


# What the numbers are


def test_sequences_repeat_with_random_periods(tiny):
    ids = repeating(tiny("gpt2"), 20, 0).ids.numpy()
    periods = set()
    for row in ids:
        assert (row == row[0]).sum() == 1
        period = int(np.flatnonzero(row[2:] == row[1])[0]) + 1
        assert len(set(row[1 : 1 + period])) == period
        assert (row[1 + period :] == row[1:-period]).all()
        periods.add(period)
    assert len(periods) > 3
    np.testing.assert_array_equal(repeating(tiny("gpt2"), 20, 0).ids, ids)
    assert (repeating(tiny("gpt2"), 20, 1).ids.numpy() != ids).any()


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma3"])
def test_attention_scores_against_a_loop(tiny, name):
    loaded = tiny(name, torch.float64)
    prompts = repeating(loaded, 2, 0)
    found, ids = attention_scores(loaded, prompts, crossing=False), prompts.ids
    collected = {score: [] for score in ATTENTION}
    for row in ids:
        trace = fg.trace(loaded, row, keep={"pattern"})
        for t in range(1, len(row)):
            to = trace.pattern[:, :, t].double()
            collected["previous_token"].append(to[..., t - 1])
            collected["sink"].append(to[..., 0])
            same = [s for s in range(t) if row[s] == row[t]]
            after = [s for s in range(1, t) if row[s - 1] == row[t]]
            if same:
                collected["duplicate_token"].append(to[..., same].sum(-1))
            if after:
                collected["induction"].append(to[..., after].sum(-1))
    for score, values in collected.items():
        assert found[score].queries == len(values)
        np.testing.assert_allclose(found[score].values, torch.stack(values).mean(0), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma3", "opt"])
def test_copying_against_a_loop(tiny, name):
    """Each head's output for one token alone, through the norms frozen at any scale, and all logits it makes."""
    loaded = tiny(name, torch.float64)
    anatomy, prompts = loaded.anatomy, repeating(loaded, 1, 0)
    (found, undefined), ids = copy_scores(loaded, prompts, crossing=False), prompts.ids
    assert undefined == {}
    trace = fg.trace(loaded, ids[0], keep={"v"})
    one = torch.ones((), dtype=torch.float64)
    for layer, block in enumerate(anatomy.blocks):
        for head in range(anatomy.n_heads):
            above = []
            for s, token in enumerate(ids[0]):
                u = trace.v[layer, head * anatomy.n_kv_heads // anatomy.n_heads, s] @ anatomy.W_O(layer)[head]
                for norm in (block.attention_post_norm, anatomy.final_norm):
                    u = u if norm is None else norm.linear(u, one)
                for module in anatomy.head:
                    u = u @ module.weight.detach().T
                above.append((u[token] - u.mean()) / u.std(correction=0))
            expected = float(torch.stack(above).mean())
            assert found["copying"].values[layer, head] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", LINEAR_REPRESENTATIVES)
def test_eigenvalues_of_the_small_matrix_are_those_of_the_large_one(tiny, name):
    loaded = tiny(name, torch.float64)
    anatomy = loaded.anatomy
    found, undefined = copy_scores(loaded, repeating(loaded, 1, 0), crossing=False)
    if "copying_eigenvalues" in undefined:
        pytest.skip(undefined["copying_eigenvalues"])
    embedding = anatomy.embedding.weight.detach().double()
    one = torch.ones((), dtype=torch.float64)
    from flowgraph.models.attention_weights import attention_weights

    values, _ = attention_weights(anatomy, 1, "value")
    block, head = anatomy.blocks[1], anatomy.n_heads - 1
    x = block.attention_norm.linear(embedding - embedding.mean(0), one) @ values[-1].double() @ anatomy.W_O(1)[head]
    for norm in (block.attention_post_norm, anatomy.final_norm):
        x = x if norm is None else norm.linear(x, one)
    for module in anatomy.head:
        x = x @ module.weight.detach().T.double()
    eigenvalues = torch.linalg.eigvals(x)
    expected = float(eigenvalues.real.sum() / eigenvalues.abs().sum())
    assert found["copying_eigenvalues"].values[1, head] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_scores_on_a_task_against_single_prompts(tiny, name):
    loaded = tiny(name, torch.float64)
    found = fg.head_roles(loaded, DATA)
    looked, hangs, lost = [], [], []
    for one in DATA:
        trace = fg.trace(loaded, one.clean, keep={"pattern", "z"})
        places = [s for s, token in enumerate(one.clean) if token == one.target]
        if places:
            looked.append(trace.pattern[:, :, -1, places].sum(-1).double())
        slope = fg.gradients(loaded, [list(one.clean)], target=one.target, foil=one.foil).z[:, 0]
        hangs.append((trace.z.transpose(1, 2) * slope).sum((1, 3)).abs())
        lost.append(fg.head_effects(loaded, one.clean, one.corrupted, target=one.target, foil=one.foil).effects)
    assert found.scores["answer"].queries == len(looked) == 2
    np.testing.assert_allclose(found["answer"], torch.stack(looked).mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["importance"], torch.stack(hangs).mean(0), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found["ablation_effect"], np.mean(lost, axis=0), rtol=1e-6, atol=1e-9)


def test_importance_is_the_first_order_change_without_the_head(tiny):
    """z scaled by 1 − ε: the metric's change over ε."""
    loaded = tiny("gpt2", torch.float64)
    found = fg.head_roles(loaded, DATA[:1])
    ids, step, d = torch.tensor([DATA[0].clean]), 1e-5, loaded.anatomy.d_head

    def scaled(_module, args):
        z = args[0].clone()
        z[..., d : 2 * d] *= 1 - step
        return (z,)

    def difference():
        with torch.no_grad():
            logits = loaded.model(ids).logits[0, -1]
        return float(logits[31] - logits[11])

    before = difference()
    handle = loaded.anatomy.blocks[1].attention_output.module.register_forward_pre_hook(scaled)
    change = (difference() - before) / step
    handle.remove()
    assert found["importance"][1, 1] == pytest.approx(abs(change), rel=1e-3)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_other_ablations(tiny, how):
    loaded = tiny("gpt2", torch.float64)
    found = fg.head_roles(loaded, DATA[:2], how=how)
    corrupted = [list(one.corrupted) for one in DATA[:2]] if how == "mean" else None
    expected = [
        fg.head_effects(loaded, one.clean, corrupted, how, target=one.target, foil=one.foil).effects for one in DATA[:2]
    ]
    np.testing.assert_allclose(found["ablation_effect"], np.mean(expected, axis=0), rtol=1e-6)
    assert how in found.scores["ablation_effect"].description


# What it says


def test_the_result_says_what_it_is(constructed, tmp_path):
    _, _, _, found = constructed("plain")
    assert "previous_token L0H1; induction L1H2" in repr(found)
    table = found.table()
    assert len(table) == 8
    assert [table.columns["roles"][n] for n in range(3)] == ["previous_token", "induction, copying, name_mover", ""]
    assert list(table.columns)[3:] == list(found.scores)
    assert "a role is named above: previous_token 0.5" in table.note
    assert all(score.unit and score.description for score in found.scores.values())
    saved = np.load(found.save(tmp_path / "roles.npz"))
    np.testing.assert_array_equal(saved["induction"], found["induction"])


def test_a_role_needs_its_threshold(constructed):
    _, _, loaded, found = constructed("plain")
    strict = fg.head_roles(loaded, thresholds={"copying": 4.0})
    assert strict.thresholds["copying"] == 4.0
    assert "copying" in found.roles
    assert "copying" not in strict.roles
    assert "induction" in strict.roles
    easy = fg.head_roles(loaded, thresholds={"sink": 0.0})
    assert len(easy.roles["sink"]) == 8


def test_a_role_near_its_threshold_says_so(tiny):
    found = fg.head_roles(tiny("gpt2"), sequences=2)
    scores = {name: replace(score, values=np.zeros_like(score.values)) for name, score in found.scores.items()}
    for place, value in (((0, 0), 0.46), ((0, 1), 0.54), ((1, 0), 0.44), ((1, 1), 0.56)):
        scores["induction"].values[place] = value
    scores["copying"].values[1, 2] = -2.1
    found = replace(found, scores=scores)
    heads = [fg.Node("head", layer=0, head=head) for head in (0, 1)]
    assert found.near == {"induction": tuple(heads), "negative_copying": (fg.Node("head", layer=1, head=2),)}
    assert found.table().note.endswith(
        "near the threshold of induction: L0H0 L0H1; near the threshold of negative_copying: L1H2"
    )
    assert replace(found, thresholds={**found.thresholds, "induction": 0.0}).near.keys() == {"negative_copying"}


def test_what_is_not_defined_has_a_reason(tiny):
    found = fg.head_roles(tiny("gpt2"))
    assert set(found.undefined) == {"answer", "importance", "ablation_effect"}
    with pytest.raises(ArgumentError, match="give data="):
        _ = found["importance"]
    with pytest.raises(ArgumentError, match="there is no such score"):
        _ = found["charm"]
    nowhere = fg.head_roles(tiny("gpt2"), DATA[1:2])
    assert "stands in no prompt" in nowhere.undefined["answer"]
    post_norm = fg.head_roles(tiny("opt_post_norm"))
    assert "no term of a logit" in post_norm.undefined["copying"]
    assert "copying" not in post_norm.scores


def test_progress_and_cancel(tiny):
    seen = []
    fg.head_roles(tiny("gpt2"), DATA, progress=lambda stage, part: seen.append(part))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    with pytest.raises(CancelledError):
        fg.head_roles(tiny("gpt2"), DATA, cancel=lambda: True)
    assert not any(module._forward_pre_hooks for module in tiny("gpt2").model.modules())


def test_bad_input(tiny):
    loaded = tiny("gpt2")
    with pytest.raises(ArgumentError, match="sees later tokens"):
        fg.head_roles(tiny("bert"))
    with pytest.raises(ArgumentError, match="sequences=0"):
        fg.head_roles(loaded, sequences=0)
    with pytest.raises(ArgumentError, match="thresholds names 'charm'"):
        fg.head_roles(loaded, thresholds={"charm": 0.5})
    with pytest.raises(ArgumentError, match="must be 0 or more"):
        fg.head_roles(loaded, thresholds={"sink": -1.0})
    with pytest.raises(ArgumentError, match="has no examples"):
        fg.head_roles(loaded, [])


@pytest.mark.real_model
def test_a_real_model(smollm2):
    found = fg.head_roles(smollm2)
    assert str(found.roles["previous_token"][0]) == "L16H0"
    assert str(found.roles["induction"][0]) == "L18H6"
    assert found["copying"].min() < -3 < 3 < found["copying"].max()
