"""Counterfactuals: same length, exactly the said tokens differ, and the answer moves as far as is said, measured again by itself."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import flowgraph as fg
from flowgraph.errors import ArgumentError, CancelledError, NoCounterfactualError, PromptError, TargetError
from flowgraph.interventions.prompts import prompts_of
from flowgraph.tasks.counterfactuals import _Runs
from flowgraph.tasks.kinds import FUNCTION_WORDS, KEYWORDS, LISTS, OPPOSITES
from flowgraph.tasks.prompt_words import Spelling, function_words, is_code, is_content, like
from tests.conftest import IDS, JAPAN, MARY
from tests.test_classifiers import text_model
from tests.tiny_models import bert_tokenizer, tiny_model
from tests.tiny_translator import translator

FLIP = MARY.replace("John gave", "Mary gave")
PROMPTS = {
    JAPAN: "Japan",
    MARY: "Mary",
    "river bread horse money paper river bread horse": "money",
    "The keys to the cabinet": "keys",
    "The war lasted from the year 1742 to the year 17": "1742",
    "Snow is white, and coal is": "white",
    "def add(a, b):\n    return a +": "b",
    "He plays the piano, and she plays the": "plays",
}
"""Prompt → a word whose exchange is among the proposals."""


def logits_of(model, rows, position=-1):
    """[row, d_vocab] logits at a position, or of a classifier, by the model itself."""
    with torch.no_grad():
        found = model.model(torch.tensor([list(ids) for ids in rows])).logits.double()
    return found if found.ndim == 2 else found[:, position]


def verify(model, ids, found, position=-1):
    """Every number of the proposals, by forwards of their own."""
    clean, *runs = logits_of(model, [ids, *(one.token_ids for one in found)], position)
    special = set(model.tokenizer.all_special_ids)
    a = found.target
    assert a == int(clean.argmax())
    assert found.answer == model.answers.string(a)
    assert found.probability == pytest.approx(float(clean.softmax(-1)[a]), abs=1e-4)
    assert found.token_ids == tuple(ids)
    assert len({one.token_ids for one in found}) == len(found) > 0
    for one, run in zip(found, runs, strict=True):
        assert len(one.token_ids) == len(ids)
        differ = tuple(n for n, (old, new) in enumerate(zip(ids, one.token_ids, strict=True)) if old != new)
        assert differ == one.positions
        assert differ[0] == one.position
        assert not special & {token for n in differ for token in (ids[n], one.token_ids[n])}
        assert one.foil == int(run.argmax()) != a
        assert one.answer == model.answers.string(one.foil)
        assert one.probability == pytest.approx(float(run.softmax(-1)[one.foil]), abs=1e-4)
        gap = float((clean[a] - clean[one.foil]) - (run[a] - run[one.foil]))
        assert one.gap == pytest.approx(gap, abs=1e-3)
        assert gap >= 2.0 - 1e-3
        fall = float(clean.log_softmax(-1)[a] - run.log_softmax(-1)[a])
        assert one.log_gap == pytest.approx(fall, abs=1e-3)
        assert fall >= 0.25 - 1e-3
        assert one.word.casefold() != one.replacement.casefold()
        for word in (one.word, one.replacement):
            assert len(word) == 1 or word.lower() not in FUNCTION_WORDS


@pytest.mark.real_model
@pytest.mark.parametrize("prompt", PROMPTS)
def test_proposals_are_what_they_say(smollm2, prompt):
    found = fg.counterfactuals(smollm2, prompt, 4)
    ids = smollm2.tokenizer.encode(prompt)
    verify(smollm2, ids, found)
    assert PROMPTS[prompt] in {one.word for one in found}
    assert 3 <= len(found) <= 4
    for one in found:
        text = one.prompt if isinstance(one.prompt, str) else smollm2.tokenizer.decode(one.prompt)
        assert smollm2.tokenizer.encode(text) == list(one.token_ids)
        assert one.replacement in text == one.text


@pytest.mark.real_model
def test_the_published_flip_is_among_them_and_they_serve_as_corrupted_prompts(smollm2):
    trace = fg.trace(smollm2, MARY, keep=())
    found = fg.counterfactuals(smollm2, trace, 3)
    assert FLIP in found.texts
    again = fg.counterfactuals(smollm2, MARY, 3)
    assert again.items == found.items
    flip = found[found.texts.index(FLIP)]
    assert (flip.word, flip.replacement, flip.answer) == ("John", "Mary", " John")
    whole = [fg.Node("resid_post", layer=29, position=len(trace.tokens) - 1)]
    effect = fg.patch(smollm2, [trace] * len(found), found.texts, whole, foil=flip.foil)
    assert effect.score == pytest.approx(1.0, abs=1e-4)
    assert "“Mary” for “John” at position 9 (names): ' John'" in flip.caption()


COUNTRIES = ("Japan", "Peru", "France", "Egypt", "Cuba")
CAPITALS = ("Tokyo", "Lima", "Paris", "Cairo", "Havana")
PLANTED = ("[end]", *COUNTRIES, *CAPITALS, "red", "blue", "green", "dog", "cat", "horse", "the", "of", "likes", "and")


@pytest.fixture(scope="module")
def planted() -> fg.LoadedModel:
    """Its answer is the capital of the country that the prompt names, and nothing else has an effect on which one is first."""
    size = len(PLANTED)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size,
            n_positions=32,
            n_embd=size,
            n_layer=1,
            n_head=1,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" not in name:
                parameter.zero_()
        model.transformer.wte.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(torch.eye(size))
        # Attention is even, hands on countries alone, and writes them as capitals.
        model.transformer.h[0].attn.c_attn.weight[1:6, 2 * size + 1 : 2 * size + 6] = torch.eye(5)
        model.transformer.h[0].attn.c_proj.weight[1:6, 6:11] = 20 * torch.eye(5)
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(PLANTED)}, unk_token="[end]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return fg.load_model((model, PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[end]", eos_token="[end]")))


def test_of_a_planted_model_only_what_decides_is_proposed(planted):
    prompt = "the red dog likes Japan and the blue cat likes the horse of the"
    found = fg.counterfactuals(planted, prompt, least_gap=0.5)
    ids = planted.tokenizer.encode(prompt)
    assert found.answer == "Tokyo"
    assert {one.positions for one in found} == {(ids.index(PLANTED.index("Japan")),)}
    assert {(one.replacement, one.answer) for one in found} >= set(zip(COUNTRIES[1:], CAPITALS[1:], strict=True))
    runs = logits_of(planted, [one.token_ids for one in found])
    assert [one.foil for one in found] == runs.argmax(-1).tolist()


def test_what_may_change_and_what_is_put_there_can_be_said(planted):
    prompt = "the dog of Japan and the"
    found = fg.counterfactuals(planted, prompt, words=["Peru", "Cuba", "dog", "nobody here"], positions=[-3])
    assert {(one.word, one.replacement, one.kind, one.answer) for one in found} == {
        ("Japan", "Peru", "given", "Lima"),
        ("Japan", "Cuba", "given", "Havana"),
        ("Japan", "dog", "given", "the"),
    }
    ids = tuple(planted.tokenizer.encode(prompt))
    assert [one.prompt for one in fg.counterfactuals(planted, ids)] == [
        one.token_ids for one in fg.counterfactuals(planted, prompt)
    ]
    (one,) = fg.counterfactuals(planted, fg.inputs(text=prompt), 1)
    assert isinstance(one.prompt, fg.Inputs)
    assert one.prompt.of(planted).ids == one.token_ids
    # Of an answer that the prompt does not give, nothing can be taken away.
    with pytest.raises(NoCounterfactualError, match="moves the answer 'Lima' far enough"):
        fg.counterfactuals(planted, prompt, target="Lima")
    said: list[tuple[str, float]] = []
    fg.counterfactuals(planted, prompt, 1, progress=lambda stage, part: said.append((stage, part)))
    assert said[0] == ("counterfactuals", 0.0)
    assert said[-1] == ("counterfactuals", 1.0)
    assert [part for _, part in said] == sorted(part for _, part in said)
    with pytest.raises(CancelledError):
        fg.counterfactuals(planted, prompt, cancel=lambda: True)


def test_a_word_that_repeats_is_exchanged_everywhere_or_at_one_place(planted):
    prompt = "Japan and the dog of Japan and the cat of Japan and the horse and Peru and the"
    found = fg.counterfactuals(planted, prompt, 16, least_gap=0.1)
    places = {one.positions for one in found}
    assert (0, 5, 10) in places
    assert found.answer == "Tokyo"
    # One Japan of three more or less leaves Tokyo first.
    assert all(len(one) == 3 for one in places)
    with pytest.raises(NoCounterfactualError, match=r"the nearest, .* for 'Japan'"):
        fg.counterfactuals(planted, prompt, positions=[0])


def test_masked_models_have_them_at_any_word_but_special_tokens():
    model, tokenizer = tiny_model("bert")
    with torch.no_grad():
        # Random weights hardly listen to their words; a head of its own makes what little there is large.
        model.cls.predictions.decoder.weight = torch.nn.Parameter(40 * model.cls.predictions.decoder.weight)
    loaded = fg.load_model((model, tokenizer))
    trace = fg.trace(loaded, "the [MASK] and the dogs chase the cats and Mary", keep=())
    found = fg.counterfactuals(loaded, trace)
    verify(loaded, trace.token_ids, found, trace.position)
    assert any(one.position > trace.position for one in found)
    assert all(one.prompt == one.token_ids or "[MASK]" in one.prompt for one in found)


def test_of_a_classifier_the_answer_is_a_class():
    tokenizer = bert_tokenizer()
    model = text_model("bert", vocab_size=len(tokenizer))
    texts = "The dogs chase the cats and John", "The dogs chase the cats and mary"
    with torch.no_grad():
        model.classifier.weight *= 400
        # Between the two texts no class is before another, so that each has a class of its own.
        both = torch.stack([model(torch.tensor([tokenizer.encode(text)])).logits[0] for text in texts])
        model.classifier.bias -= both.mean(0)
    loaded = fg.load_model((model, tokenizer))
    found = fg.counterfactuals(loaded, texts[0])
    verify(loaded, tokenizer.encode(texts[0]), found)
    assert {found.answer, *(one.answer for one in found)} <= {"BAD", "GOOD", "UNSURE"}
    assert texts[1].replace("mary", "Mary") in found.texts
    assert found[found.texts.index(texts[1].replace("mary", "Mary"))].kind == "names"


def test_of_two_stacks_the_encoder_reads_other_words():
    loaded = translator()
    found = fg.counterfactuals(loaded, fg.inputs(text="the house is old", target_text="das haus ist"))
    assert found.answer == " alt"
    assert ("old", "new", " neu") in {(one.word, one.replacement, one.answer) for one in found}
    assert {one.word for one in found} == {"old"}
    assert {one.replacement for one in found} <= set(LISTS["adjectives"])
    for one in found:
        assert fg.trace(loaded, one.prompt, keep=()).target == one.foil
        assert len(one.token_ids) == len(found.token_ids)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 0}, ArgumentError, "count=0 must be at least 1"),
        ({"least_gap": 0.0}, ArgumentError, "least_gap=0"),
        ({"least_gap": float("nan")}, ArgumentError, "least_gap=nan"),
        ({"positions": [99]}, ArgumentError, "positions=99 is outside the prompt of 5 tokens"),
        ({"words": [" "]}, ArgumentError, "words= holds no word"),
        ({"target": "nobody"}, TargetError, "target='nobody'"),
        ({"positions": [0]}, NoCounterfactualError, "none of the prompt's 2 words"),
        (
            {"least_gap": 1e6},
            NoCounterfactualError,
            r"none of \d+ prompts .*has the answer .*, a gap of \d+\.\d\d logits, .*least_gap=1e\+06 logits",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(planted, options, error, message):
    with pytest.raises(error, match=message):
        fg.counterfactuals(planted, "the dog of Japan the", **options)


def test_prompts_that_have_no_counterfactual_are_refused(planted, tiny):
    with pytest.raises(NoCounterfactualError, match="has no word to exchange"):
        fg.counterfactuals(planted, "the of and")
    with pytest.raises(PromptError, match="batch of 2 prompts"):
        fg.counterfactuals(planted, ["the dog", "the cat"])
    bare = fg.load_model(tiny("gpt2").model)
    with pytest.raises(PromptError, match="has no tokenizer"):
        fg.counterfactuals(bare, [1, 2, 3])


@pytest.mark.real_model
def test_a_noun_is_exchanged_for_nouns_of_the_other_number_and_an_adjective_has_none(smollm2):
    found = fg.counterfactuals(smollm2, "The keys to the cabinet", 16, positions=[1])
    other = {one.replacement for one in found if one.kind == "singular and plural"}
    assert {"key"} < other
    assert not any(word.endswith("s") for word in other)
    of_adjective = fg.counterfactuals(smollm2, "The opposite of hot is", 16, positions=[3])
    assert sum(one.kind == "adjectives" for one in of_adjective) >= 5
    assert "singular and plural" not in {one.kind for one in of_adjective}


def test_what_a_model_expects_is_tried_in_the_order_of_its_likeness_to_the_word(tiny):
    loaded = tiny("llama")
    runs = _Runs(loaded, prompts_of(loaded, IDS, "prompt")[0], None)
    table = loaded.model.get_input_embeddings().weight.detach()
    others = torch.arange(20, 60)
    alike = torch.nn.functional.cosine_similarity(table[[7]], table[others])
    assert torch.allclose(runs._likeness(7, others), alike)
    assert runs._likeness(25, others).argmax() == 5


def exchange(place: int, kind: str, gap: float) -> fg.Counterfactual:
    """A proposal of which only place, kind and gap matter."""
    return fg.Counterfactual(
        "", "", (place, int(10 * gap)), place, (place,), "a", "b", kind, "c", 1, 0.5, gap, 1.0, "d"
    )


def alike(*items: fg.Counterfactual) -> list[fg.Counterfactual]:
    return fg.Counterfactuals(items, "", (), "d", 2, 0.5, len(items), "m").alike()


def test_alike_are_exchanges_at_the_place_with_most_of_one_kind():
    same = [exchange(3, "colours", gap) for gap in (4.0, 5.0, 6.0)]
    mixed = [exchange(1, kind, 9.0) for kind in ("names", "cities", "states")]
    expected = [exchange(2, "predicted", 12.0 + n) for n in range(5)]
    guessed = exchange(3, "predicted", 20.0)
    assert alike(*mixed, *expected, guessed, *same) == [*same, guessed]
    larger = [exchange(4, "colours", gap) for gap in (7.0, 8.0, 9.0)]
    assert alike(*same, *larger) == larger
    assert alike(*expected, mixed[0]) == mixed[:1]
    assert alike(*expected) == expected
    assert alike(*mixed) == mixed


def test_lists_hold_content_words_of_one_form():
    for name, words in LISTS.items():
        assert len(set(words)) == len(words) >= 4, name
        assert len({word[0].isupper() for word in words}) == 1, name
        assert not FUNCTION_WORDS & {word.lower() for word in words if word != "May"}, name
    assert not FUNCTION_WORDS & {word for pair in OPPOSITES for word in pair}
    assert not {"a", "x", "value"} & KEYWORDS


def test_words_are_cut_as_the_tokenizer_writes_them(tiny):
    assert like("red", "Blue") == "Red"
    assert like("Peru", "JAPAN") == "PERU"
    assert like("red", "BLUE") == "RED"
    assert like("Mary", "john", ignores_case=True) == "mary"
    assert is_code("def add(a, b):\n    return a +")
    assert not is_code("The war lasted (from 1742) to the end; and then it stopped.")
    assert not any(map(is_content, ("the", "a", "x")))
    assert is_content("war", function_words(["the", "war", "was", "long"]))
    assert not is_content("war", function_words(["der", "Mann", "war", "in", "der", "Stadt"]))
    assert is_content("a", code=True)
    assert not is_content("return", code=True)
    for name in ("gpt2", "llama", "bert", "roberta"):
        loaded = tiny(name)
        spelling, text = Spelling(loaded), "the quick dog, 1742 and the dogs"
        ids = loaded.tokenizer.encode(text)
        words = spelling.words(ids)
        assert [word.text for word in words] == ["the", "quick", "dog", "1742", "and", "the", "dogs"], name
        for word in words:
            assert spelling.ids(word.text, word.lead) == tuple(ids[n] for n in word.positions), (name, word)
