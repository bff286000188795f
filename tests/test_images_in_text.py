"""Models of texts and images: image tokens are positions with a place, and the image goes in with every pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import flowgraph as fg
from flowgraph.errors import ArgumentError, PromptError
from flowgraph.models.eager import eager_attention
from tests.every_type import model_of
from tests.tiny_models import tiny_model

torch.manual_seed(11)
PIXELS = torch.randn(1, 3, 32, 32)
OTHER = torch.randn(1, 3, 32, 32)


def gemma3():
    config = transformers.Gemma3Config(
        text_config={
            "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
        },
        image_token_index=305, mm_tokens_per_image=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(0, 0.3)
    return model


def feed_of(name: str, pixels=PIXELS):
    """The model, and its arguments for a text of four tokens around an image."""
    if name == "gemma3":
        types = torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0]])
        return gemma3(), {
            "input_ids": torch.tensor([[5, *[305] * 4, 7, 8, 9]]),
            "pixel_values": pixels,
            "token_type_ids": types,
        }
    model = model_of(name, "images and text").eval()
    token = model.config.image_token_id
    count = {"llava": 16, "paligemma": 16}.get(name, 4)
    feed = {"input_ids": torch.tensor([[5, *[token] * count, 7, 8, 9]]), "pixel_values": pixels}
    if name == "paligemma":
        feed["token_type_ids"] = torch.zeros_like(feed["input_ids"])
    if name in ("smolvlm", "idefics3"):
        feed["pixel_values"] = pixels[None]
    return model, feed


def qwen(kind: str):
    """A tiny Qwen2-VL or Qwen2.5-VL."""
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    text = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_parameters": rope,
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "embed_dim": 32, "num_heads": 4, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "in_channels": 3, "intermediate_size": 64, "out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 32, "mlp_ratio": 2,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=vision, image_token_id=305, video_token_id=306, vision_start_token_id=307,
        vision_end_token_id=308,
    )  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()


@pytest.mark.parametrize("kind", ["Qwen2VL", "Qwen2_5_VL", "Qwen3VL"])
def test_positions_of_a_grid_that_is_given(kind):
    """Images of another shape than a square, whose grid the processor says."""
    model = model_of("qwen3_vl", "images and text").eval() if kind == "Qwen3VL" else qwen(kind)
    token = model.config.image_token_id
    ids = [5, model.config.vision_start_token_id, *[token] * 6, model.config.vision_end_token_id, 7, 8]
    feed = {
        "input_ids": torch.tensor([ids]), "pixel_values": torch.randn(24, 3 * 2 * 8 * 8), "image_grid_thw": torch.tensor([[1, 4, 6]]),
        "mm_token_type_ids": torch.tensor([[int(one == token) for one in ids]]),
    }  # fmt: skip
    loaded = fg.load_model(model)
    trace = fg.trace(loaded, feed)
    with torch.no_grad(), eager_attention(model):
        said = model(**feed).logits[0, -1]
    torch.testing.assert_close(trace.logits, said, rtol=1e-5, atol=1e-5)
    assert trace.tokens[2:8] == tuple(f"patch {r},{c}" for r in range(2) for c in range(3))
    assert trace.axis.places[7] == (16.0, 32.0, 32.0, 48.0)
    assert fg.direct_logit_attribution(trace).completeness_error < 1e-5


def traced(name: str, ids, **beside):
    loaded = fg.load_model(model_of(name, "images and text").eval())
    token = loaded.model.config.image_token_id
    return fg.trace(loaded, {"input_ids": torch.tensor([[token if one is None else one for one in ids]]), **beside})


def test_images_side_by_side_have_a_grid_each():
    axis = traced("llava", [5, *[None] * 64, 7, 8], pixel_values=torch.randn(4, 3, 32, 32)).axis
    assert axis.labels[1:3] == ("image 0 patch 0,0", "image 0 patch 0,1")
    assert axis.labels[64] == "image 3 patch 3,3"
    assert axis.places[1 + 16] == (0.0, 0.0, 8.0, 8.0)


def test_rows_of_an_image_may_end_in_a_token_of_their_own():
    """Mistral's models, also with an image that is wider than high."""
    for high, wide in ((64, 64), (32, 64)):
        rows, columns = high // 16, wide // 16
        ids = [5, *[*[None] * columns, 50] * rows, 7, 8]
        sizes = torch.tensor([[high, wide]])
        axis = traced("mistral3", ids, pixel_values=torch.randn(1, 3, high, wide), image_sizes=sizes).axis
        assert axis.labels[1 : 1 + columns] == tuple(f"patch 0,{c}" for c in range(columns))
        assert axis.special[1 + columns] is None
        assert axis.labels[2 + columns] == "patch 1,0"
        assert axis.places[2 + columns] == (16.0, 0.0, 32.0, 16.0)


def test_an_image_that_the_text_has_no_place_for_is_refused_by_name():
    with pytest.raises(PromptError, match="fails on this prompt of 3 tokens"):
        traced("llava", [5, 7, 8], pixel_values=torch.randn(1, 3, 32, 32))


def test_latents_of_a_whole_image_lie_nowhere():
    axis = traced("idefics2", [5, *[None] * 64, 7, 8], pixel_values=torch.randn(1, 1, 3, 32, 32)).axis
    assert axis.labels[1:3] == ("piece 0", "piece 1")
    assert set(axis.places) == {None}
    assert axis.special.count("image") == 64


NAMES = ("llava", "paligemma", "internvl", "smolvlm", "idefics3", "gemma3")


@pytest.mark.parametrize("name", NAMES)
def test_image_tokens_are_positions_with_a_place(name, tmp_path):
    model, feed = feed_of(name)
    loaded = fg.load_model(model)
    assert loaded.level == "full"
    trace = fg.trace(loaded, feed)
    with torch.no_grad(), eager_attention(model):
        said = model(**feed).logits[0, -1]
        other = model(**feed_of(name, OTHER)[1]).logits[0, -1]
    torch.testing.assert_close(trace.logits, said, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(said, other, atol=1e-4), "the image matters"
    side = 4 if len(trace.tokens) > 10 else 2
    assert trace.tokens[1 : 1 + side**2] == tuple(f"patch {r},{c}" for r in range(side) for c in range(side))
    size = 32 / side
    assert trace.axis.places[2] == (0.0, size, size, 2 * size)
    assert trace.axis.special[0] is None
    assert set(trace.axis.special[1 : 1 + side**2]) == {"image"}
    assert fg.direct_logit_attribution(trace).completeness_error < 1e-5
    graph = fg.build_graph(trace)
    assert fg.mass(graph) == pytest.approx(1.0)
    back = fg.Trace.load(trace.save(tmp_path / "both.safetensors"))
    assert back.axis == trace.axis
    assert torch.equal(fg.trace(loaded, back.inputs).logits, trace.logits)
    # Pieces of one image may see each other; the trace says so.
    assert trace.causal == (not bool(trace.pattern.triu(1).any()))
    assert trace.causal == (name not in ("paligemma", "gemma3"))


@pytest.mark.parametrize("name", ["llava", "smolvlm"])
def test_changed_runs_see_the_image(name):
    model, feed = feed_of(name)
    loaded = fg.load_model(model)
    trace = fg.trace(loaded, feed)
    node, projection = fg.Node("head", layer=1, head=2), loaded.anatomy.blocks[1].attention_output.module
    effect = fg.ablate(loaded, trace, node, metric=fg.log_probability)
    width = loaded.anatomy.d_value

    def without(_module, args):
        x = args[0].clone()
        x[..., 2 * width : 3 * width] = 0.0
        return (x,)

    handle = projection.register_forward_pre_hook(without)
    with torch.no_grad(), eager_attention(model):
        by_hand = model(**feed).logits[0, -1].log_softmax(-1)
    handle.remove()
    assert effect.before[0] == pytest.approx(float(trace.logits.log_softmax(-1)[trace.target]), abs=1e-5)
    assert effect.after[0] == pytest.approx(float(by_hand[trace.target]), abs=1e-5)
    # An image for another: what the text reads of it comes through the states at its positions.
    other = fg.trace(loaded, feed_of(name, OTHER)[1])
    places = [n for n, role in enumerate(trace.axis.special) if role == "image"]
    nodes = [fg.Node("resid_pre", layer=0, position=n) for n in places]
    patched = fg.patch(loaded, trace, other, nodes)
    assert patched.score == pytest.approx(1.0, abs=1e-3)
    both = fg.ablate(loaded, [trace, other], node, target=7, metric=fg.log_probability)
    assert both.before[0] != pytest.approx(both.before[1], abs=1e-6)


def processor():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [f"w{n}" for n in range(305)]
    tokenizer = Tokenizer(
        models.WordLevel({**{word: n for n, word in enumerate(words)}, "<image>": 305, "<unk>": 306}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", additional_special_tokens=["<image>"]
    )
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return transformers.LlavaProcessor(
        image_processor=images, tokenizer=fast, patch_size=8, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1,
    )  # fmt: skip


def test_a_text_and_an_image_go_through_the_models_processor():
    model, _ = feed_of("llava")
    made = processor()
    loaded = fg.load_model(model, tokenizer=made.tokenizer, processor=made)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
    trace = fg.trace(loaded, fg.inputs(text="w5 <image> w7 w8", image=image))
    assert trace.axis.special.count("image") == 16
    expected = made(text="w5 <image> w7 w8", images=[image], return_tensors="pt")
    assert list(trace.token_ids) == expected["input_ids"][0].tolist()
    torch.testing.assert_close(trace.fed.beside["pixel_values"], expected["pixel_values"])
    # Where the text names no place for the image, it comes first.
    before = fg.trace(loaded, fg.inputs(text="w7 w8", image=image))
    assert before.axis.special[0] == "image"
    assert before.prompt == "w7 w8"


TEMPLATE = (
    "{% for turn in messages %}{% if turn['content'] is string %}{{ turn['content'] }}{% else %}{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endif %}w9 {% endfor %}"
)


def test_a_chat_holds_images(tmp_path):
    model, _ = feed_of("llava")
    made = processor()
    made.chat_template = made.tokenizer.chat_template = TEMPLATE
    loaded = fg.load_model(model, tokenizer=made.tokenizer, processor=made)
    image = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    place = {"type": "image"}
    turn = {"role": "user", "content": [{"type": "text", "text": "w5"}, place, {"type": "text", "text": "w7"}]}
    trace = fg.trace(loaded, fg.inputs(messages=[turn], image=image))
    expected = made(text="w5 <image> w7 w9", images=[image], return_tensors="pt")["input_ids"][0].tolist()
    assert list(trace.token_ids) == expected
    assert trace.axis.special.count("image") == 16
    back = fg.Trace.load(trace.save(tmp_path / "chat.safetensors"))
    assert back.fed.messages == trace.fed.messages == (turn,)
    # Without a place of its own the image comes first, also where a text is made a message.
    first = made(text="<image> w7 w9", images=[image], return_tensors="pt")["input_ids"][0].tolist()
    for one in (
        fg.inputs(messages=[{"role": "user", "content": "w7"}], image=image),
        fg.inputs(text="w7", image=image, chat=True),
    ):
        assert list(fg.trace(loaded, one).token_ids) == first
    with pytest.raises(PromptError, match=r"has 1 places of images.*and image= has 2 images"):
        fg.trace(loaded, fg.inputs(messages=[turn], image=[image, image]))
    with pytest.raises(PromptError, match=r"a list of \{'type': 'text'"):
        fg.inputs(messages=[{"role": "user", "content": [{"type": "image", "url": "cat.png"}]}])
    with pytest.raises(PromptError, match=r"messages\[0\]\['content'\] has the place of an image.*image= is not given"):
        fg.inputs(messages=[turn])


def test_a_trace_of_a_model_in_memory_belongs_to_the_same_model_in_a_folder(tmp_path):
    model, feed = feed_of("llava")
    trace = fg.trace(fg.load_model(model), feed)
    model.save_pretrained(tmp_path / "llava")
    back = fg.Trace.load(trace.save(tmp_path / "look.safetensors"))
    attached = back.attach(fg.load_model(tmp_path / "llava"))
    assert torch.equal(attached.logits, trace.logits)
    assert fg.direct_logit_attribution(attached).completeness_error < 1e-5


def test_places_without_an_image_are_refused():
    model, feed = feed_of("llava")
    made = processor()
    loaded = fg.load_model(model, tokenizer=made.tokenizer, processor=made)
    with pytest.raises(PromptError, match="16 places of an image, the first at position 1, and no image"):
        fg.trace(loaded, {"input_ids": feed["input_ids"]})
    with pytest.raises(PromptError, match="1 places of an image"):
        fg.trace(loaded, "w5 <image> w7")
    with pytest.raises(PromptError, match=r"image=.nowhere\.png.: there is no such file"):
        fg.trace(loaded, fg.inputs(text="w5", image="nowhere.png"))
    assert fg.trace(loaded, "w5 w7").tokens == ("w5", "w7")


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(PromptError, match="takes no images beside a text"):
        fg.trace(fg.load_model(tiny_model("llama")), fg.inputs(text="a b", image=np.zeros((8, 8, 3), np.uint8)))
    model, feed = feed_of("llava")
    loaded = fg.load_model(model)
    with pytest.raises(PromptError, match=r"needs the processor of .* load_model"):
        fg.trace(loaded, fg.inputs(text="a b", image=np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(ArgumentError, match="one prompt at a time"):
        fg.inputs({**feed, "input_ids": feed["input_ids"].repeat(2, 1)})
    with pytest.raises(PromptError, match="takes no images beside a text"):
        fg.trace(fg.load_model(tiny_model("llama")), {**feed, "input_ids": torch.tensor([[5, 6]])})
    too_few = {**feed, "input_ids": feed["input_ids"][:, 4:]}
    with pytest.raises(PromptError, match="fails on this prompt"):
        fg.trace(loaded, too_few)
