"""A model that is changed after it was loaded or traced: nothing is computed of two models at once, and what changed is said."""

from __future__ import annotations

import copy
import hashlib
import json

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import flowgraph as fg
from flowgraph.errors import ArchitectureError, ArgumentError, ModelMismatchError, ModelNeededError, TargetError
from flowgraph.models.weights import Weights
from tests.tiny_models import tiny_model

IDS = [5, 9, 13, 17]


def _doubled(model):
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(2)


def _written_through_data(model):
    model.model.layers[0].self_attn.o_proj.weight.data.add_(0.5)


def _replaced(model):
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))


def _loaded(model):
    model.load_state_dict({name: value + 0.25 for name, value in model.state_dict().items()})


def _trained(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor([IDS])).logits.square().mean().backward()
    optimizer.step()


USES = {
    "lens": lambda trace: fg.logit_lens(trace),
    "read": lambda trace: fg.read(trace, trace.resid_post),
    "attribution": lambda trace: fg.direct_logit_attribution(trace),
    "graph": lambda trace: fg.build_graph(trace, method="norms"),
    "heads": lambda trace: fg.head_scores(trace),
    "semantic": lambda trace: fg.semantic_graph(trace),
    "ablate": lambda trace: fg.ablate(trace.loaded, trace, fg.Node("head", layer=0, head=0)),
    "predictions": lambda trace: trace.predictions(),
}


@pytest.mark.parametrize("change", [_doubled, _written_through_data, _replaced, _loaded, _trained])
def test_a_trace_of_other_weights_is_refused(change):
    model, _ = tiny_model("llama")
    loaded = fg.load_model(model)
    trace = fg.trace(loaded, IDS)
    for use in USES.values():
        use(trace)
    before = copy.deepcopy(model.state_dict())
    change(model)
    for name, use in USES.items():
        with pytest.raises(ModelMismatchError, match=r"changed after this trace was made|differ from"):
            pytest.fail(f"{name} gave {use(trace)!r}")
    fg.logit_lens(fg.trace(loaded, IDS))
    model.load_state_dict(before)
    for use in USES.values():
        use(trace)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_digest_is_that_of_a_loop_over_the_parameters(dtype):
    model, _ = tiny_model("gemma2", dtype)
    # Not contiguous, of another type, and empty.
    model.model.norm.weight = torch.nn.Parameter(torch.randn(32, 2, dtype=torch.float64)[:, 0])
    model.odd = torch.nn.Parameter(torch.randn(7, 11).T)
    model.empty = torch.nn.Parameter(torch.zeros(0))
    naive = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        count = min(64, len(flat))
        places = np.arange(count) * (len(flat) - 1) // max(1, count - 1)
        naive.update(f"{name}{tuple(parameter.shape)}".encode())
        naive.update(flat[places].float().numpy().tobytes())
    weights = Weights(model)
    assert weights.digest() == naive.hexdigest() == weights.digest() == Weights(model).digest()


def test_attention_that_is_switched_is_compared_again(recwarn):
    def planted(module, query, key, value, *arguments, **options):
        output, weights = transformers.integrations.sdpa_attention.sdpa_attention_forward(
            module, query, key, value, *arguments, **options
        )
        return output * 1.5, weights

    ALL_ATTENTION_FUNCTIONS.register("planted", planted)
    model, _ = tiny_model("llama")
    model.set_attn_implementation("sdpa")
    loaded = fg.load_model(model)
    fg.trace(loaded, IDS)
    assert not [w for w in recwarn if "answers differently" in str(w.message)]
    model.set_attn_implementation("planted")
    with pytest.warns(UserWarning, match="answers differently under its own attention 'planted'"):
        fg.trace(loaded, IDS)
    assert loaded.own_attention.differs
    assert "'planted' differ by" in repr(loaded)
    recwarn.clear()
    fg.trace(loaded, IDS)
    assert not [w for w in recwarn if "answers differently" in str(w.message)]
    model.set_attn_implementation("eager")
    fg.trace(loaded, IDS)
    assert not loaded.own_attention.differs


def test_a_foil_that_is_the_target_is_refused(tiny):
    loaded = tiny("llama")
    trace = fg.trace(loaded, IDS)
    best, other = trace.target, (trace.target + 1) % 100
    same = "foil='.+' is the target itself|is the model's best token"
    for call in (
        lambda: fg.trace(loaded, IDS, target=other, foil=other),
        lambda: fg.trace(loaded, IDS, foil=best),
        lambda: fg.read(trace, trace.resid_post, foil=best),
        lambda: fg.direct_logit_attribution(trace, foil=best),
        lambda: fg.direct_logit_attribution(trace, other, other),
        lambda: fg.trajectory(trace, foil=best),
        lambda: fg.semantic_graph(trace, foil=best),
        lambda: fg.alti_logit(trace, foil=best),
        lambda: fg.ablate(loaded, IDS, fg.Node("head", layer=0, head=0), foil=best),
        lambda: fg.ablate(loaded, trace, fg.Node("head", layer=0, head=0), foil=best),
        lambda: fg.patch(loaded, IDS, [5, 9, 13, 18], fg.Node("head", layer=0, head=0), foil=best),
        lambda: fg.head_effects(loaded, IDS, [5, 9, 13, 18], foil=best),
        lambda: fg.edge_scores(loaded, IDS, [5, 9, 13, 18], foil=best),
        lambda: fg.gradients(loaded, IDS, foil=best),
        lambda: fg.discover(loaded, clean=[IDS], corrupted=[[5, 9, 13, 18]], foil=best, method="eap"),
    ):
        with pytest.raises(TargetError, match=same):
            pytest.fail(repr(call()))
    assert fg.trace(loaded, IDS, foil=other).foil == other


def test_options_that_say_the_default_use_what_is_recorded(traces, tmp_path):
    trace = traces("llama").record(methods=("proximity", "ff"))
    path = trace.save(tmp_path / "t.safetensors")
    alone = fg.Trace.load(path)
    for options in ({}, {"parts": "head"}):
        assert fg.edge_weights(alone, method="proximity", **options) is alone.recorded_weights["proximity"]
    assert fg.edge_weights(alone, method="ff", sources=16) is alone.recorded_weights["ff"]
    with pytest.raises(ModelNeededError):
        fg.edge_weights(alone, method="proximity", parts="token")


def test_a_model_made_in_inference_mode_is_traced_and_has_no_gradients():
    with torch.inference_mode():
        model, _ = tiny_model("llama")
    usual, _ = tiny_model("llama")
    loaded, twin = fg.load_model(model), fg.load_model(usual)
    trace, expected = fg.trace(loaded, IDS), fg.trace(twin, IDS)
    assert torch.equal(trace.logits, expected.logits)
    for method in fg.EDGE_METHODS:
        assert len(fg.build_graph(trace, method=method)) == len(fg.build_graph(expected, method=method))
    with pytest.raises(ArgumentError, match=r"made inside torch\.inference_mode"):
        fg.gradients(loaded, IDS)
    with pytest.raises(ArgumentError, match=r"made inside torch\.inference_mode"):
        fg.edge_scores(loaded, IDS, [5, 9, 13, 18])
    with torch.inference_mode():
        model.lm_head.weight.mul_(3)
    with pytest.raises(ModelMismatchError):
        fg.logit_lens(trace)


def test_a_compiled_model_is_the_one_it_was_made_of():
    model, _ = tiny_model("llama")
    loaded = fg.load_model(torch.compile(model))
    assert loaded.model is model
    assert loaded.fingerprint() == fg.load_model(model).fingerprint()


@pytest.mark.parametrize("name", ["PreTrainedModel", "LlamaPreTrainedModel", "LlamaConfig", "AutoModel"])
def test_a_class_that_runs_nothing_is_named(name, tmp_path, capfd):
    model, _ = tiny_model("llama")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
    with pytest.raises(ArchitectureError, match=f"was saved as '{name}'.*no model class"):
        fg.load_model(tmp_path)
    capfd.readouterr()
    # The report of transformers is told in our words alone.
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaModel"]}))
    with pytest.raises(fg.FileFormatError, match=r"holds weights that LlamaModel.* does not use"):
        fg.load_model(tmp_path)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())
