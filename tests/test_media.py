"""Models of one image or one sound: they open and are proved, their positions know their place, and inputs that do not fit are
refused by name."""

from __future__ import annotations

import warnings
import wave
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import flowgraph as fg
from flowgraph.errors import ArchitectureError, ArgumentError, FileFormatError, PromptError, UnsupportedReadingError
from flowgraph.models.consistency import trace_errors
from flowgraph.models.eager import eager_attention
from flowgraph.models.forward import SITES, run
from tests.every_type import small
from tests.tiny_media import SETTINGS, tiny, values
from tests.tiny_models import tiny_model

IMAGES = ("vit", "deit", "beit", "dinov2", "dinov2_registers", "dinov3", "clip", "siglip")
SOUNDS = ("wav2vec2", "wav2vec2_stable", "hubert", "ast")


@cache
def loaded_of(name: str) -> fg.LoadedModel:
    return fg.load_model(tiny(name))


def given(name: str, **sizes: int) -> fg.Inputs:
    found = values(name, **sizes)
    return fg.inputs(audio=found) if name in SOUNDS else fg.inputs(image=found)


def check_trace(loaded: fg.LoadedModel, inputs: fg.Inputs) -> fg.Trace:
    row = inputs.of(loaded).rows[0]
    layers = range(len(loaded.anatomy.blocks))
    record = run(loaded.anatomy, row.feed(loaded), sites=frozenset(SITES), layers=layers, logits_at=None)
    errors = trace_errors(loaded.anatomy, row.feed(loaded), record, layers=layers, at=0)
    assert max(float(error.max()) for error in errors.values()) < 1e-5, errors
    assert {"softmax(scale · q · k) = pattern", "the residual stream adds up"} <= errors.keys()
    trace = fg.trace(loaded, inputs)
    assert len(trace.tokens) == len(trace.axis) == trace.pattern.shape[-1]
    with torch.no_grad(), eager_attention(loaded.model):
        own = loaded.model(**row.feed(loaded), output_attentions=True).attentions
    for mine, theirs in zip(trace.pattern, own, strict=True):
        torch.testing.assert_close(mine, theirs[0], rtol=0, atol=0)
    return trace


@pytest.mark.parametrize("name", SETTINGS)
def test_the_stream_is_proved(name):
    loaded = loaded_of(name)
    assert loaded.level == "stream"
    assert max(loaded.proof.values()) < 1e-5, loaded.proof
    trace = check_trace(loaded, given(name))
    assert fg.mass(fg.build_graph(trace, method="norms", readings=False)) == pytest.approx(1.0)
    assert fg.attention_rollout(trace).values.sum(-1) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", ["beit", "dinov2", "dinov2_registers", "dinov3"])
def test_images_of_other_sizes(name):
    trace = check_trace(loaded_of(name), given(name, rows=16, columns=40))
    assert trace.tokens[-1] == "patch 1,4"
    assert trace.axis.places[-1] == (8, 32, 16, 40)


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2_stable", "hubert"])
@pytest.mark.parametrize("samples", [25, 200, 900])
def test_sounds_of_other_lengths(name, samples):
    trace = check_trace(loaded_of(name), given(name, samples=samples))
    assert len(trace.tokens) == (samples - 25) // 20 + 1


@pytest.mark.parametrize("name", ["dinov2", "beit"])
def test_factors_of_channels_belong_to_the_output_projections(name):
    loaded = loaded_of(name)
    block, trace = loaded.anatomy.blocks[1], fg.trace(loaded, given(name))
    names = ("layer_scale1.lambda1", "layer_scale2.lambda1") if name == "dinov2" else ("lambda_1", "lambda_2")
    assert loaded.anatomy.stack.channel_factors == names
    vector = block.module.get_parameter(names[0]).detach()
    linear = block.attention_output.module
    z = trace.z[1].transpose(0, 1).flatten(1)
    torch.testing.assert_close(trace.attn_out[1], linear(z).detach() * vector)
    by_head = torch.einsum("htd,hdm->tm", trace.z[1], loaded.anatomy.W_O(1)) + linear.bias.detach() * vector
    torch.testing.assert_close(by_head, trace.attn_out[1])


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2_registers", "dinov3", "clip", "siglip", "beit"])
def test_special_positions_have_their_roles(name):
    axis = fg.trace(loaded_of(name), given(name)).axis
    leading = {
        "deit": ("CLS", "distillation"), "siglip": (), "dinov2_registers": ("CLS", "register 1", "register 2"),
        "dinov3": ("CLS", "register 1", "register 2"),
    }.get(name, ("CLS",))  # fmt: skip
    assert axis.labels[: len(leading)] == leading
    assert axis.labels[len(leading) :] == tuple(f"patch {row},{column}" for row in range(3) for column in range(3))
    assert axis.kind == "patch"
    assert [place is None for place in axis.places] == [True] * len(leading) + [False] * 9
    assert [role is not None for role in axis.special] == [True] * len(leading) + [False] * 9


@pytest.mark.parametrize("name", ["vit", "siglip", "dinov2_registers"])
def test_a_patch_reads_the_pixels_of_its_box(name):
    loaded, before = loaded_of(name), values(name)
    trace = fg.trace(loaded, fg.inputs(image=before))
    for at in (len(trace.tokens) - 1, len(trace.tokens) - 4):
        top, left, bottom, right = map(int, trace.axis.places[at])
        after = before.clone()
        after[..., top:bottom, left:right] += 1
        other = fg.trace(loaded, fg.inputs(image=after))
        changed = (trace.resid_pre[0] != other.resid_pre[0]).any(-1).nonzero().flatten().tolist()
        assert changed == [at]


def test_a_spectrogram_has_bands_and_frames():
    trace = fg.trace(loaded_of("ast"), given("ast"))
    assert trace.tokens[:3] == ("CLS", "distillation", "patch 0,0")
    assert trace.tokens[-1] == "patch 2,4"
    # Bands of six, frames of seven.
    assert trace.axis.places[-1] == (12, 28, 20, 36)
    after = values("ast")
    after[0, 35, 19] += 1  # in the last patch alone, since neighbours overlap
    other = fg.trace(loaded_of("ast"), fg.inputs(audio=after))
    assert (trace.resid_pre[0] != other.resid_pre[0]).any(-1).nonzero().flatten().tolist() == [len(trace.tokens) - 1]


def test_frames_know_their_time():
    sound = values("wav2vec2")[0].numpy()
    trace = fg.trace(loaded_of("wav2vec2"), fg.inputs(audio=sound, sampling_rate=1000))
    assert trace.tokens[:3] == ("0.00 s", "0.02 s", "0.04 s")
    assert trace.axis.places[2] == (0.04, 0.065)
    unknown = fg.trace(loaded_of("wav2vec2"), fg.inputs(audio=sound))
    assert (unknown.tokens[2], unknown.axis.places[2]) == ("frame 2", None)
    torch.testing.assert_close(unknown.pattern, trace.pattern, rtol=0, atol=0)


def test_cls_is_explained_or_the_last_position():
    assert fg.trace(loaded_of("vit"), given("vit")).position == 0
    assert fg.trace(loaded_of("siglip"), given("siglip")).position == 8
    assert fg.trace(loaded_of("vit"), given("vit"), position=-2).position == 8
    with pytest.raises(ArgumentError, match="outside the 10 positions"):
        fg.trace(loaded_of("vit"), given("vit"), position=10)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_folder_opens_as_the_model_in_memory(name, tmp_path):
    tiny(name).save_pretrained(tmp_path)
    again = fg.load_model(tmp_path)
    assert (again.level, again.anatomy.family, again.anatomy.layout) == (
        "stream", loaded_of(name).anatomy.family, loaded_of(name).anatomy.layout,
    )  # fmt: skip
    assert again.processor is None
    torch.testing.assert_close(fg.trace(again, given(name)).pattern, fg.trace(loaded_of(name), given(name)).pattern)


def test_text_traces_have_an_axis_of_tokens():
    trace = fg.trace(fg.load_model(tiny_model("gpt2")), [3, 4, 5])
    assert (trace.axis.kind, trace.axis.labels, trace.axis.places) == ("token", trace.tokens, (None, None, None))


# Inputs


def processor() -> transformers.ViTImageProcessor:
    return transformers.ViTImageProcessor(size={"height": 24, "width": 24})


def test_the_folders_own_processor_is_used(tmp_path):
    from PIL import Image

    tiny("vit").save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    loaded = fg.load_model(tmp_path)
    rows = np.random.default_rng(2).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    Image.fromarray(rows).save(tmp_path / "picture.png")
    expected = processor()(images=Image.fromarray(rows), return_tensors="pt")["pixel_values"]
    for image in (Image.fromarray(rows), tmp_path / "picture.png", str(tmp_path / "picture.png"), rows, rows.transpose(2, 0, 1),
                  torch.from_numpy(rows), rows.astype(np.float64) / 255):  # fmt: skip
        row = fg.inputs(image=image).of(loaded).rows[0]
        torch.testing.assert_close(row.values["pixel_values"], expected, rtol=1e-4, atol=0.02)
    assert fg.trace(loaded, fg.inputs(image=tmp_path / "picture.png")).prompt == str(tmp_path / "picture.png")
    whole = fg.trace(loaded, processor()(images=Image.fromarray(rows), return_tensors="pt"))
    torch.testing.assert_close(whole.pattern, fg.trace(loaded, fg.inputs(image=rows)).pattern)
    both = fg.trace(loaded, fg.inputs(image=[rows, rows[::-1].copy()]))
    assert len(both) == 2
    with pytest.raises(PromptError, match="between 0 and 1"):
        fg.trace(loaded, fg.inputs(image=rows.astype(np.float32)))
    with pytest.raises(PromptError, match="no such file"):
        fg.trace(loaded, fg.inputs(image=tmp_path / "other.png"))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(FileFormatError, match="cannot be read as an image"):
        fg.trace(loaded, fg.inputs(image=tmp_path / "broken.png"))


def wav(path, samples: np.ndarray, rate: int, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def test_whole_numbers_of_a_sound_are_shares_of_the_largest(tmp_path):
    whole = np.random.default_rng(4).integers(-9000, 9000, 400).astype(np.int16)
    wav(tmp_path / "sound.wav", whole, 2000)
    for audio in (whole, tmp_path / "sound.wav"):
        row = fg.inputs(audio=audio).of(loaded_of("wav2vec2")).rows[0]
        torch.testing.assert_close(row.values["input_values"], torch.from_numpy(whole / 2**15).float()[None])


def test_sounds_go_through_the_processor(tmp_path):
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=2000, do_normalize=True)
    loaded = fg.load_model(tiny("wav2vec2"), processor=extractor)
    whole = np.random.default_rng(3).integers(-9000, 9000, 400).astype(np.int16)
    wav(tmp_path / "sound.wav", whole, 2000)
    expected = extractor(whole / 2**15, sampling_rate=2000, return_tensors="pt")["input_values"]
    for inputs in (fg.inputs(audio=tmp_path / "sound.wav"), fg.inputs(audio=whole, sampling_rate=2000),
                   fg.inputs(audio=whole / 2**15, sampling_rate=2000)):  # fmt: skip
        row = inputs.of(loaded).rows[0]
        torch.testing.assert_close(row.values["input_values"], expected.float())
        assert row.axis.labels[1] == "0.01 s"
    with pytest.raises(PromptError, match=r"sampling_rate=8000 does not fit.*2000 samples"):
        fg.trace(loaded, fg.inputs(audio=whole, sampling_rate=8000))
    with pytest.raises(PromptError, match="sampling_rate= is missing"):
        fg.trace(loaded, fg.inputs(audio=whole))
    with pytest.raises(ArgumentError, match="leave it out"):
        fg.trace(loaded, fg.inputs(audio=tmp_path / "sound.wav", sampling_rate=500))
    wav(tmp_path / "stereo.wav", whole, 2000, channels=2)
    with pytest.raises(PromptError, match="2 channels"):
        fg.trace(loaded, fg.inputs(audio=tmp_path / "stereo.wav"))
    with pytest.raises(FileFormatError, match="cannot be read as a sound"):
        fg.trace(loaded, fg.inputs(audio="a\0b"))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(FileFormatError, match="cannot be read as a sound"):
        fg.trace(loaded, fg.inputs(audio=tmp_path / "broken.wav"))


@pytest.mark.parametrize(
    ("name", "inputs", "match"),
    [
        ("vit", "a text", "the prompt is a text.*reads an image"),
        ("vit", [1, 2, 3], "the prompt is a text.*reads an image"),
        ("vit", fg.inputs(audio=np.zeros(400), sampling_rate=16000), "the prompt is a sound.*reads an image"),
        ("wav2vec2", fg.inputs(image=torch.zeros(1, 3, 24, 24)), "the prompt is an image.*reads a sound"),
        ("vit", fg.inputs(image=torch.zeros(1, 3, 32, 24)), "pixel_values has 32 rows.*takes 24"),
        ("vit", fg.inputs(image=torch.zeros(1, 1, 24, 24)), "pixel_values has 1 channels.*takes 3"),
        ("vit", fg.inputs(image=np.zeros((24, 24, 4), dtype=np.uint8)), "has 4 channels; 'ViTModel' takes 3"),
        ("vit", fg.inputs(image=np.zeros((24, 24, 3), dtype=np.uint8)), "no processor"),
        ("vit", fg.inputs(image="picture.png"), "no processor"),
        ("vit", fg.inputs(image=torch.full((1, 3, 24, 24), torch.nan)), "NaN"),
        ("vit", fg.inputs(image=np.zeros((24, 24))), "expected .channel, row, column"),
        ("vit", fg.inputs(image=torch.zeros(1, 3, 24, 24, device="meta")), "cannot be read"),
        ("vit", fg.inputs(image=torch.zeros(1, 3, 24, 24).to_sparse()), "cannot be read"),
        ("vit", fg.inputs(image=np.zeros((3, 24, 24), dtype=bool)), "expected numbers"),
        ("dinov2", fg.inputs(image=torch.zeros(1, 3, 4, 24)), "too small"),
        ("wav2vec2", fg.inputs(audio=np.zeros(9)), "too small"),
        ("wav2vec2", fg.inputs(audio=np.zeros((2, 900))), "expected one row"),
        ("ast", fg.inputs(audio=np.zeros(900)), "no processor"),
        ("ast", fg.inputs(audio=np.zeros((1, 41, 24))), "input_values has 41 frames.*takes 40"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(name, inputs, match):
    with pytest.raises(PromptError, match=match):
        fg.trace(loaded_of(name), inputs)


def test_an_image_for_a_model_of_texts_is_refused():
    with pytest.raises(PromptError, match=r"the prompt is an image.*reads a text"):
        fg.trace(fg.load_model(tiny_model("bert")), fg.inputs(image=torch.zeros(1, 3, 24, 24)))
    with pytest.raises(ArgumentError, match="sampling_rate= needs the prompt as audio="):
        fg.inputs(text="a", sampling_rate=3)
    with pytest.raises(PromptError, match="give one of them"):
        fg.inputs(text="a", audio=np.zeros(4))
    with pytest.raises(ArgumentError, match="sampling_rate"):
        fg.inputs(audio=np.zeros(4), sampling_rate="a")
    with pytest.raises(ArgumentError, match="sampling_rate=0"):
        fg.inputs(audio=np.zeros(4), sampling_rate=0)
    with pytest.raises(PromptError, match="image= is object"):
        fg.inputs(image=object())
    with pytest.raises(ArgumentError, match="is not a processor"):
        fg.load_model(tiny("vit"), processor="vit")


# What is made of traces


@pytest.mark.parametrize("name", ["dinov2_registers", "wav2vec2", "ast"])
def test_traces_are_saved_with_what_went_in(name, tmp_path):
    loaded = loaded_of(name)
    trace = fg.trace(loaded, given(name))
    again = fg.Trace.load(trace.save(tmp_path / "trace.safetensors"))
    assert (again.tokens, again.axis, again.fed, again.token_ids) == (trace.tokens, trace.axis, trace.fed, ())
    for site, tensor in trace.sites.items():
        torch.testing.assert_close(again.sites[site], tensor, rtol=0, atol=0)
    repeated = fg.trace(loaded, again.inputs)
    torch.testing.assert_close(repeated.pattern, trace.pattern, rtol=0, atol=0)
    assert fg.attention_rollout(again).shape == trace.pattern.mean(1).shape
    assert again.attach(loaded).axis == trace.axis


def test_a_trace_with_a_wrong_axis_is_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = fg.trace(loaded_of("vit"), given("vit")).save(tmp_path / "trace.safetensors")
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata()["flowgraph"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for old, new in (
        ('"kind": "patch"', '"kind": "pixel"'),
        ('"patch 0,0"', '"patch 9,9"'),
        ("[0.0, 0.0, 8.0, 8.0]", "[0.0, 0.0, 8.0]"),
    ):
        assert old in header
        save_file(tensors, tmp_path / "wrong.safetensors", {"flowgraph": header.replace(old, new, 1)})
        with pytest.raises(FileFormatError):
            fg.Trace.load(tmp_path / "wrong.safetensors")
    without = {name: value for name, value in tensors.items() if not name.startswith("fed.")}
    save_file(without, tmp_path / "wrong.safetensors", {"flowgraph": header})
    with pytest.raises(FileFormatError):
        fg.Trace.load(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("name", ["dinov2", "wav2vec2", "ast"])
def test_results_show_positions_or_are_refused(name):
    trace = fg.trace(loaded_of(name), given(name))
    assert "positions" in repr(trace)
    label = trace.tokens[-1]
    for method in ("attention", "norms", "proximity", "ff"):
        graph = fg.build_graph(trace, method=method, readings=False)
        assert fg.mass(graph) == pytest.approx(1.0)
    assert f"{len(trace.tokens)} positions, {trace.tokens[0]} … {label}" in graph.caption()
    assert label in fg.head_view(trace)._repr_html_()
    assert label in fg.model_view(trace)._repr_html_()
    assert len(fg.flow_graph(trace).nodes) > len(trace.tokens)
    assert fg.attention_figure(trace, layer=0) is not None
    assert list(trace.to_dataframe().columns) == ["position", "token", "explained"]
    for function in (fg.logit_lens, fg.direct_logit_attribution, fg.trajectory):
        with pytest.raises(UnsupportedReadingError):
            function(trace)
    scores = fg.head_scores(trace)
    assert set(scores.scores) == {"entropy", "strongest_other"}
    assert "tokens of a text" in scores.undefined["induction"]
    with pytest.raises(UnsupportedReadingError):
        trace.predictions()
    with pytest.raises(UnsupportedReadingError):
        fg.ablate(trace.model, trace.inputs, fg.Node("head", 0, 0))


# What is refused


def test_two_towers_are_refused_by_name():
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}, vision_config={**tower, "image_size": 16, "patch_size": 8}
    )  # fmt: skip
    model = transformers.CLIPModel(config).eval()
    with pytest.raises(ArchitectureError, match=r"images and text.*model\.text_model or model\.vision_model"):
        fg.load_model(model)
    assert fg.load_model(model.vision_model).level == "stream"
    assert fg.load_model(model.text_model).level == "stream"


def test_patches_left_out_at_random_are_refused():
    config = transformers.ViTMAEConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4,
        decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_num_hidden_layers=1, decoder_intermediate_size=16,
    )  # fmt: skip
    with pytest.raises(ArchitectureError, match="at random"):
        fg.load_model(transformers.ViTMAEModel(config).eval())


class Wrong(nn.Module):
    """A norm that is none: half of the numbers are turned."""

    def forward(self, x):
        return torch.cat([x[..., :12], -x[..., 12:].flip(-2)], -1)


def test_a_stream_that_cannot_be_proved_opens_at_patterns():
    model = tiny("vit")
    model.layers[0].mlp = nn.Sequential(Wrong(), model.layers[0].mlp, Wrong()) if hasattr(model, "layers") else None
    loaded = fg.load_model(model)
    assert loaded.level == "patterns"
    assert fg.attention_rollout(fg.trace(loaded, given("vit"))).shape == (2, 10, 10)


# Windows


def windowed(kind: str, **settings):
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 4], "num_heads": [2, 4], "window_size": 4}
    config = getattr(transformers, f"{kind}Config")(**sizes | settings)
    torch.manual_seed(4)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", ["Swin", "Swinv2"])
def test_windows_are_laid_out_on_all_positions_of_their_stage(kind):
    model = windowed(kind)
    with pytest.warns(UserWarning, match=r"model\.stages holds each stage"):
        loaded = fg.load_model(model)
    assert loaded.level == "patterns"
    assert max(loaded.proof.values()) < 1e-5
    # One colour everywhere: no position can be told by its numbers, so that places have to be known beforehand.
    for image in (torch.rand(1, 3, 32, 32), torch.full((1, 3, 32, 32), 0.3)):
        stages = model.base_model.encoder.layers
        for n, (side, name) in enumerate(((16, "stage 1"), (8, "stage 2"))):
            own: list[torch.Tensor] = []
            modules = [getattr(block.attention, "self", block.attention) for block in stages[n].blocks]
            weights = {"output_attentions": True} if kind == "Swinv2" else {}
            handles = [
                one.register_forward_hook(lambda _module, _args, out, own=own: own.append(out[1])) for one in modules
            ]
            with torch.no_grad(), eager_attention(model):
                model(image, **weights)
            for handle in handles:
                handle.remove()
            trace = fg.trace(loaded.stages[name], fg.inputs(image=image))
            grid = torch.arange(side * side).view(side, side)
            for layer, pattern in enumerate(own):
                moved = grid.roll((-2, -2), (0, 1)) if layer % 2 else grid
                windows = moved.view(side // 4, 4, side // 4, 4).transpose(1, 2).reshape(-1, 16)
                whole = torch.zeros(trace.pattern.shape[1:])
                for window, here in enumerate(windows):
                    whole[:, here[:, None], here] = pattern[window]
                torch.testing.assert_close(trace.pattern[layer], whole, rtol=0, atol=0)
            assert trace.axis.labels[side] == "patch 1,0"
            assert trace.axis.places[side] == (32 / side, 0, 2 * 32 / side, 32 / side)
    # The stage with the most layers is shown by the model itself.
    assert fg.trace(loaded, fg.inputs(image=image)).pattern.shape == (4, 4, 64, 64)
    assert fg.attention_rollout(trace).shape == (4, 64, 64)
    with pytest.raises(UnsupportedReadingError, match="window"):
        fg.edge_weights(trace, method="norms")


def test_padding_in_windows_is_named():
    with pytest.raises(ArchitectureError, match="filled up with padding"):
        fg.load_model(windowed("Swin", image_size=36))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = fg.load_model(windowed("Swin"))
    with pytest.raises(PromptError, match=r"40 rows; .* takes 32"):
        fg.trace(loaded, fg.inputs(image=torch.rand(1, 3, 40, 40)))


def test_states_that_an_image_is_added_to_are_refused_and_patterns_kept():
    """Qwen3-VL's DeepStack."""
    config = small(transformers.Qwen3VLConfig)
    config.vision_config.deepstack_visual_indexes = [0, 1]
    torch.manual_seed(5)
    model = transformers.Qwen3VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    loaded, vision = fg.load_model(model), config.vision_config
    ids = [config.vision_start_token_id, *[config.image_token_id] * 4, config.vision_end_token_id, 7, 9]
    pixels = torch.randn(16, 3 * vision.temporal_patch_size * vision.patch_size**2)
    given = {
        "input_ids": torch.tensor([ids]), "pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": torch.tensor([[int(one == config.image_token_id) for one in ids]]),
    }  # fmt: skip
    with pytest.raises(ArchitectureError, match=r"first 2 layers \(DeepStack\)"):
        fg.trace(loaded, fg.inputs(given))
    trace = fg.trace(loaded, fg.inputs(given), keep={"pattern", "q", "k", "v", "z"})
    with torch.no_grad(), eager_attention(model):
        own = model(**given, output_attentions=True).attentions
    torch.testing.assert_close(trace.pattern, torch.cat(own), rtol=0, atol=0)
    assert fg.direct_logit_attribution(fg.trace(loaded, fg.inputs(ids=[7, 9, 11]))).completeness_error < 1e-5
