"""Classifiers: their classes are read, explained and changed; parts add up to the number of a class, through any head."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import flowgraph as fg
from flowgraph.errors import ArgumentError, NonFiniteError, TargetError, UnsupportedReadingError
from flowgraph.models.eager import eager_attention
from tests.tiny_media import tiny, values
from tests.tiny_models import tiny_model

LABELS = {0: "BAD", 1: "GOOD", 2: "UNSURE"}
IDS = [20, 31, 42, 53, 64]
LONG = [5 + 7 * n % 50 for n in range(40)]
_PLAIN: dict[str, Any] = {
    "vocab_size": 70, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 64, "pad_token_id": 0, "id2label": LABELS, "label2id": {name: n for n, name in LABELS.items()},
}  # fmt: skip
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {"pad_token_id": 1}),
    "distilbert": ("DistilBert", {"dim": 24, "hidden_dim": 40, "n_layers": 2, "n_heads": 3}),
    "electra": ("Electra", {"embedding_size": 16}),
    "albert": ("Albert", {"embedding_size": 16}),
    "modernbert": ("ModernBert", {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}),
    "prelayernorm": ("RobertaPreLayerNorm", {"pad_token_id": 1}),
    "gpt2": ("GPT2", {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}),
    "gpt2_no_padding": ("GPT2", {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 64, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}),
    "llama": ("Llama", {"num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 3, "bos_token_id": 1, "eos_token_id": 2}),
}  # fmt: skip
LINEAR = ("gpt2", "gpt2_no_padding", "llama", "qwen2")
WHOLE = ("bert", "roberta", "distilbert", "electra", "albert", "modernbert", "prelayernorm")
_LAST = LINEAR
MEDIA = (
    "vit",
    "deit",
    "beit",
    "dinov2",
    "dinov2_registers",
    "clip",
    "siglip",
    "wav2vec2",
    "wav2vec2_stable",
    "hubert",
    "ast",
)
AT_ONE_PLACE = ("vit", "deit")
AFFINE = ("vit", "deit", "dinov2", "dinov2_registers", "clip", "siglip", "wav2vec2_stable")
NOT_AFFINE = ("beit", "wav2vec2", "hubert", "ast")


def text_model(name: str, **settings: Any) -> nn.Module:
    prefix, own = TEXTS[name]
    config = getattr(transformers, f"{prefix}Config")(**_PLAIN | own | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = getattr(transformers, f"{prefix}ForSequenceClassification")(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn_like(parameter))
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    return model


def media_model(name: str) -> nn.Module:
    head = {"wav2vec2": "ForSequenceClassification", "wav2vec2_stable": "ForSequenceClassification",
            "hubert": "ForSequenceClassification", "ast": "ForAudioClassification"}.get(name, "ForImageClassification")  # fmt: skip
    settings = {"id2label": LABELS, "label2id": _PLAIN["label2id"]}
    if name in ("clip", "siglip"):
        from tests.tiny_media import SETTINGS

        whole = {"clip": "CLIP", "siglip": "Siglip"}[name]
        config = getattr(transformers, f"{whole}Config")(vision_config=SETTINGS[name][1], **settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = getattr(transformers, f"{whole}ForImageClassification")(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return model
    return tiny(name, head, **settings)


@cache
def loaded_of(name: str) -> fg.LoadedModel:
    return fg.load_model(media_model(name) if name in MEDIA else text_model(name))


def given(name: str, seed: int = 1) -> fg.Inputs:
    if name not in MEDIA:
        return fg.inputs(ids=IDS)
    found = values(name, seed=seed)
    return (
        fg.inputs(audio=found) if name in ("wav2vec2", "wav2vec2_stable", "hubert", "ast") else fg.inputs(image=found)
    )


@cache
def trace_of(name: str) -> fg.Trace:
    return fg.trace(loaded_of(name), given(name), target="GOOD")


def own_logits(loaded: fg.LoadedModel, inputs: fg.Inputs) -> torch.Tensor:
    feed = inputs.of(loaded).rows[0].feed(loaded)
    with torch.no_grad(), eager_attention(loaded.model):
        return loaded.model(**feed).logits[0]


@pytest.mark.parametrize("name", [*TEXTS, *MEDIA])
def test_classes_are_read(name):
    loaded = loaded_of(name)
    assert loaded.level == "full"
    assert max(loaded.proof.values()) < 1e-5, loaded.proof
    assert "the head behind the last states = logits of the classes" in loaded.proof
    trace = trace_of(name)
    torch.testing.assert_close(trace.logits, own_logits(loaded, given(name)), rtol=1e-5, atol=1e-6)
    assert (trace.target, trace.target_token, trace.classes) == (1, "GOOD", tuple(LABELS.values()))
    table = trace.predictions()
    assert sorted(table.columns["token"]) == sorted(LABELS.values())
    assert sum(table.columns["probability"]) == pytest.approx(1.0)
    best = int(trace.logits.argmax())
    assert fg.trace(loaded, given(name)).target_token == LABELS[best] == table.columns["token"][0]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("ids", [[33], IDS, LONG])
def test_texts_of_other_lengths(name, ids):
    loaded = loaded_of(name)
    trace = fg.trace(loaded, ids)
    torch.testing.assert_close(trace.logits, own_logits(loaded, fg.inputs(ids=ids)), rtol=1e-5, atol=1e-6)
    assert trace.position == (len(ids) - 1 if name in _LAST else 0)
    # The last state, read by itself at its position, gives the classes.
    torch.testing.assert_close(
        fg.unembed(trace, trace.resid_post[-1, trace.position]), trace.logits, rtol=1e-4, atol=1e-5
    )
    assert fg.integrated_attribution(trace).completeness_error < 1e-4


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "modernbert"])
def test_a_folder_opens_as_the_model_in_memory(name, tmp_path):
    text_model(name).save_pretrained(tmp_path)
    again = fg.load_model(tmp_path)
    assert (again.level, again.anatomy.readout.labels) == ("full", tuple(LABELS.values()))
    torch.testing.assert_close(fg.trace(again, IDS).logits, fg.trace(loaded_of(name), IDS).logits)


# Direct and integrated attribution


@pytest.mark.parametrize("name", [*LINEAR, *AFFINE])
@pytest.mark.parametrize("foil", [None, "BAD"])
def test_on_a_linear_head_integrated_is_direct(name, foil):
    direct = fg.direct_logit_attribution(trace_of(name), foil=foil)
    integrated = fg.integrated_attribution(trace_of(name), foil=foil)
    assert direct.completeness_error < 1e-5
    assert integrated.completeness_error < 1e-5
    for field in ("heads_by_source", "mlps", "neurons"):
        np.testing.assert_allclose(getattr(integrated, field), getattr(direct, field), atol=2e-5, rtol=1e-4)
    assert integrated.embedding == pytest.approx(direct.embedding, abs=2e-5)
    logits = trace_of(name).logits
    assert direct.logit == pytest.approx(float(logits[1] - (logits[0] if foil else 0)), abs=1e-6)
    assert direct.is_pooled == (name in AFFINE and name not in AT_ONE_PLACE)
    assert "integrated at 32 points" in repr(integrated)
    assert "integrated" not in repr(direct)


@pytest.mark.parametrize("name", [*WHOLE, *NOT_AFFINE])
def test_a_head_that_is_not_linear_is_integrated(name):
    trace = trace_of(name)
    with pytest.raises(UnsupportedReadingError, match="integrated_attribution"):
        fg.direct_logit_attribution(trace)
    parts = fg.integrated_attribution(trace, foil="UNSURE")
    assert parts.completeness_error < 1e-4
    assert parts.total == pytest.approx(float(trace.logits[1] - trace.logits[2]), abs=1e-4)
    np.testing.assert_allclose(parts.heads_by_source.sum(-1), parts.heads, rtol=1e-5, atol=1e-7)
    # Few points give the same parts, on more pieces of the line.
    np.testing.assert_allclose(fg.integrated_attribution(trace, foil="UNSURE", points=8).heads, parts.heads, atol=2e-3)
    assert sum(parts.table().columns["logits"]) == pytest.approx(parts.total, abs=1e-5)
    assert len(parts.chart(5).columns[0].bars) > 0


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "distilbert"])
def test_masked_heads_are_integrated(name):
    if name == "modernbert":
        config = transformers.ModernBertConfig(
            **{k: v for k, v in (_PLAIN | TEXTS[name][1]).items() if "label" not in k}
        )
        model: Any = transformers.ModernBertForMaskedLM(config).eval()
    else:
        model = tiny_model(name)
    loaded = fg.load_model(model)
    trace = fg.trace(loaded, [5, 6, 7, 8, 9], position=2)
    parts = fg.integrated_attribution(trace)
    assert parts.completeness_error < 1e-4
    assert parts.position == 2
    with pytest.raises(UnsupportedReadingError, match="integrated_attribution"):
        fg.direct_logit_attribution(trace)


def test_a_language_model_s_own_attribution_is_integrated_too():
    trace = fg.trace(fg.load_model(tiny_model("gpt2")), [5, 6, 7])
    direct, integrated = fg.direct_logit_attribution(trace), fg.integrated_attribution(trace)
    np.testing.assert_allclose(integrated.heads_by_source, direct.heads_by_source, atol=1e-5)
    assert integrated.completeness_error < 1e-5


def plant(model: Any) -> None:
    """Let blocks write nothing but head 2 of layer 1, before a head with a dense layer and tanh."""
    with torch.no_grad():
        for layer, block in enumerate(model.roberta_prelayernorm.encoder.layer):
            output = block.attention.output.dense
            output.bias.zero_()
            if layer == 1:
                output.weight[:, :16] = 0
            else:
                output.weight.zero_()
            block.output.dense.weight.zero_()
            block.output.dense.bias.zero_()


def test_a_planted_head_has_everything_but_the_embedding():
    loaded = fg.load_model(text_model("prelayernorm"))
    plant(loaded.model)
    trace = fg.trace(loaded, IDS, target="GOOD")
    parts = fg.integrated_attribution(trace, foil="BAD")
    others = np.delete(parts.heads.ravel(), 5)
    np.testing.assert_allclose(others, 0, atol=1e-9)
    np.testing.assert_allclose(parts.mlps, 0, atol=1e-9)
    head = parts.heads[1, 2]
    assert abs(head) > 1e-2
    # The same by a plain sum over many steps, from the model's own modules.
    model, at = loaded.model, 0
    norm = model.roberta_prelayernorm.LayerNorm
    state = trace.resid_post[-1, at].double()
    written = trace.attn_out[1, at].double()
    norm, classifier = norm.double(), model.classifier.double()
    try:
        centred = state - state.mean()
        scale = (centred.square().mean() + norm.eps).sqrt()
        end = centred / scale * norm.weight
        part = (written - written.mean()) / scale * norm.weight
        total = torch.zeros((), dtype=torch.float64)
        steps = 4000
        for n in range(steps):
            x = ((n + 0.5) / steps * end + norm.bias).detach().requires_grad_()
            scores = classifier(x[None, None])[0]
            (slope,) = torch.autograd.grad(scores[1] - scores[0], x)
            total += slope @ part / steps
    finally:
        model.float()
    assert head == pytest.approx(float(total), rel=1e-4)
    assert head + parts.embedding + sum(parts.biases.values()) == pytest.approx(parts.logit, abs=1e-5)


def test_a_pooled_class_is_the_sum_over_positions():
    loaded, trace = loaded_of("wav2vec2_stable"), trace_of("wav2vec2_stable")
    parts = fg.direct_logit_attribution(trace)
    model = loaded.model
    # What one MLP wrote, through the frozen norm, projector, mean and classifier.
    norm, states = loaded.anatomy.readout.norm, trace.resid_post[-1]
    for layer in range(2):
        written = norm.linear(trace.mlp_out[layer] - loaded.anatomy.blocks[layer].mlp_output.bias, norm.scale(states))
        by_hand = (written @ model.projector.weight.T).mean(0) @ model.classifier.weight[1]
        assert parts.mlps[layer] == pytest.approx(float(by_hand.detach()), abs=1e-5)


@pytest.mark.parametrize(
    ("dtype", "proof", "parts"),
    [(torch.float16, 5e-3, 1e-2), (torch.bfloat16, 5e-2, 5e-2), (torch.float64, 1e-6, 1e-4)],
)
@pytest.mark.parametrize("name", ["bert", "llama", "modernbert", "vit", "dinov2", "wav2vec2_stable", "ast"])
def test_other_number_types(name, dtype, proof, parts):
    loaded = fg.load_model(media_model(name) if name in MEDIA else text_model(name), dtype=dtype)
    assert loaded.level == "full"
    assert max(loaded.proof.values()) < proof
    assert fg.integrated_attribution(fg.trace(loaded, given(name))).completeness_error < parts


def test_a_slope_that_half_precision_cannot_hold_is_refused():
    trace = fg.trace(fg.load_model(media_model("beit"), dtype=torch.float16), given("beit"))
    with pytest.raises(NonFiniteError, match="float32"):
        fg.integrated_attribution(trace)


def test_hooks_on_a_classifier_are_proved_again():
    model = text_model("bert")
    loaded = fg.load_model(model)
    before = fg.trace(loaded, IDS).logits
    handle = model.classifier.register_forward_hook(lambda _module, _args, output: output + 1)
    try:
        trace = fg.trace(loaded, IDS)
        torch.testing.assert_close(trace.logits, before + 1)
        assert fg.integrated_attribution(trace).completeness_error < 1e-4
    finally:
        handle.remove()
    torch.testing.assert_close(fg.trace(loaded, IDS).logits, before)
    assert not any("forward" in vars(module) for module in model.modules())


# Targets and positions


def test_targets_are_names_of_classes():
    loaded = loaded_of("bert")
    assert fg.trace(loaded, IDS, target="UNSURE").target == 2
    assert fg.trace(loaded, IDS, target=0, foil="GOOD").foil_token == "GOOD"
    assert trace_of("bert").aimed_at("BAD").target == 0
    with pytest.raises(TargetError, match=r"is no class of this model; its classes are 'BAD', 'GOOD', 'UNSURE'"):
        fg.trace(loaded, IDS, target="AWFUL")
    with pytest.raises(TargetError, match="ids run from 0 to 2"):
        fg.trace(loaded, IDS, target=3)
    with pytest.raises(TargetError, match="is the target itself"):
        fg.trace(loaded, IDS, target="GOOD", foil="GOOD")


def test_two_classes_of_one_name_are_said():
    loaded = fg.load_model(text_model("bert", id2label={0: "A", 1: "A"}, label2id={"A": 0}))
    with pytest.raises(TargetError, match="several classes"):
        fg.trace(loaded, IDS, target="A")
    assert fg.trace(loaded, IDS, target=1).target_token == "A"


def test_the_position_is_the_one_that_is_read():
    with pytest.raises(ArgumentError, match="reads its classes at position 0 alone"):
        fg.trace(loaded_of("bert"), IDS, position=2)
    with pytest.raises(ArgumentError, match="reads its classes at position 4 alone"):
        fg.trace(loaded_of("llama"), IDS, position=0)
    assert fg.trace(loaded_of("llama"), IDS, position=-1).position == 4
    assert fg.trace(loaded_of("dinov2"), given("dinov2"), position=3).position == 3


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_at_the_end_is_passed_over_as_the_model_does(name):
    loaded, ids = loaded_of(name), [*IDS, 0, 0]
    trace = fg.trace(loaded, ids)
    assert trace.position == len(IDS) - 1
    torch.testing.assert_close(trace.logits, own_logits(loaded, fg.inputs(ids=ids)), rtol=1e-5, atol=1e-6)
    assert fg.direct_logit_attribution(trace).completeness_error < 1e-5


@pytest.mark.parametrize("kind", ["Bert", "Llama", "ModernBert"])
def test_classes_of_each_token(kind):
    own = TEXTS[kind.lower()][1]
    torch.manual_seed(2)
    model = getattr(transformers, f"{kind}ForTokenClassification")(
        getattr(transformers, f"{kind}Config")(**_PLAIN | own)
    ).eval()
    loaded = fg.load_model(model)
    if kind == "ModernBert":  # a dense layer lies between
        assert loaded.level == "stream"
        return
    assert (loaded.level, loaded.anatomy.readout) == ("full", None)
    trace = fg.trace(loaded, IDS, position=1, target="GOOD")
    torch.testing.assert_close(trace.logits, own_logits(loaded, fg.inputs(ids=IDS))[1], rtol=1e-5, atol=1e-6)
    assert (trace.target, trace.classes) == (1, tuple(LABELS.values()))
    assert fg.integrated_attribution(trace).completeness_error < 1e-5
    if kind == "Llama":
        assert fg.direct_logit_attribution(trace, position=1).completeness_error < 1e-5
    effect = fg.ablate(loaded, trace, fg.Node("mlp", 1))
    assert float(effect.after[0]) != float(effect.before[0])


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2_stable", "hubert"])
def test_letters_of_a_sound(name):
    loaded = fg.load_model(tiny(name, "ForCTC"))
    assert loaded.level == "full"
    trace = fg.trace(loaded, given(name), position=3, target=5)
    torch.testing.assert_close(trace.logits, own_logits(loaded, given(name))[3], rtol=1e-5, atol=1e-6)
    assert (trace.target_token, len(trace.predictions(12))) == ("#5", 12)
    assert fg.integrated_attribution(trace).completeness_error < 1e-5
    if name == "wav2vec2_stable":
        assert fg.direct_logit_attribution(trace, position=3).completeness_error < 1e-5


def test_heads_of_other_tasks_stay_unread():
    config = transformers.BertConfig(**{name: value for name, value in _PLAIN.items() if "label" not in name})
    with pytest.warns(UserWarning, match="is not read"):
        loaded = fg.load_model(transformers.BertForQuestionAnswering(config).eval())
    assert loaded.level == "stream"
    assert loaded.anatomy.readout is None


# What is made of traces


@pytest.mark.parametrize("name", ["bert", "llama", "vit", "dinov2", "ast"])
def test_results_speak_of_classes(name, tmp_path):
    trace = trace_of(name)
    reading = fg.logit_lens(trace)
    tops = reading[-1, trace.position].top
    assert {tops[0][0]} <= set(LABELS.values())
    graph = fg.build_graph(trace, method="proximity")
    assert fg.mass(graph) == pytest.approx(1.0)
    assert fg.picture(trace).info.target == "GOOD" or "GOOD" in repr(fg.picture(trace).info)
    assert fg.trajectory(trace) is not None
    recorded = trace.record(methods=["norms"], readings=["resid_post"])
    again = fg.Trace.load(recorded.save(tmp_path / "trace.safetensors"))
    assert (again.classes, again.target_token) == (tuple(LABELS.values()), "GOOD")
    assert fg.Trace.load(again.save(tmp_path / "twice.safetensors")).classes == again.classes
    assert again.attach(loaded_of(name)).predictions().columns["token"]


def test_several_positions_are_refused_where_one_is_explained():
    trace = trace_of("dinov2")
    for refused in (
        lambda: fg.alti_logit(trace),
        lambda: fg.edge_weights(trace, method="logits"),
        lambda: fg.ablate(trace.model, trace.inputs, fg.Node("head", 0, 0)),
    ):
        with pytest.raises(UnsupportedReadingError, match="several"):
            refused()


# Changes


@pytest.mark.parametrize("name", AT_ONE_PLACE)
def test_images_are_changed_as_texts_are(name):
    loaded, one, other = loaded_of(name), given(name), given(name, seed=2)
    effect = fg.ablate(loaded, one, fg.Node("mlp", 0), target="GOOD", foil="BAD")
    module = loaded.anatomy.blocks[0].mlp
    handle = module.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
    try:
        changed = own_logits(loaded, one)
    finally:
        handle.remove()
    bare = own_logits(loaded, one)
    assert float(effect.before[0]) == pytest.approx(float(bare[1] - bare[0]), abs=1e-5)
    assert float(effect.after[0]) == pytest.approx(float(changed[1] - changed[0]), abs=1e-5)
    several = fg.ablate(loaded, [trace_of(name), fg.trace(loaded, other)], fg.Node("mlp", 0), target="GOOD", foil="BAD")
    assert several.after[0] == pytest.approx(effect.after[0], abs=1e-5)
    assert several.after[1] != pytest.approx(effect.after[0], abs=1e-3)
    swept = fg.head_effects(loaded, one, target="GOOD", foil="BAD")
    head = fg.ablate(loaded, one, fg.Node("head", 1, 2), target="GOOD", foil="BAD")
    assert swept.effects[1, 2] == pytest.approx(float(head.after[0] - head.before[0]), abs=1e-5)
    # All of the other image's state before a block makes the rest the other image's.
    patched = fg.patch(loaded, one, other, fg.Node("resid_pre", 1), target="GOOD", foil="BAD")
    ends = [float(x[1] - x[0]) for x in (bare, own_logits(loaded, other))]
    assert min(abs(float(patched.after[0]) - end) for end in ends) < 1e-5
    assert abs(ends[0] - ends[1]) > 1e-3


def test_edges_and_gradients_of_images():
    loaded = loaded_of("vit")
    assert fg.edge_scores(loaded, given("vit"), given("vit", seed=2), target="GOOD") is not None
    assert fg.gradients(loaded, given("vit"), target="GOOD") is not None


@pytest.mark.parametrize("name", TEXTS)
def test_ablation_gives_the_model_s_own_classes(name):
    loaded = loaded_of(name)
    effect = fg.ablate(loaded, IDS, fg.Node("mlp", 1), target="GOOD", foil="BAD", metric=fg.logit_difference)
    block = loaded.anatomy.blocks[1]
    module = block.mlp
    bare = own_logits(loaded, fg.inputs(ids=IDS))
    count = 0

    def zero(_module, _args, output):
        nonlocal count
        count += 1
        # A block that runs twice is changed in its second run alone.
        is_meant = block.turns is None or count == 2
        return torch.zeros_like(output) if is_meant else output

    handle = module.register_forward_hook(zero)
    try:
        changed = own_logits(loaded, fg.inputs(ids=IDS))
    finally:
        handle.remove()
    assert float(effect.before[0]) == pytest.approx(float(bare[1] - bare[0]), abs=1e-5)
    assert float(effect.after[0]) == pytest.approx(float(changed[1] - changed[0]), abs=1e-5)


@pytest.mark.parametrize("name", ["bert", "modernbert", "gpt2", "llama"])
def test_patching_a_whole_state_gives_the_other_text_s_classes(name):
    loaded, other = loaded_of(name), [20, 31, 43, 53, 65]
    at = trace_of(name).position
    effect = fg.patch(loaded, IDS, other, fg.Node("resid_post", 1, position=at), target="GOOD", foil="BAD")

    ends = [
        float(x[1] - x[0]) for x in (own_logits(loaded, fg.inputs(ids=IDS)), own_logits(loaded, fg.inputs(ids=other)))
    ]
    after = float(effect.after[0])
    assert min(abs(after - end) for end in ends) < 1e-5
    assert abs(ends[0] - ends[1]) > 1e-3


def test_heads_are_swept_with_a_class_as_the_answer():
    found = fg.head_effects(loaded_of("bert"), IDS, target="GOOD")
    one = fg.ablate(loaded_of("bert"), IDS, fg.Node("head", 1, 2), target="GOOD")
    assert float(found.effects[1, 2]) == pytest.approx(float(one.after[0] - one.before[0]), abs=1e-5)
