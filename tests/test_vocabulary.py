"""Tokens as strings and back: every id of every kind of tokenizer, and every wrong target."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

import flowgraph
from flowgraph.errors import ArgumentError, PromptError, TargetError
from flowgraph.models import Vocabulary
from tests import tiny_models

TOKENIZERS = {
    name: getattr(tiny_models, f"{name}_tokenizer")()
    for name in ("gpt2", "qwen", "opt", "roberta", "bert", "llama", "gemma")
}
BYTE_LEVEL = ("gpt2", "qwen", "opt", "roberta")
WITH_BYTES = (*BYTE_LEVEL, "llama", "gemma")
PART = re.compile(r"<([0-9A-F]{2})>")

kinds = pytest.mark.parametrize("kind", list(TOKENIZERS))


def vocabulary(kind: str) -> Vocabulary:
    return Vocabulary(TOKENIZERS[kind], len(TOKENIZERS[kind]))


def ids_by_string(words: Vocabulary) -> dict[str, list[int]]:
    found = defaultdict(list)
    for token_id in range(len(words)):
        found[words.string(token_id)].append(token_id)
    return found


def text_of(words: Vocabulary, ids: list[int]) -> str:
    """The text that strings stand for: parts of characters put together again."""
    data = b""
    for word in words.strings(ids):
        for part in re.split(r"(<[0-9A-F]{2}>)", word):
            byte = PART.fullmatch(part)
            data += bytes([int(byte[1], 16)]) if byte else part.encode()
    return data.decode()


# To strings


@kinds
def test_no_string_hides_what_it_stands_for(kind):
    words = vocabulary(kind)
    strings = words.strings(range(len(words)))
    assert all(strings)
    assert not [string for string in strings if "\ufffd" in string]
    assert not [string for string in strings if "Ġ" in string or "▁" in string or "<0x" in string]


@pytest.mark.parametrize("kind", WITH_BYTES)
def test_every_byte_that_is_only_a_part_is_written_as_one(kind):
    strings = set(vocabulary(kind).strings(range(len(TOKENIZERS[kind]))))
    assert {f"<{byte:02X}>" for byte in range(0x80, 0x100)} <= strings
    assert {chr(byte) for byte in range(0x80)} <= strings


@pytest.mark.parametrize("kind", BYTE_LEVEL)
def test_an_emoji_in_parts(kind):
    words, tokenizer = vocabulary(kind), TOKENIZERS[kind]
    strings = words.strings(tokenizer.encode("🗿", add_special_tokens=False))
    assert len(strings) > 1
    assert "".join(strings) == "<F0><9F><97><BF>"


@pytest.mark.parametrize("kind", WITH_BYTES)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\ufffd▁"), min_size=1, max_size=20))
def test_strings_add_up_to_the_text(kind, text):
    words, tokenizer = vocabulary(kind), TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=False)
    start = " " if kind == "llama" else ""
    assert text_of(words, ids) == start + text


def test_spaces_belong_to_the_token():
    for kind in ("gpt2", "llama"):
        words = vocabulary(kind)
        assert {" the", " dog"} <= set(words.strings(range(len(words))))


def test_word_pieces_keep_their_mark():
    words = vocabulary("bert")
    assert words.string(words.target_id("##ing")) == "##ing"
    assert words.string(words.target_id("[MASK]")) == "[MASK]"


def test_a_token_for_an_unreadable_character_is_written_in_bytes():
    """U+FFFD is a character of its own in some vocabularies; printed as itself it would look like a failure."""
    tokenizer = tiny_models.gemma_tokenizer()
    words = Vocabulary(tokenizer, len(tokenizer))
    assert words.strings(tokenizer.encode("\ufffd", add_special_tokens=False)) == ("<EF>", "<BF>", "<BD>")


def test_added_tokens_are_text():
    """They do not pass through the byte alphabet: é would be the byte E9 there."""
    tokenizer = tiny_models.gpt2_tokenizer()
    added = ("née", "  ", "<tool>")
    tokenizer.add_tokens([AddedToken(text, special=False) for text in added])
    words = Vocabulary(tokenizer, len(tokenizer))
    assert words.strings(range(len(words) - 3, len(words))) == added
    for text in added:
        assert words.string(words.target_id(text)) == text


def test_rows_that_the_tokenizer_does_not_use():
    tokenizer = TOKENIZERS["gpt2"]
    words = Vocabulary(tokenizer, len(tokenizer) + 3)
    last = len(words) - 1
    assert words.string(last) == f"#{last}"
    assert words.target_id(last) == words.target_id(f"#{last}") == last
    with pytest.raises(ArgumentError, match=r"token_id=-1 is negative; ids run from 0 to"):
        words.string(-1)


# And back


@kinds
def test_a_string_means_its_id(kind):
    words = vocabulary(kind)
    for string, ids in ids_by_string(words).items():
        if len(ids) == 1:
            assert words.target_id(string) == ids[0]
        else:
            assert words.string(words.target_id(string)) == string


def test_which_of_several_ids_is_meant():
    """The tokenizer's own choice first, then an ordinary token before a byte."""
    gemma = TOKENIZERS["gemma"]
    words = vocabulary("gemma")
    byte, letter = gemma.convert_tokens_to_ids(["<0x61>", "a"])
    assert words.string(byte) == words.string(letter) == "a"
    assert byte < letter
    assert words.target_id("a") == letter == gemma.encode("a", add_special_tokens=False)[0]
    # A llama puts a space before the text, so that the letter alone is nothing it would make of "a".
    words, llama = vocabulary("llama"), TOKENIZERS["llama"]
    assert llama.encode("a", add_special_tokens=False) != llama.convert_tokens_to_ids(["a"])
    assert words.target_id("a") == llama.convert_tokens_to_ids("a")
    assert words.target_id(" the") == llama.convert_tokens_to_ids("▁the")

    tokenizer = tiny_models.gpt2_tokenizer()
    the = tokenizer.convert_tokens_to_ids("Ġthe")
    tokenizer.add_tokens([" the"])
    words = Vocabulary(tokenizer, len(tokenizer))
    added = len(tokenizer) - 1
    assert words.string(the) == words.string(added) == " the"
    assert words.target_id(" the") == added == tokenizer.encode(" the", add_special_tokens=False)[0]


def test_parts_of_characters_are_targets(tiny):
    loaded = tiny("gpt2")
    words = loaded.vocabulary
    part = next(words.string(i) for i in range(len(words)) if PART.fullmatch(words.string(i)))
    trace = flowgraph.trace(loaded, "The cat", target=part)
    assert trace.target_token == part


@given(text=st.text(max_size=12), kind=st.sampled_from(sorted(TOKENIZERS)))
def test_any_text_is_a_token_or_a_named_error(text, kind):
    words = vocabulary(kind)
    with contextlib.suppress(TargetError, PromptError):
        assert 0 <= words.target_id(text) < len(words)


def test_targets_of_several_tokens():
    words = vocabulary("gpt2")
    with pytest.raises(TargetError) as error:
        words.target_id(" the dog")
    match = re.fullmatch(
        r"target=' the dog' is 2 tokens of this model: ' the', ' dog'\. Only one can be read; to take the first, "
        r"say target=' the' \(id (\d+)\)",
        str(error.value),
    )
    assert match
    assert words.target_id(int(match[1])) == words.target_id(" the")


def test_a_forgotten_space_is_pointed_out():
    words = vocabulary("gpt2")
    assert words.target_id(" Mary") is not None
    with pytest.raises(
        TargetError, match=r"foil='Mary' is \d tokens .*; with the space before it, ' Mary' is one token$"
    ):
        words.target_id("Mary", "foil")


@pytest.mark.parametrize(("kind", "text"), [("bert", "猫"), ("bert", ""), ("gpt2", ""), ("bert", "   ")])
def test_targets_outside_the_vocabulary(kind, text):
    with pytest.raises(TargetError, match=rf"target='{text}' is not in the vocabulary of this model \(\d+ tokens\)"):
        vocabulary(kind).target_id(text)


def test_lower_casing_tokenizers_take_what_they_make_of_a_word():
    words = vocabulary("bert")
    assert words.target_id("The") == words.target_id("the")


@pytest.mark.parametrize(
    "target", [-1, 10**6, True, False, 1.0, float("nan"), None, [1], b"a", 2**70], ids=lambda value: repr(value)
)
def test_ids_that_are_none(target):
    words = vocabulary("gpt2")
    with pytest.raises(TargetError, match=rf"is not a token id of this model; ids run from 0 to {len(words) - 1}$"):
        words.target_id(target)


@pytest.mark.parametrize("target", [5, np.int64(5), torch.tensor(5)])
def test_ids_of_any_integer_type(target):
    token_id = vocabulary("gpt2").target_id(target)
    assert type(token_id) is int
    assert token_id == 5


def test_ids_at_the_edges():
    words = vocabulary("gpt2")
    assert words.target_id(0) == 0
    assert words.target_id(len(words) - 1) == len(words) - 1
    with pytest.raises(TargetError):
        words.target_id(len(words))


def test_ids_above_the_embedding_do_not_exist():
    """Some tokenizers were given tokens that the model was never resized for."""
    tokenizer = tiny_models.gpt2_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens(["<late>"])
    words = Vocabulary(tokenizer, size)
    with pytest.raises(TargetError, match="'<late>' is not in the vocabulary"):
        words.target_id("<late>")


def test_without_a_tokenizer():
    words = Vocabulary(None, 20)
    assert words.strings([0, 19]) == ("#0", "#19")
    assert words.target_id("#19") == 19
    with pytest.raises(TargetError, match=r"target=' Tokyo': this model has no tokenizer; give the token id as an int"):
        words.target_id(" Tokyo")


# Prompts


def test_text_that_is_no_unicode():
    with pytest.raises(PromptError, match=r"'a\\udcff' is not valid Unicode: character 1"):
        vocabulary("gpt2").target_id("a\udcff")
    with pytest.raises(PromptError):
        vocabulary("gpt2").target_id("\ud83d")


# The real vocabulary


@pytest.mark.real_model
def test_every_token_of_the_real_vocabulary(smollm2):
    words = smollm2.vocabulary
    assert len(words) == 49152
    found = ids_by_string(words)
    assert not [string for string in found if "\ufffd" in string or not string]
    assert [string for string, ids in found.items() if len(ids) > 1] == []
    wrong = [ids[0] for string, ids in found.items() if words.target_id(string) != ids[0]]
    assert wrong == []
    assert "<F0><9F>" in found
    assert words.target_id("\ufffd") == words.target_id("<EF><BF><BD>")


@pytest.mark.real_model
def test_words_of_the_real_vocabulary(smollm2, minilm):
    words = smollm2.vocabulary
    assert words.string(words.target_id(" Tokyo")) == " Tokyo"
    with pytest.raises(TargetError, match=r"'Tokyo' is 2 tokens of this model: 'To', 'kyo'\..*' Tokyo' is one token"):
        words.target_id("Tokyo")
    assert minilm.vocabulary.string(minilm.vocabulary.target_id("tokyo")) == "tokyo"
