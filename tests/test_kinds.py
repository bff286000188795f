"""What a refusal says a model is, and what a folder must hold to be the model that was saved."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import flowgraph
from flowgraph.errors import ArchitectureError, ArgumentError, FileFormatError, PromptError, UnsupportedReadingError
from tests.tiny_models import tiny_model

IDS = [5, 17, 29, 41, 53]
PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 60}
PROPHET = {
    "hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 60, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
IMAGE = {**{name: PLAIN[name] for name in PLAIN if name != "vocab_size"}, "image_size": 8, "patch_size": 4}
SOUND = {
    "conv_dim": [32], "conv_kernel": [3], "conv_stride": [2], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def built(kind, **settings):
    """A small random model of a class of transformers, no weight of which is zero or one."""
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def edit(folder, **entries):
    file = Path(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def change_weights(folder, add=(), drop=()):
    file = Path(folder) / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if name not in drop}
    save_file(weights | dict(add), file, metadata={"format": "pt"})


# Refusals


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("ProphetNetForConditionalGeneration", PROPHET, "an encoder–decoder"),
        ("VideoMAEModel", IMAGE | {"num_frames": 4}, "a vision model"),
        ("BertForMultipleChoice", PLAIN, "a classifier of choices"),
        ("RobertaForMultipleChoice", PLAIN | {"pad_token_id": 1}, "reads several texts at once, one for each choice"),
        (
            "DistilBertForMultipleChoice",
            {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 60},
            "model.base_model",
        ),
        ("ElectraForMultipleChoice", PLAIN, "a classifier of choices"),
        ("RwkvForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 60}, "layers without attention"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_kind_of_model_it_is(kind, settings, said, tmp_path):
    model = built(kind, **settings)
    for source in (model, saved(model, tmp_path)):
        with pytest.raises(ArchitectureError, match=rf"{kind} \(model_type '\w+'\) is an? .*cannot be traced") as error:
            flowgraph.load_model(source)
        message = str(error.value)
        assert said in message
        assert "Known families: gpt2" in message
        assert "Nearest" not in message
        assert error.value.__cause__ is None, "found by looking, not by what another library made of it"


def test_a_config_that_differs_by_layer_opens():
    """Gemma 4 has two sizes of heads; asking its config for one breaks in transformers."""
    config = transformers.Gemma4TextConfig(
        **PLAIN, head_dim=8, num_key_value_heads=2, vocab_size_per_layer_input=60, hidden_size_per_layer_input=8,
        num_kv_shared_layers=0, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    loaded = flowgraph.load_model(transformers.Gemma4ForCausalLM(config).eval())
    assert loaded.level == "full"
    assert flowgraph.direct_logit_attribution(flowgraph.trace(loaded, [5, 6, 7])).completeness_error < 1e-5


class Packed(nn.Module):
    """A linear layer as GPTQ keeps it: no weight, whole numbers in its place."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("qweight", torch.zeros(linear.in_features // 8, linear.out_features, dtype=torch.int32))

    def forward(self, x):
        return x.new_zeros(*x.shape[:-1], self.out_features)


class Four(nn.Linear):
    """A linear layer as bitsandbytes keeps it: two numbers to a byte, in another shape."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        packed = torch.zeros(linear.weight.numel() // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)


@pytest.mark.parametrize("make", [Packed, Four])
def test_quantised_layers_are_named_as_such(make):
    model, tokenizer = tiny_model("llama")
    mlp = model.model.layers[1].mlp
    mlp.down_proj = make(mlp.down_proj)
    with pytest.raises(
        ArchitectureError, match=r"is a quantised model: 1 × .*'model\.layers\.1\.mlp\.down_proj'.*unquantised"
    ):
        flowgraph.load_model((model, tokenizer))


@pytest.mark.parametrize("number_type", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("llama", "model.layers.0.mlp.up_proj"),
        ("llama", "model.embed_tokens"),
        ("gpt2", "transformer.h.0.attn.c_attn"),
        ("gpt2", "transformer.h.1.ln_1"),
        ("bert", "bert.encoder.layer.0.attention.self.query"),
    ],
)
def test_eight_bit_weights_in_memory_are_named_as_such(name, place, number_type):
    """Whatever module holds them: GPT-2 has no linear layers in its blocks."""
    model, _ = tiny_model(name)
    module = model.get_submodule(place)
    module.weight = nn.Parameter(module.weight.detach().mul(10).to(number_type), requires_grad=False)
    said = rf"is a quantised model: 1 × .*'{re.escape(place)}' \({str(number_type).removeprefix('torch.')}\)"
    with pytest.raises(ArchitectureError, match=said):
        flowgraph.load_model(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_packed_weights_are_not_converted():
    model, _ = tiny_model("llama")
    packed = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ArgumentError, match=r"weights of LlamaForCausalLM are packed.*leave device= and dtype= out"):
        flowgraph.load_model(packed, dtype="float16")


# Heads


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("CamembertForMaskedLM", ("lm_head",)),
        ("Data2VecTextForMaskedLM", ("lm_head",)),
        ("ElectraForMaskedLM", ("generator_predictions", "generator_lm_head")),
    ],
)
def test_a_head_of_another_name_is_found_and_proved(kind, head, tmp_path):
    model = built(kind, **PLAIN, max_position_embeddings=40, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    for source in (model, saved(model, tmp_path)):
        loaded = flowgraph.load_model(source)
        assert type(loaded.model) is type(model)
        assert loaded.anatomy.family.head == head
        assert loaded.anatomy.d_vocab == 60
        assert loaded.proof["final norm and head = logits"] < 1e-5
        trace = flowgraph.trace(loaded, IDS, position=2)
        with torch.no_grad():
            torch.testing.assert_close(trace.logits, model(torch.tensor([IDS])).logits[0, 2], rtol=1e-4, atol=1e-5)
        assert flowgraph.logit_lens(trace)[-1, 2].top[0][0] == f"#{int(trace.logits.argmax())}"


@pytest.mark.parametrize("kind", ["RobertaForMaskedLM", "CamembertForMaskedLM", "Data2VecTextModel", "XLMRobertaModel"])
def test_positions_that_start_after_the_padding_are_not_counted(kind):
    model = built(kind, **PLAIN, max_position_embeddings=20, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    loaded = flowgraph.load_model(model)
    assert loaded.anatomy.context == 18
    ids = [5 + i for i in range(18)]
    assert flowgraph.trace(loaded, ids, position=-1).pattern.shape[-1] == 18
    with pytest.raises(PromptError, match=r"has 19 tokens; .* takes at most 18"):
        flowgraph.trace(loaded, [*ids, 7], position=-1)


def test_positions_of_others_are_all_counted():
    for kind, name in (
        ("BertModel", "max_position_embeddings"),
        ("OPTModel", "max_position_embeddings"),
        ("GPT2Model", "n_positions"),
    ):
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 60, name: 16}
        assert flowgraph.load_model(built(kind, **sizes)).anatomy.context == 16, kind


def test_the_head_of_a_classifier_is_not_read_and_this_is_said(tmp_path):
    model = built("BertForNextSentencePrediction", **PLAIN, max_position_embeddings=40)
    said = (
        "BertForNextSentencePrediction is a classifier of sentence pairs, and its head 'cls' over 2 classes is not read"
    )
    for source in (model, saved(model, tmp_path)):
        with pytest.warns(UserWarning, match=said):
            loaded = flowgraph.load_model(source)
        assert loaded.anatomy.unread_head == ("cls",)
        assert "head cls not read" in repr(loaded)
        with pytest.raises(UnsupportedReadingError, match=f"{said}; target=1 has no meaning"):
            flowgraph.trace(loaded, IDS, target=1)
        trace = flowgraph.trace(loaded, IDS)
        assert (trace.logits, trace.target) == (None, None)
        with pytest.raises(UnsupportedReadingError, match=said):
            flowgraph.logit_lens(trace)


@pytest.mark.parametrize(
    ("kind", "head", "said"),
    [
        ("BertForNextSentencePrediction", "cls", "a classifier of sentence pairs"),
        ("BertForQuestionAnswering", "qa_outputs", "a model for question answering"),
        ("ElectraForPreTraining", "discriminator_predictions", "a pretraining model"),
        ("LlamaForQuestionAnswering", "qa_outputs", "a model for question answering"),
        ("RobertaForQuestionAnswering", "qa_outputs", "a model for question answering"),
    ],
)
def test_other_heads_are_said_to_be_there(kind, head, said, tmp_path):
    model = built(kind, **PLAIN, max_position_embeddings=40, pad_token_id=1)
    for source in (saved(model, tmp_path), model):
        with pytest.warns(UserWarning, match=rf"{kind} is {said}[, ].*'{head}'.* is not read"):
            loaded = flowgraph.load_model(source)
        assert not loaded.anatomy.has_head
        with pytest.raises(UnsupportedReadingError, match=rf"{kind} is {said}[, ].*logits has no meaning for it"):
            loaded.require_head("logits")
    with torch.no_grad():
        states = model.base_model(torch.tensor([IDS])).last_hidden_state[0]
    trace = flowgraph.trace(loaded, IDS)
    norm = loaded.anatomy.final_norm
    last = trace.resid_post[-1] if norm is None else norm.module(trace.resid_post[-1])
    torch.testing.assert_close(last, states, rtol=1e-4, atol=1e-5)


def test_a_model_without_a_head_or_with_one_that_is_read_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert flowgraph.load_model(built("BertModel", **PLAIN)).anatomy.unread_head == ()
        assert flowgraph.load_model(tiny_model("gpt2")).anatomy.unread_head == ()


@pytest.mark.parametrize("kind", ["BertLMHeadModel", "RobertaForCausalLM"])
def test_a_decoder_with_a_masked_models_head_explains_its_last_token(kind):
    model = built(kind, **PLAIN, is_decoder=True, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    trace = flowgraph.trace(flowgraph.load_model(model), IDS)
    assert trace.position == len(IDS) - 1
    with torch.no_grad():
        torch.testing.assert_close(trace.logits, model(torch.tensor([IDS])).logits[0, -1], rtol=1e-4, atol=1e-5)


# Folders


def test_the_class_that_was_saved_is_opened(tmp_path):
    """LLaVA keeps its head and Whisper is not its decoder alone."""
    text = transformers.LlamaConfig(**PLAIN, max_position_embeddings=40)
    vision = transformers.CLIPVisionConfig(**IMAGE)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=59)
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    loaded = flowgraph.load_model(saved(model, tmp_path))
    assert type(loaded.model) is type(model)
    assert loaded.anatomy.has_head
    with torch.no_grad():
        said = model(torch.tensor([IDS])).logits[0, -1]
    torch.testing.assert_close(flowgraph.trace(loaded, IDS).logits, said, rtol=1e-4, atol=1e-5)


def test_the_first_of_several_classes_is_opened(tmp_path):
    saved(tiny_model("llama")[0], tmp_path)
    edit(tmp_path, architectures=["LlamaForCausalLM", "LlamaModel"])
    assert type(flowgraph.load_model(tmp_path).model) is transformers.LlamaForCausalLM


def test_a_single_class_may_be_named_as_a_text(tmp_path):
    saved(tiny_model("llama")[0], tmp_path)
    edit(tmp_path, architectures="LlamaForCausalLM")
    assert type(flowgraph.load_model(tmp_path).model) is transformers.LlamaForCausalLM
    edit(tmp_path, architectures="OwnModel")
    with pytest.raises(ArchitectureError, match="was saved as 'OwnModel'"):
        flowgraph.load_model(tmp_path)


@pytest.mark.parametrize("named", [7, {"LlamaForCausalLM": 1}, [["LlamaForCausalLM"]], [None]])
def test_architectures_that_are_no_names_are_refused(named, tmp_path):
    saved(tiny_model("llama")[0], tmp_path)
    edit(tmp_path, architectures=named)
    with pytest.raises(
        FileFormatError, match=r"the config of .* as its architectures; expected a list of names of classes"
    ):
        flowgraph.load_model(tmp_path)


@pytest.mark.parametrize("name", ["OwnModel", "AutoTokenizer", "LlamaConfig", "pipeline", ""])
def test_a_class_that_is_no_model_of_transformers_is_refused(name, tmp_path):
    saved(tiny_model("llama")[0], tmp_path)
    edit(tmp_path, architectures=[name])
    with pytest.raises(
        ArchitectureError, match=rf"was saved as '{name}' .*no model class of transformers .*not run unless"
    ):
        flowgraph.load_model(tmp_path)


def test_a_class_of_another_type_is_refused(tmp_path):
    saved(tiny_model("llama")[0], tmp_path)
    edit(tmp_path, architectures=["GPT2LMHeadModel"])
    with pytest.raises(
        FileFormatError, match=r"model_type 'llama' and architectures 'GPT2LMHeadModel', which is of type 'gpt2'"
    ):
        flowgraph.load_model(tmp_path)


def test_weights_that_are_left_over_are_named(tmp_path):
    saved(tiny_model("llama")[0], tmp_path)
    change_weights(tmp_path, add={"model.layers.2.mlp.up_proj.weight": torch.ones(2, 2)})
    with pytest.raises(
        FileFormatError, match=r"LlamaForCausalLM, .*does not use.*: model\.layers\.2\.mlp\.up_proj\.weight"
    ):
        flowgraph.load_model(tmp_path)


def test_a_base_class_does_not_throw_a_head_away(tmp_path):
    model, _ = tiny_model("bert")
    saved(model, tmp_path)
    edit(tmp_path, architectures=["BertModel"])
    with pytest.raises(FileFormatError, match=r"BertModel, .*does not use.*: cls\.predictions"):
        flowgraph.load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gpt2", "transformer.h.0.attn.bias", torch.ones(1, 1, 8, 8, dtype=torch.bool)),
        ("gpt2", "transformer.h.0.attn.masked_bias", torch.tensor(-1e4)),
        ("gpt_neo", "transformer.h.0.attn.attention.bias", torch.ones(1, 1, 8, 8, dtype=torch.bool)),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
        ("bert", "bert.embeddings.position_ids", torch.arange(8)[None]),
    ],
)
def test_buffers_that_older_releases_saved_are_no_weights(name, key, value, tmp_path):
    model, _ = tiny_model(name)
    saved(model, tmp_path)
    change_weights(tmp_path, add={key: value})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = flowgraph.load_model(tmp_path)
    assert loaded.fingerprint() == flowgraph.load_model(model).fingerprint()


def test_what_reads_the_last_state_beside_the_head_is_named(tmp_path):
    """BERT as it was pretrained: the head over the vocabulary is read, the classifier of sentence pairs is not."""
    model = built("BertForPreTraining", **PLAIN, max_position_embeddings=40)
    saved(model, tmp_path)
    with pytest.warns(
        UserWarning, match=r"opened as BertForMaskedLM, which does not use bert\.pooler.*cls\.seq_relationship"
    ):
        loaded = flowgraph.load_model(tmp_path)
    assert type(loaded.model) is transformers.BertForMaskedLM
    with torch.no_grad():
        said = model(torch.tensor([IDS])).prediction_logits[0, 1]
    torch.testing.assert_close(flowgraph.trace(loaded, IDS, position=1).logits, said, rtol=1e-4, atol=1e-5)
    # As the hub's copies of BERT are: the masked model's class, and the whole of what was pretrained.
    edit(tmp_path, architectures=["BertForMaskedLM"])
    with pytest.warns(UserWarning, match="cls.seq_relationship"):
        flowgraph.load_model(tmp_path)


def test_a_pretraining_class_without_a_head_over_the_vocabulary_opens_as_itself(tmp_path):
    model = built("ElectraForPreTraining", **PLAIN, max_position_embeddings=40)
    with pytest.warns(UserWarning, match="'discriminator_predictions' is not read"):
        assert type(flowgraph.load_model(saved(model, tmp_path)).model) is type(model)


def test_a_folder_that_opens_as_another_class_says_which(tmp_path):
    """A folder of two heads is opened as the masked language model that it holds, which is said."""
    model = built("AlbertForPreTraining", **PLAIN, embedding_size=16, max_position_embeddings=40)
    saved(model, tmp_path)
    with pytest.warns(UserWarning, match=r"opened as AlbertForMaskedLM.*sop_classifier"):
        assert flowgraph.load_model(tmp_path).level == "full"
    edit(tmp_path, architectures=["BertForPreTraining"], model_type="bert")
    with pytest.raises(FileFormatError, match="lacks weights that BertForMaskedLM needs"):
        flowgraph.load_model(tmp_path)


# Tokenizers and models in memory


def test_a_plain_tokenizer_is_wrapped():
    for name in ("llama", "roberta", "bert"):
        model, tokenizer = tiny_model(name)
        loaded = flowgraph.load_model(model, tokenizer=tokenizer.backend_tokenizer)
        assert loaded.tokenizer("The cat sat")["input_ids"] == tokenizer("The cat sat")["input_ids"]
        assert loaded.tokenizer.mask_token == tokenizer.mask_token
        assert loaded.vocabulary.strings(range(60)) == flowgraph.load_model((model, tokenizer)).vocabulary.strings(
            range(60)
        )
        prompt = f"The {tokenizer.mask_token or 'cat'} sat"
        assert flowgraph.trace(loaded, prompt).token_ids == tuple(tokenizer(prompt)["input_ids"])


@pytest.mark.parametrize("tokenizer", ["gpt2", {"a": 1}, 7, ["a"], str.split])
def test_what_is_no_tokenizer_is_refused(tokenizer, tmp_path):
    model, _ = tiny_model("llama")
    for source in (model, saved(model, tmp_path)):
        with pytest.raises(
            ArgumentError, match=r"tokenizer=.* is not a tokenizer; expected one of transformers.*tokenizers\.Tok"
        ):
            flowgraph.load_model(source, tokenizer=tokenizer)


def test_loading_leaves_the_users_model_alone():
    model, _ = tiny_model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    half = flowgraph.load_model(model, dtype="float16")
    assert half.dtype == torch.float16
    assert flowgraph.load_model(model).model is model
    assert flowgraph.load_model(model, dtype="float32", device="cpu").model is model
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


# A user's own rows

WRONG_ROWS = """
import dataclasses, warnings
import flowgraph as fg
from tests.tiny_models import tiny_model

llama = fg.FAMILIES["llama"]
stack = llama.stacks[0]

def said(what):
    try:
        what()
    except fg.FlowgraphError as error:
        print(type(error).__name__, error)
    except Exception as error:
        print("FOREIGN", type(error).__name__, error)
    else:
        print("TAKEN")

change = lambda **entries: dataclasses.replace(llama, name="own", **entries)
inside = lambda **entries: change(stacks=(dataclasses.replace(stack, **entries),))
said(lambda: fg.register_family("llama"))
said(lambda: fg.register_family(fg.Family))
said(lambda: change(model_types="llama"))
said(lambda: change(stacks=stack))
said(lambda: change(stacks=()))
said(lambda: change(stacks=("layers",)))
said(lambda: change(norm="RMS"))
said(lambda: change(head="lm_head"))
said(lambda: inside(blocks=7))
said(lambda: inside(attention={"module": "self_attn"}))
said(lambda: inside(wiring="serial"))
said(lambda: inside(wiring_switch=("a", 1)))
said(lambda: inside(attention=dataclasses.replace(stack.attention, rotary="full")))
said(lambda: inside(attention=dataclasses.replace(stack.attention, output=None)))
"""


@pytest.mark.slow
def test_rows_of_wrong_types_are_refused_in_our_words():
    """In a process of its own: the tests' type checks would be there before ours."""
    run = subprocess.run([sys.executable, "-c", WRONG_ROWS], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 14
    for line in lines:
        assert line.startswith("ArgumentError "), line
        assert re.search(r"expected", line), line


@pytest.mark.parametrize(
    "changed",
    [
        {"mlp_output": "mlp"}, {"mlp_input": "mlp.act_fn"}, {"blocks": "norm"}, {"blocks": "embed_tokens"},
        {"embedding": "norm"}, {"embedding": "layers"}, {"attention_norm": "mlp"}, {"mlp_activation": "mlp.up_proj"},
        {"root": "layers"}, {"final_norm": "embed_tokens"}, {"mlp_norm": "self_attn.q_proj"}, {"blocks": ""},
    ],
)  # fmt: skip
def test_a_row_that_leads_to_the_wrong_modules_is_set_aside(changed, monkeypatch):
    """The proof decides: the row is named as wrong, and the parts that a search finds are used."""
    from dataclasses import replace

    llama = flowgraph.FAMILIES["llama"]
    row = replace(llama, stacks=(replace(llama.stacks[0], **changed),))
    monkeypatch.setitem(flowgraph.FAMILIES, "llama", row)
    with pytest.warns(UserWarning, match="The row is set aside, and the parts that a search found are proved and used"):
        loaded = flowgraph.load_model(tiny_model("llama"))
    assert loaded.anatomy.is_found
    assert loaded.level == "full"


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("XLMModel", {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 60}),
        ("ConvBertModel", {**PLAIN, "embedding_size": 32}),
    ],
)
def test_attention_that_is_there_is_not_denied(kind, config):
    model = getattr(transformers, kind)(getattr(transformers, kind.replace("Model", "Config"))(**config)).eval()
    loaded = flowgraph.load_model(model)
    assert loaded.level == "patterns"
    with pytest.raises(UnsupportedReadingError, match=rf"residual stream, and {kind} is open at level 'patterns'"):
        flowgraph.trace(loaded, [5, 6, 7]).site("resid_pre")


@pytest.mark.parametrize("number_type", [torch.int8, torch.float8_e4m3fn])
def test_eight_bit_weights_that_no_config_speaks_of_are_refused(number_type, tmp_path):
    tiny_model("llama")[0].save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name].mul(10).to(number_type)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArchitectureError, match=rf"is a quantised model \({name} is saved as \w+\)"):
        flowgraph.load_model(tmp_path)
