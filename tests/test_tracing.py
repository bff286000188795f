"""What a trace keeps, says before it runs, refuses, and gives back."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch

import flowgraph
from flowgraph import Trace, TraceSites, trace, trace_size
from flowgraph.errors import (
    ArgumentError,
    FileFormatError,
    ModelMismatchError,
    ModelNeededError,
    NotRecordedError,
    PromptError,
    TargetError,
    UnsupportedReadingError,
)
from tests.conftest import JAPAN, MARY
from tests.tiny_models import CONTEXT, TINY, tiny_model

IDS = [20, 31, 42, 53, 64]


def small_sites(kept: Trace) -> int:
    """Bytes of what comes on top of the sites whose size is announced."""
    scales = [value for name, value in kept.sites.items() if name.startswith(("norm_scales", "rotary"))]
    further = [*scales, *kept.biases.values(), kept.logits, kept.position_embedding, kept.final_scale]
    return sum(t.untyped_storage().nbytes() for t in further if t is not None)


@pytest.mark.parametrize("name", TINY)
def test_the_announced_size_is_what_is_kept(tiny, name):
    kept = trace(tiny(name), IDS, position=-1)
    assert trace_size(tiny(name), IDS) == kept.nbytes - small_sites(kept)


@pytest.mark.parametrize(
    "sites",
    [{"pattern"}, {"resid_post"}, {"resid_pre"}, {"resid_pre", "resid_post"}, {"q"}, {"q", "q_proj"}, {"neurons", "z"}],
    ids=lambda sites: "+".join(sorted(sites)),
)
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_keep_stores_what_was_asked_for_and_nothing_else(tiny, name, sites):
    whole = trace(tiny(name), IDS)
    kept = trace(tiny(name), IDS, keep=sites)
    assert set(kept.sites) == sites
    assert trace_size(tiny(name), IDS, keep=sites) == kept.nbytes - small_sites(kept)
    for site in sites:
        assert torch.equal(kept.site(site), whole.site(site))
    with pytest.raises(NotRecordedError, match=r"does not hold 'mlp_out'.*keep="):
        _ = kept.mlp_out


@pytest.mark.parametrize("window", [(0, 1), (1, 2), (0, 2)])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "bert_headless"])
def test_a_window_of_layers(tiny, name, window):
    whole = trace(tiny(name), IDS, position=-1)
    kept = trace(tiny(name), IDS, position=-1, keep=TraceSites(layers=window))
    for site, value in kept.sites.items():
        assert torch.equal(value, whole.sites[site][window[0] : window[1]]), site
    for part, bias in kept.biases.items():
        assert torch.equal(bias, whole.biases[part][window[0] : window[1]]), part
    assert kept.layers == window
    assert trace_size(tiny(name), IDS, keep=TraceSites(layers=window)) == kept.nbytes - small_sites(kept)


def test_the_size_is_said_before_the_pass_runs(tiny, caplog):
    with caplog.at_level(logging.INFO, logger="flowgraph.tracing"):
        trace(tiny("llama"), IDS)
    assert f"{trace_size(tiny('llama'), IDS):,} bytes" in caplog.text


def test_a_trace_above_the_limit_is_refused_with_both_numbers(tiny):
    size = trace_size(tiny("llama"), IDS)
    with pytest.raises(ArgumentError, match=rf"keep {size:,} bytes, more than max_bytes={size - 1:,}"):
        trace(tiny("llama"), IDS, max_bytes=size - 1)
    assert trace(tiny("llama"), IDS, max_bytes=size).tokens


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"patern"}, "unknown sites patern"),
        (TraceSites(layers=(1, 1)), "not a window"),
        (TraceSites(layers=(0, 9)), "within 0…2"),
    ],
)
def test_bad_keep(tiny, keep, message):
    with pytest.raises(ArgumentError, match=message):
        trace(tiny("llama"), IDS, keep=keep)


@pytest.mark.parametrize("position", [0, 2, -1, -5])
def test_position(tiny, position):
    everywhere = trace(tiny("gpt2"), IDS, logits="all")
    at = trace(tiny("gpt2"), IDS, position=position)
    assert at.position == position % len(IDS)
    torch.testing.assert_close(at.logits, everywhere.logits[position])
    assert at.target == int(everywhere.logits[position].argmax())


@pytest.mark.parametrize("position", [5, -6])
def test_position_outside_the_prompt(tiny, position):
    with pytest.raises(ArgumentError, match="outside the prompt of 5 tokens"):
        trace(tiny("gpt2"), IDS, position=position)


def test_masked_models_explain_their_first_mask(tiny):
    loaded = tiny("bert")
    mask = loaded.tokenizer.mask_token_id
    assert trace(loaded, [30, mask, 31, mask]).position == 1
    assert trace(loaded, [30, mask, 31, mask], position=-1).position == 3
    with pytest.raises(PromptError, match=r"no '\[MASK\]'; put '\[MASK\]' where"):
        trace(loaded, [30, 31])


def test_targets(tiny):
    loaded = tiny("gpt2")
    word = loaded.vocabulary.string(60)
    by_id = trace(loaded, IDS, target=60, foil=61)
    by_string = trace(loaded, IDS, target=word, foil=loaded.vocabulary.string(61))
    assert (by_id.target, by_id.foil) == (by_string.target, by_string.foil) == (60, 61)
    assert by_id.target_token == word
    with pytest.raises(TargetError, match=r"target='.*' is \d+ tokens of this model: .*to take the first, say target="):
        trace(loaded, IDS, target=word + " zebra crossing")
    with pytest.raises(TargetError, match="foil=100000 is not a token id of this model; ids run from 0 to"):
        trace(loaded, IDS, foil=100000)


def test_models_without_a_head_refuse_targets_and_readings(tiny):
    loaded = tiny("bert_headless")
    with pytest.raises(UnsupportedReadingError, match="no head over a vocabulary, so target=3 has no meaning"):
        trace(loaded, IDS, target=3)
    kept = trace(loaded, IDS)
    assert kept.logits is None
    assert kept.target is None
    for ask in (flowgraph.logit_lens, flowgraph.direct_logit_attribution):
        with pytest.raises(UnsupportedReadingError, match="no head over a vocabulary"):
            ask(kept)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([], "no tokens"),
        ([5, 10**6], r"token id 1000000 is not in this model's vocabulary; ids run from 0 to"),
        ([-1], "token id -1"),
        ([7] * (CONTEXT + 1), rf"has {CONTEXT + 1} tokens; 'LlamaForCausalLM' takes at most {CONTEXT}"),
    ],
)
def test_bad_prompts(tiny, prompt, message):
    with pytest.raises(PromptError, match=message):
        trace(tiny("llama"), prompt)


@pytest.mark.parametrize("name", ["gpt2", "llama", "roberta"])
def test_the_longest_prompt_works(tiny, name):
    loaded = tiny(name)
    assert len(trace(loaded, [9] * loaded.anatomy.context, position=-1).tokens) == loaded.anatomy.context


def test_ids_may_be_tensors(tiny):
    assert trace(tiny("llama"), torch.tensor([IDS])).token_ids == tuple(IDS)


def test_a_prompt_as_text_needs_a_tokenizer():
    model, _ = tiny_model("gpt2")
    loaded = flowgraph.load_model(model)
    assert trace(loaded, IDS).tokens == tuple(f"#{i}" for i in IDS)
    with pytest.raises(PromptError, match="this model has no tokenizer"):
        trace(loaded, "text")


def test_a_trace_is_frozen(tiny):
    kept = trace(tiny("gpt2"), IDS)
    with pytest.raises(AttributeError):
        kept.position = 3


@pytest.mark.parametrize("name", TINY)
def test_round_trip_through_a_file(tiny, name, tmp_path):
    kept = trace(tiny(name), IDS, position=-1)
    methods = ("attention",) if kept.target is None or not _has_attribution(tiny(name)) else ("attention", "logits")
    readings = () if kept.target is None else ("resid_pre", "resid_post", "mlp_out", "head_out")
    kept = kept.record(methods=methods, readings=readings, k=4)
    back = Trace.load(kept.save(tmp_path / "kept.safetensors"))
    assert back.nbytes == kept.nbytes
    assert set(back.sites) == set(kept.sites)
    for site, value in kept.sites.items():
        assert torch.equal(back.sites[site], value), site
    for field in ("tokens", "token_ids", "position", "target", "target_token", "wiring", "fingerprint", "layers"):
        assert getattr(back, field) == getattr(kept, field)
    for method in methods:
        before = flowgraph.build_graph(kept, method=method, readings=False)
        after = flowgraph.build_graph(back, method=method, readings=False)
        assert before.nodes == after.nodes
        assert (before.weight == after.weight).all()
        assert before.info == after.info
    for site in readings:
        assert back.recorded_readings[site].top_tokens == kept.recorded_readings[site].top_tokens
        assert (back.recorded_readings[site].target_rank == kept.recorded_readings[site].target_rank).all()


def _has_attribution(loaded) -> bool:
    return loaded.anatomy.family.head_kind == "linear" and loaded.anatomy.wiring != "post_norm"


def test_a_loaded_trace_answers_what_was_recorded_and_asks_for_its_model(tiny, tmp_path):
    kept = trace(tiny("llama"), IDS).record(methods=("attention", "logits"), readings=("resid_post",))
    back = Trace.load(kept.save(tmp_path / "kept.safetensors"))
    assert flowgraph.logit_lens(back)[-1, -1].top[0] == flowgraph.logit_lens(kept)[-1, -1].top[0]
    node = flowgraph.Node("resid_post", layer=1, position=4)
    with pytest.raises(ModelNeededError, match=r"method='proximity' needs one; recorded with it were '"):
        flowgraph.build_graph(back)
    graph = flowgraph.build_graph(back, method="attention")
    assert graph.readings[graph.nodes.index(node)].top[0][0] == kept.recorded_readings["resid_post"].top_tokens[-1][0]
    for ask in (
        lambda: flowgraph.direct_logit_attribution(back),
        lambda: flowgraph.read(back, back.resid_post[0]),
        lambda: flowgraph.logit_lens(back, site="mlp_out"),
    ):
        with pytest.raises(ModelNeededError, match="attach"):
            ask()
    with pytest.raises(ArgumentError, match="speaks of"):
        flowgraph.logit_lens(back, target=3)
    with pytest.raises(ArgumentError, match="holds 10 tokens"):
        flowgraph.logit_lens(back, k=11)
    attached = back.attach(tiny("llama"))
    assert flowgraph.direct_logit_attribution(attached).completeness_error < 1e-4


def test_only_the_traced_model_can_be_attached(tiny, tmp_path):
    back = Trace.load(trace(tiny("llama"), IDS).save(tmp_path / "kept.safetensors"))
    with pytest.raises(ModelMismatchError, match="config and weights differ"):
        back.attach(tiny("gpt2"))
    model, tokenizer = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight += 0.01
    with pytest.raises(ModelMismatchError, match="its weights differ"):
        back.attach((model, tokenizer))


def test_damaged_trace_files(tiny, tmp_path):
    path = trace(tiny("llama"), IDS).save(tmp_path / "kept.safetensors")
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole[: len(whole) // 2], b"\x00" * 64, b"not a trace at all, only text"):
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=r"cannot be read as a trace|is not a whole trace"):
            Trace.load(path)
    with pytest.raises(FileFormatError, match="cannot be read"):
        Trace.load(tmp_path / "nowhere.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(FileFormatError, match="but not a trace"):
        Trace.load(path)
    save_file({"x": torch.ones(2)}, path, {"flowgraph": '{"version": 99}'})
    with pytest.raises(FileFormatError, match="version 99; this release reads version 1"):
        Trace.load(path)
    save_file({"x": torch.ones(2)}, path, {"flowgraph": '{"version": 1, "trace": {}}'})
    with pytest.raises(FileFormatError, match="is not a whole trace"):
        Trace.load(path)


@pytest.mark.real_model
@pytest.mark.parametrize(("prompt", "word", "probability"), [(JAPAN, " Tokyo", 0.85), (MARY, " Mary", 0.92)])
def test_the_default_model(smollm2, prompt, word, probability):
    kept = trace(smollm2, prompt)
    assert kept.target_token == word
    assert float(kept.logits.softmax(-1)[kept.target]) == pytest.approx(probability, abs=0.01)
    assert "".join(kept.tokens) == prompt
    assert flowgraph.direct_logit_attribution(kept).completeness_error <= 1e-4
    assert flowgraph.logit_lens(kept)[-1, -1].top[0][0] == word
    assert max(smollm2.proof.values()) <= 1e-5


@pytest.mark.real_model
def test_an_encoder_without_a_head(minilm):
    kept = trace(minilm, JAPAN)
    assert kept.pattern.shape[:2] == (6, 12)
    assert not kept.causal
    with pytest.raises(UnsupportedReadingError, match=r"'minilm' .* has no head over a vocabulary"):
        flowgraph.logit_lens(kept)
    graph = flowgraph.build_graph(kept)
    assert all(node.kind != "logit" for node in graph.nodes)
    assert all(reading.norm > 0 and not reading.top for reading in graph.readings if reading is not None)


def test_sites_stand_in_the_same_order_in_every_process(tiny):
    """The order shows in tables and files; that of a set of strings changes from process to process."""
    names = list(trace(tiny("llama"), IDS).sites)
    assert names.index("q") + 1 == names.index("k")
    assert names.index("q_proj") + 1 == names.index("k_proj")


def test_the_old_name_of_the_sites_is_known_for_a_release():
    with pytest.warns(DeprecationWarning, match=r"flowgraph\.Keep is flowgraph\.TraceSites now"):
        assert flowgraph.Keep is flowgraph.TraceSites
    with pytest.warns(DeprecationWarning, match=r"flowgraph\.tracing\.Keep is"):
        from flowgraph.tracing import Keep
    assert Keep(layers=(0, 1)) == flowgraph.TraceSites(layers=(0, 1))
    assert "Keep" not in flowgraph.__all__


def test_logits_of_every_position_need_a_head():
    quantised = torch.ao.quantization.quantize_dynamic(tiny_model("llama")[0], {torch.nn.Linear}, dtype=torch.qint8)
    bare = tiny_model("llama")[0].model
    for model, said in (
        (quantised, "no head that is read; quantised"),
        (bare, "no head that is read; leave logits= out"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = flowgraph.load_model(model)
        with pytest.raises(UnsupportedReadingError, match=said):
            trace(loaded, IDS, logits="all")
        assert trace(loaded, IDS).logits is None
