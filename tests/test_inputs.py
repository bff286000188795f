"""What goes into a model: every kind of prompt gives what the model itself makes of it, and everything else is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import flowgraph
from flowgraph import Inputs, Trace, Traces, ablate, edge_scores, head_effects, inputs, load_model, patch, trace
from flowgraph.errors import ArgumentError, KeywordError, PromptError
from flowgraph.values.inputs import row_dict, row_of_dict
from tests.tiny_models import TINY, llama_tokenizer, tiny_model

TEXT = "The cat sat on the mat."
PAIR = "the dog sat by the door"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "The cat"},
    {"role": "assistant", "content": "sat on the mat"},
    {"role": "user", "content": "and the dog"},
]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 8e-2, torch.float16: 1e-2}
MODELS: dict[tuple[str, str], flowgraph.LoadedModel] = {}
PAD = 3


def loaded_as(name: str, dtype: str) -> flowgraph.LoadedModel:
    """A tiny model in a number type, its tokenizer with a chat template."""
    if (name, dtype) not in MODELS:
        model, tokenizer = tiny_model(name, DTYPES[dtype])
        tokenizer.chat_template = TEMPLATE
        if name == "distilbert":
            tokenizer.model_input_names = ["input_ids", "attention_mask"]
        MODELS[name, dtype] = load_model((model, tokenizer))
    return MODELS[name, dtype]


def said_by_the_model(loaded, encoded):
    """Logits [position, vocabulary] or None, and patterns [layer, head, query, key], of the model without us."""
    loaded.model.set_attn_implementation("eager")
    with torch.no_grad():
        out = loaded.model(**encoded, output_attentions=True)
    return (out.logits[0] if loaded.anatomy.has_head else None), torch.cat(list(out.attentions))


def padded(encoded, side):
    """A tokenizer's output, padded by three."""

    def longer(name, value):
        fill = torch.full((1, PAD), 0)
        return torch.cat([fill, value] if side == "left" else [value, fill], dim=1)

    return {name: longer(name, value) for name, value in encoded.items()}


def encoded_as(tokenizer, kind):
    if kind == "messages":
        text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False, return_tensors="pt")
    return tokenizer(TEXT, PAIR if kind == "pair" else None, return_tensors="pt")


def given_as(encoded, kind):
    ids = encoded["input_ids"]
    return {
        "text": TEXT,
        "ids": ids[0].tolist(),
        "row": ids,
        "numpy": ids.numpy().astype(np.int32),
        "tokenizer": encoded,
        "left": padded(encoded, "left"),
        "right": padded(encoded, "right"),
        "pair": inputs(text=TEXT, pair=PAIR),
        "messages": CHAT,
    }[kind]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in TINY),
        *((name, dtype) for name in ("llama", "bert") for dtype in ("bfloat16", "float16")),
    ],
)
def test_every_kind_of_prompt_gives_what_the_model_says(name, dtype):
    loaded = loaded_as(name, dtype)
    wanted = "all" if loaded.anatomy.has_head else "last"
    for kind in ("text", "ids", "row", "numpy", "tokenizer", "left", "right", "pair", "messages"):
        encoded = encoded_as(loaded.tokenizer, kind)
        made = trace(loaded, given_as(encoded, kind), position=-1, logits=wanted, keep={"pattern"})
        logits, pattern = said_by_the_model(loaded, encoded)
        assert made.token_ids == tuple(encoded["input_ids"][0].tolist()), kind
        torch.testing.assert_close(made.pattern, pattern, atol=CLOSE[DTYPES[dtype]], rtol=0, msg=kind)
        if logits is not None:
            scale = float(logits.abs().max())
            assert float((made.logits - logits).abs().max()) <= CLOSE[DTYPES[dtype]] * scale, kind


def test_a_pair_has_its_token_types():
    loaded = loaded_as("bert", "float32")
    encoded = loaded.tokenizer(TEXT, PAIR, return_tensors="pt")
    types = encoded["token_type_ids"][0].tolist()
    assert set(types) == {0, 1}
    given = inputs(text=TEXT, pair=PAIR).of(loaded)
    assert given.token_types == tuple(types)
    by_ids = trace(loaded, encoded["input_ids"], token_type_ids=encoded["token_type_ids"], position=2)
    by_name = trace(loaded, inputs(ids=encoded["input_ids"], token_types=types), position=2)
    without = trace(loaded, encoded["input_ids"], position=2)
    said = said_by_the_model(loaded, encoded)[0][2]
    for made in (by_ids, by_name):
        torch.testing.assert_close(made.logits, said, atol=1e-5, rtol=0)
    assert (without.logits - said).abs().max() > 0.01


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gpt_neo"])
def test_token_types_that_are_words_of_the_same_table(name):
    loaded = loaded_as(name, "float32")
    ids, types = torch.tensor([[20, 31, 42, 53]]), torch.tensor([[5, 5, 6, 6]])
    made = trace(loaded, ids, token_type_ids=types, logits="all")
    logits, pattern = said_by_the_model(loaded, {"input_ids": ids, "token_type_ids": types})
    torch.testing.assert_close(made.logits, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.pattern, pattern, atol=1e-5, rtol=0)
    assert flowgraph.direct_logit_attribution(made).completeness_error < 1e-4
    with pytest.raises(PromptError, match="prompts with token types and prompts without"):
        ablate(loaded, [made, trace(loaded, ids)], flowgraph.Node("head", layer=0, head=0))


def test_a_model_without_token_types_says_so_where_they_were_meant():
    loaded = loaded_as("llama", "float32")
    with pytest.raises(PromptError, match=r"token_types= is given, but .* knows no token types"):
        inputs(ids=[5, 6], token_types=[0, 1]).of(loaded)
    # What its tokenizer makes is left out, as the model itself does.
    assert inputs({"input_ids": [5, 6], "token_type_ids": [0, 1]}).of(loaded).token_types is None
    bert = loaded_as("bert", "float32")
    with pytest.raises(PromptError, match=r"token_types= holds 2; .* knows the types 0 to 1"):
        inputs(ids=[5, 6], token_types=[0, 2]).of(bert)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "bert"])
def test_positions_that_are_given_go_in(name):
    loaded = loaded_as(name, "float32")
    places = [3, 4, 5, 9]
    ids = torch.tensor([[20, 31, 42, 53]])
    made = trace(loaded, ids, position_ids=places, position=-1, logits="all")
    logits, pattern = said_by_the_model(loaded, {"input_ids": ids, "position_ids": torch.tensor([places])})
    torch.testing.assert_close(made.logits, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.pattern, pattern, atol=1e-5, rtol=0)
    with pytest.raises(PromptError, match="position_ids= holds -1"):
        trace(loaded, ids, position_ids=[0, 1, 2, -1], position=-1)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x.tolist(), lambda x: x.numpy(), lambda x: list(x)])
def test_a_batch_is_several_prompts(make):
    loaded = loaded_as("llama", "float32")
    batch = torch.tensor([[20, 31, 42], [53, 64, 75]])
    made = trace(loaded, make(batch))
    assert isinstance(made, Traces)
    assert [one.token_ids for one in made] == [(20, 31, 42), (53, 64, 75)]
    assert torch.equal(made[1].logits, trace(loaded, [53, 64, 75]).logits)
    assert flowgraph.trace_size(loaded, make(batch)) == 2 * flowgraph.trace_size(loaded, [20, 31, 42])
    with pytest.raises(PromptError, match=r"a batch of 2 prompts; take one of them: traces\[0\].pattern"):
        flowgraph.attention_rollout(made)
    with pytest.raises(ArgumentError, match="more than max_bytes"):
        trace(loaded, make(batch), max_bytes=made[0].nbytes)


def test_texts_and_padded_rows_are_batches_too():
    loaded = loaded_as("llama", "float32")
    texts = ["The cat sat", "the dog sat by the door"]
    made = trace(loaded, texts)
    assert [one.prompt for one in made] == texts
    assert [one.prompt for one in trace(loaded, texts[:1])] == texts[:1]
    tokenizer = loaded.tokenizer
    tokenizer.pad_token = "</s>"
    for side in ("left", "right"):
        tokenizer.padding_side = side
        again = trace(loaded, tokenizer(texts, padding=True, return_tensors="pt"))
        assert [one.token_ids for one in again] == [one.token_ids for one in made]
        for one, other in zip(made, again, strict=True):
            assert torch.equal(one.logits, other.logits)
    separately = trace(loaded, [tokenizer(text) for text in texts])
    assert [one.token_ids for one in separately] == [one.token_ids for one in made]


@pytest.mark.parametrize("mask", [[0, 1, 1, 1], [0.0, 1.0, 1.0, 1.0], [False, True, True, True]])
def test_masks_of_any_number_type(mask):
    loaded = loaded_as("gpt2", "float32")
    made = trace(loaded, [7, 20, 31, 42], attention_mask=torch.tensor(mask))
    assert made.token_ids == (20, 31, 42)
    assert torch.equal(made.logits, trace(loaded, [20, 31, 42]).logits)


def test_what_a_tokenizer_of_the_library_tokenizers_returned():
    loaded = loaded_as("bert", "float32")
    encoded = loaded.tokenizer.backend_tokenizer.encode(TEXT, PAIR)
    assert inputs(encoded).of(loaded).token_types == tuple(encoded.type_ids)


# Chat and special tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo"])
def test_an_encoding_says_no_types_where_types_are_words(name):
    # Its types are always there, zeros at least; GPT-2 would add the embedding of token 0 everywhere.
    loaded = loaded_as(name, "float32")
    encoded = loaded.tokenizer(TEXT, return_tensors="pt")
    logits, patterns = said_by_the_model(loaded, encoded)
    made = trace(loaded, encoded.encodings[0])
    assert (made.logits - logits[-1]).abs().max() < 1e-4
    assert (made.pattern - patterns).abs().max() < 1e-5
    said = trace(loaded, loaded.tokenizer(TEXT, return_token_type_ids=True))
    assert said.fed.token_types == (0,) * len(said.tokens)  # as the model itself takes what its tokenizer says


def test_a_text_that_begins_with_its_start_gets_no_second_one():
    loaded = loaded_as("llama", "float32")
    start = loaded.tokenizer.bos_token_id
    plain = inputs("The cat").of(loaded)
    assert inputs("<s>The cat").of(loaded).ids.count(start) == 1
    assert plain.ids[0] == start
    twice = inputs("<s><s>The cat").of(loaded)
    assert twice.ids[:3].count(start) == 2, "two that were written stay two"
    bert = loaded_as("bert", "float32")
    assert inputs("[CLS] the cat [SEP]").of(bert).ids == inputs("the cat").of(bert).ids
    pair = inputs(text="the cat", pair="a dog").of(bert)
    assert inputs(text="[CLS] the cat", pair="a dog").of(bert).ids == pair.ids
    made = inputs("<s>The cat").of(loaded)
    assert len(made.offsets) == len(made.ids)
    assert made.offsets[0] == (0, 3)


def test_messages_go_through_the_chat_template():
    loaded = loaded_as("llama", "float32")
    tokenizer = loaded.tokenizer
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    want = tuple(tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)["input_ids"])
    assert trace(loaded, CHAT).token_ids == want
    assert trace(loaded, CHAT, chat=True).token_ids == want
    assert trace(loaded, rendered).token_ids == want
    made = inputs(messages=CHAT).of(loaded)
    assert made.text == rendered
    pieces = [rendered[start:end].strip() for start, end in made.offsets]
    strings = [string.strip() for string in loaded.vocabulary.strings(made.ids)]
    assert pieces == strings
    assert trace(loaded, "and the dog", chat=True).prompt == "and the dog"
    assert trace(loaded, [CHAT, CHAT[:2]])[1].token_ids == inputs(CHAT[:2]).of(loaded).ids


def test_an_answer_that_has_begun_is_gone_on_with():
    loaded = loaded_as("llama", "float32")
    begun = inputs(messages=CHAT[:3]).of(loaded)
    assert begun.text.endswith("assistant: sat on the mat")


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Tokyo"}}}
TOOLS = (
    "{% for m in messages %}{{ m.role }}: {% if m.tool_calls %}call {{ m.tool_calls[0].function.name }}"
    "{% else %}{{ m.content }}{% endif %};{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("content", [{"content": None}, {}])
def test_a_turn_that_only_calls_tools_is_what_the_template_makes_of_it(content):
    tokenizer = llama_tokenizer()
    tokenizer.chat_template = TOOLS
    loaded = load_model((tiny_model("llama")[0], tokenizer))
    asked, call = {"role": "user", "content": "The cat"}, {"role": "assistant", "tool_calls": [CALL], **content}
    chat = [asked, call, {"role": "tool", "content": "the dog"}]
    want = "user: The cat;assistant: call weather;tool: the dog;assistant: "
    assert inputs(chat).of(loaded).text == inputs(messages=chat).of(loaded).text == want
    assert inputs(chat[:2]).of(loaded).text == "user: The cat;assistant: call weather;"
    assert inputs(call).of(loaded).rows[0].prompt == "assistant: call weather;"
    assert trace(loaded, chat).token_ids == tuple(tokenizer(want, add_special_tokens=False)["input_ids"])


def test_a_turn_without_content_is_never_the_word_none():
    tokenizer = llama_tokenizer()
    tokenizer.chat_template = TEMPLATE
    loaded = load_model((tiny_model("llama")[0], tokenizer))
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    chat = [{"role": "user", "content": "The cat"}, call, {"role": "tool", "content": "the dog"}]
    assert "assistant: \n" in inputs(chat).of(loaded).text
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    with pytest.raises(PromptError, match=r"refuses these messages: .*messages\[1\] has no content; content='' gives"):
        trace(loaded, chat)
    with pytest.raises(
        PromptError, match=r"messages\[0\]\['content'\] is None .*expected a text, None beside tool_calls, or a list of"
    ):
        inputs(messages=[{"role": "user", "content": None}])


def test_messages_without_a_template_and_what_the_template_refuses():
    without = load_model(tiny_model("llama"))
    with pytest.raises(PromptError, match="tokenizer has no chat template; leave chat out"):
        trace(without, CHAT)
    tokenizer = llama_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system message, please') }}"
    strict = load_model((tiny_model("llama")[0], tokenizer))
    with pytest.raises(PromptError, match="refuses these messages: no system message, please"):
        trace(strict, CHAT)
    with pytest.raises(PromptError, match="the prompt is messages, but this model has no tokenizer"):
        trace(load_model(tiny_model("llama")[0]), CHAT)


@pytest.mark.parametrize(("name", "text"), [("llama", "<s>"), ("llama", "<s><s>"), ("opt", "</s>"), ("roberta", "<s>")])
def test_a_text_of_nothing_but_its_start_gets_no_second_one(name, text):
    loaded = loaded_as(name, "float32")
    bare = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = [loaded.tokenizer.sep_token_id] if name == "roberta" else []
    assert inputs(text).of(loaded).ids == (*bare, *end)


def test_what_a_tokenizer_fails_with_is_told_as_ours():
    words = Tokenizer(WordLevel({"the": 5, "cat": 6}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    loaded = load_model((tiny_model("llama")[0], words))
    assert trace(loaded, "the cat").token_ids == (5, 6)
    with pytest.raises(PromptError, match="fails on this text with Exception: WordLevel error"):
        trace(loaded, "the dog")
    divided = llama_tokenizer()
    divided.chat_template = "{{ 1 / 0 }}"
    with pytest.raises(PromptError, match="refuses these messages: division by zero"):
        trace(load_model((tiny_model("llama")[0], divided)), CHAT)


# What is refused -----------------------------------------------------------------------------------------------------

REFUSED = {
    "float ids": (torch.tensor([1.7, 5.2]), "ids= holds 1.7"),
    "whole floats": ([1.0, 5.0], "ids= holds 1.0"),
    "embeddings": (torch.rand(1, 3, 32), "embeddings cannot be traced"),
    "NaN": ([float("nan")], "ids= holds nan"),
    "truth values": ([True, False], r"ids= holds True \(bool\)"),
    "words": ([["The", "cat"]], "ids= holds 'The'.*text as one string"),
    "deep lists": ([[[5, 6], [7, 8]], [[5, 6], [7, 8]]], "nested deeper"),
    "text among ids": (["a", 5], "ids= holds 'a'"),
    "one number": (5, "the prompt is a int"),
    "bytes": (b"abc", "the prompt is a bytes"),
    "nothing": (None, "there is no prompt"),
    "another dict": ({"a": 1}, "the keys 'a'"),
    "half a message": ([{"role": "user"}], "messages are dicts with 'role' and 'content'"),
    "pictures": ({"input_ids": [5], "pictures": 0}, "'pictures' beside its input_ids"),
    "an image beside a text": ({"input_ids": [5], "pixel_values": [[0.0]]}, "takes no images beside a text"),
    "no tokens": ([], "no tokens"),
    "no rows": (torch.zeros(0, 5, dtype=torch.long), r"ids= has the shape \[0, 5\]: there is no row in it"),
    "ids that are nowhere": (
        torch.empty(1, 4, dtype=torch.long, device="meta"),
        "ids= is a tensor whose numbers cannot be",
    ),
    "sparse ids": (torch.tensor([[5, 6]]).to_sparse(), "ids= is a tensor whose numbers cannot be read"),
    "an empty text": ("", "the prompt is empty"),
    "an empty one among texts": (["a", ""], "the prompt is empty"),
    "a hole": ({"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1]}, "mask= is 0 at position 1, between tokens"),
    "only padding": ({"input_ids": [5, 6], "attention_mask": [0, 0]}, "mask= is 0 everywhere"),
    "a mask of scores": ({"input_ids": [5, 6], "attention_mask": [0.0, -1e9]}, "mask= holds -1e\\+09; expected 1 for"),
    "a mask with NaN": ({"input_ids": [5, 6], "attention_mask": [1.0, float("nan")]}, "mask= holds nan"),
    "a longer mask": ({"input_ids": [5, 6], "attention_mask": [1, 1, 1]}, "mask= has 3 entries and ids= has 2"),
    "content that is none": ([{"role": "user", "content": 5}], r"messages\[0\]\['content'\] is 5"),
    "pixels": (np.zeros((1, 3, 8, 8)), r"pixels of an image are flowgraph\.inputs\(image=…\)"),
    "samples": (np.zeros(8, dtype=np.float32), r"samples of a sound are flowgraph\.inputs\(audio=…, sampling_rate=…\)"),
    "a path": (Path("cat.png"), r"a path, 'cat\.png'; of an image give flowgraph\.inputs\(image=…\)"),
    "a picture in a message": ([{"role": "user", "content": [{"type": "image"}]}], "has the place of an image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_prompt_is_refused_by_name(kind):
    prompt, message = REFUSED[kind]
    with pytest.raises(ArgumentError, match=message):
        trace(loaded_as("llama", "float32"), prompt)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "there is no prompt"),
        ({"text": "a", "ids": [5]}, "text= and ids= are given; give one of them"),
        ({"text": "a", "mask": [1]}, "mask= needs the prompt as ids=, not as text"),
        ({"ids": [5], "pair": "a"}, "pair= needs the prompt as text="),
        ({"ids": [5], "chat": True}, "chat=True needs the prompt as a text"),
        ({"text": "a", "pair": "b", "chat": True}, "chat=True takes one text"),
        ({"text": ["a", "b"], "pair": ["c"]}, "pair= has 1 texts for 2"),
        ({"ids": [5, 6], "position_ids": [1]}, "position_ids= has 1 entries and ids= has 2"),
        ({"prompt": {"input_ids": [5], "attention_mask": [1]}, "mask": [1]}, "mask= is given twice"),
    ],
)
def test_arguments_that_do_not_go_together(given, message):
    with pytest.raises(ArgumentError, match=message):
        inputs(**given)


@pytest.mark.parametrize(
    ("call", "name", "advice"),
    [
        (inputs, "images", "an image is image="),
        (inputs, "tgt_text", "what a decoder has written is target_text="),
        (inputs, "labels", "what a decoder has written is target_ids="),
        (inputs, "sampling_rat", "did you mean sampling_rate=?"),
        (inputs, "nonsense", "it takes prompt, text, messages"),
        (trace, "image", "give it with the prompt: flowgraph.inputs(image=…)"),
        (trace, "images", "give it with the prompt: flowgraph.inputs(image=…)"),
        (trace, "target_text", "give it with the prompt: flowgraph.inputs(target_text=…)"),
        (trace, "sampling_rate", "give it with the prompt: flowgraph.inputs(sampling_rate=…)"),
        (flowgraph.trace_size, "audio", "give it with the prompt: flowgraph.inputs(audio=…)"),
        (trace, "tarjet", "did you mean target=?"),
    ],
)
def test_a_name_that_is_no_argument_says_the_right_call(call, name, advice):
    with pytest.raises(KeywordError) as caught:
        call("a", **{name: "b"})
    assert str(caught.value) == f"{call.__name__}({name}=…): there is no such argument; {advice}" or (
        name == "nonsense" and advice in str(caught.value)
    )
    assert isinstance(caught.value, TypeError)  # as of any function of Python
    assert isinstance(caught.value, ArgumentError)


def test_a_picture_is_known_without_its_name():
    picture = Image.new("RGB", (4, 4))
    for prompt, several in ((picture, False), ([picture, picture], True)):
        made = inputs(prompt)
        assert made.batch is several
        assert all(row.source == "image" and row.given.value is picture for row in made.rows)
    with pytest.raises(PromptError, match=r"reads a text; give flowgraph.inputs\(text= or ids="):
        trace(loaded_as("llama", "float32"), picture)


def test_the_function_stays_a_function_whatever_was_imported_first():
    assert trace(loaded_as("gpt2", "float32"), [20]).inputs == flowgraph.inputs(ids=[20]).of(
        loaded_as("gpt2", "float32")
    )
    assert callable(flowgraph.inputs)
    assert isinstance(inputs(inputs("a")), Inputs)


# What a trace keeps --------------------------------------------------------------------------------------------------


def bert_pair() -> tuple[flowgraph.LoadedModel, Trace, Trace]:
    loaded = loaded_as("bert", "float32")
    ids = loaded.tokenizer("the cat [MASK]", PAIR)["input_ids"]
    types = loaded.tokenizer("the cat [MASK]", PAIR)["token_type_ids"]
    return loaded, trace(loaded, inputs(ids=ids, token_types=types)), trace(loaded, ids)


def test_the_same_pass_is_run_again_with_its_token_types(tmp_path):
    loaded, pair, plain = bert_pair()
    head = flowgraph.Node("head", layer=1, head=2)
    again = trace(loaded, pair.inputs)
    assert torch.equal(again.logits, pair.logits)
    measured = ablate(loaded, pair, head, target=30)
    by_hand = trace(loaded, inputs(ids=pair.token_ids, token_types=pair.inputs.token_types))
    assert torch.equal(by_hand.logits, pair.logits)
    assert measured.before[0] != pytest.approx(ablate(loaded, plain, head, target=30).before[0], abs=1e-4)
    # A batch of both: each with its own.
    both = ablate(loaded, [pair, plain], head, target=30)
    for n, one in enumerate((pair, plain)):
        assert both.before[n] == pytest.approx(ablate(loaded, one, head, target=30).before[0], abs=1e-5)
        assert both.after[n] == pytest.approx(ablate(loaded, one, head, target=30).after[0], abs=1e-5)
    back = patch(loaded, pair, plain, head, target=30)
    assert back.clean[0] == pytest.approx(measured.before[0], abs=1e-5)
    assert head_effects(loaded, pair, plain, target=30).by_prompt.shape == (1, 2, 4)


def test_token_types_and_messages_survive_the_file(tmp_path):
    loaded, pair, _ = bert_pair()
    opened = Trace.load(pair.save(tmp_path / "pair.safetensors"))
    assert opened.fed == pair.fed
    assert opened.inputs.token_types == pair.inputs.token_types
    assert torch.equal(trace(loaded, opened.attach(loaded).inputs).logits, pair.logits)
    chat = trace(loaded_as("llama", "float32"), CHAT)
    opened = Trace.load(chat.save(tmp_path / "chat.safetensors"))
    assert opened.inputs.messages == tuple(CHAT)
    assert opened.fed == chat.fed


def test_traces_of_earlier_files_say_which_ids_went_in(tmp_path):
    made = trace(loaded_as("gpt2", "float32"), "The cat")
    older = dataclasses.replace(made, fed=None)
    opened = Trace.load(older.save(tmp_path / "older.safetensors"))
    assert opened.fed is None
    assert opened.inputs.ids == made.token_ids
    assert opened.inputs.text == "The cat"
    with pytest.raises(ArgumentError, match="other token ids"):
        dataclasses.replace(made, token_ids=(5,), tokens=("a",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "a fax"), ("text", 5), ("token_types", [0]), ("token_types", [0.5, 1]), ("offsets", [[0, 1]]),
        ("offsets", [[0], [1]]), ("words", "ab"), ("messages", [{"role": "user"}]), ("pair", ["a"]),
    ],
)  # fmt: skip
def test_a_row_from_a_file_is_checked_value_by_value(name, value):
    row = inputs(ids=[5, 6]).rows[0]
    assert row_of_dict(row_dict(row), (5, 6)) == row
    with pytest.raises(ArgumentError):
        row_of_dict(row_dict(row) | {name: value}, (5, 6))
    with pytest.raises(ArgumentError, match="fields of a row"):
        row_of_dict({"source": "ids"}, (5, 6))


def test_circuits_and_tasks_take_inputs():
    loaded = loaded_as("llama", "float32")
    clean, corrupted = inputs(CHAT), inputs([*CHAT[:3], {"role": "user", "content": "and the cat"}])
    assert len(clean.of(loaded).ids) == len(corrupted.of(loaded).ids)
    scores = edge_scores(loaded, clean, corrupted, target=30, foil=31)
    by_ids = edge_scores(loaded, list(clean.of(loaded).ids), list(corrupted.of(loaded).ids), target=30, foil=31)
    np.testing.assert_allclose(scores.scores, by_ids.scores)
    data = flowgraph.TaskData("chat", "a chat", (flowgraph.Example(clean, corrupted, 30, 31),))
    graph = flowgraph.discover(loaded, data=data, method="eap", threshold=0.0)
    assert flowgraph.faithfulness(loaded, data, graph, sizes=(1.0,), bootstrap=0).full.shape == (1,)
    made = flowgraph.corrupt(loaded, clean, "tokens")
    assert isinstance(made, Inputs)
    assert len(made.ids) == len(clean.of(loaded).ids)
    with pytest.raises(PromptError, match="a batch of 2 prompts"):
        flowgraph.corrupt(loaded, inputs(["The cat", "the dog"]), "tokens")


def test_words_of_a_text():
    loaded = loaded_as("bert", "float32")
    made = inputs(text="the cat chased", pair="the dog").of(loaded)
    groups: dict[int, list[str]] = {}
    for word, (start, end), kind in zip(made.rows[0].words, made.offsets, made.token_types, strict=True):
        groups.setdefault(word, []).append(("the cat chased", "the dog")[kind][start:end])
    assert ["".join(parts) for parts in groups.values()] == ["", "the", "cat", "chased", "", "the", "dog", ""]
