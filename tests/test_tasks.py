"""Tasks: prompts of equal length, answers of one token, and the default model really does what the task asks."""

from __future__ import annotations

import inspect

import pytest

import flowgraph
from flowgraph.errors import ArgumentError, FileFormatError, PromptError, TargetError
from flowgraph.tasks import TASKS, Example, TaskData, corrupt, task
from flowgraph.tasks.examples import prompt_ids

COUNT = 10
LEAST_RIGHT = {"ioi": 0.9, "greater-than": 0.9, "induction": 0.4, "agreement": 0.7, "capitals": 0.9}
"""Of colored objects the default model knows little: it names a color of the table, seldom that of the thing."""


def preference(model, prompt, example) -> float:
    logits = flowgraph.trace(model, prompt, keep=()).logits
    target, foil = (model.vocabulary.target_id(answer) for answer in (example.target, example.foil))
    return float(logits[target] - logits[foil])


@pytest.mark.real_model
@pytest.mark.parametrize("name", TASKS)
def test_the_clean_prompt_decides_and_the_corrupted_does_not(smollm2, name):
    data = task(smollm2, name, count=COUNT, seed=1)
    assert len(set(data.examples)) == COUNT
    clean = [preference(smollm2, example.clean, example) for example in data.examples]
    corrupted = [preference(smollm2, example.corrupted, example) for example in data.examples]
    assert sum(value > 0 for value in clean) >= LEAST_RIGHT.get(name, 0) * COUNT
    assert sum(clean) > sum(corrupted) + COUNT / 4


@pytest.mark.real_model
@pytest.mark.parametrize("name", TASKS)
def test_examples_fit_the_tokenizer(smollm2, name):
    data = task(smollm2, name, count=40)
    assert task(smollm2, name, count=40) == data != task(smollm2, name, count=40, seed=1)
    lengths = data.of_length(smollm2)
    assert sum(map(len, lengths.values())) == 40
    for length, examples in lengths.items():
        for example in examples:
            assert len(prompt_ids(smollm2, example.clean)) == len(prompt_ids(smollm2, example.corrupted)) == length
            assert example.clean != example.corrupted
            assert smollm2.vocabulary.target_id(example.target) != smollm2.vocabulary.target_id(example.foil)


@pytest.mark.real_model
def test_a_corruption_changes_the_corrupted_prompts_alone(smollm2):
    flip, abc = (task(smollm2, "ioi", corruption=name, count=COUNT) for name in ("flip", "abc"))
    assert task(smollm2, "ioi", count=COUNT) == flip
    assert flip.corruptions == abc.corruptions == ("flip", "abc")
    assert (flip.corruption, abc.corruption) == ("flip", "abc")
    assert "corruption 'abc'" in repr(abc)
    assert [one.clean for one in flip.examples] == [one.clean for one in abc.examples]
    for one, other in zip(flip.examples, abc.examples, strict=True):
        assert one.clean.count(one.foil) == 2
        # The second subject becomes the other name, and nothing else changes.
        at = one.clean.rindex(one.foil)
        assert one.corrupted == one.clean[:at] + one.target + one.clean[at + len(one.foil) :]
        assert one.target not in other.corrupted
        assert one.foil not in other.corrupted
        assert preference(smollm2, one.corrupted, one) < 0 < preference(smollm2, one.clean, one)


@pytest.mark.parametrize("name", TASKS)
def test_a_corruption_that_a_task_does_not_have(tiny, name):
    with pytest.raises(ArgumentError, match=f"corruption='strange' is none of the task {name!r}; it has '"):
        task(tiny("gpt2"), name, corruption="strange")


@pytest.mark.real_model
def test_a_file_comes_back(smollm2, tmp_path):
    data = task(smollm2, "ioi", count=5)
    path = data.save(tmp_path / "mine.csv")
    assert TaskData.load(path).examples == data.examples
    assert "mine" in repr(TaskData.load(path))
    assert (TaskData.load(path).corruption, TaskData.load(path).corruptions) == ("as given", ())
    with pytest.raises(ArgumentError, match="exists"):
        data.save(path, overwrite=False)


def test_odd_texts_survive_a_file(tmp_path):
    example = Example('He said "a,\nb";\t=1+1', "ש" * 3, " x", "😀")
    path = TaskData("odd", "odd", (example,)).save(tmp_path / "odd.csv")
    assert TaskData.load(path).examples == (example,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("clean,target,foil\na,b,c\n", "no column corrupted"),
        ("", "no column clean, corrupted, target, foil"),
        ("clean,corrupted,target,foil\n", "no examples"),
        ("clean,corrupted,target,foil\na,b,c\n", "row 1: foil is missing"),
        ("clean,corrupted,target,foil\na,b,,d\n", "row 1: target is missing"),
        ('clean,corrupted,target,foil\n"a,b,c,d', "not a CSV file"),
        ("clean,corrupted,target,foil\n" + "a,b,c,d\n" * 10_001, "10,001 rows; at most 10,000"),
        (b"clean,corrupted,target,foil\n\xff,b,c,d\n", "not UTF-8"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "task.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileFormatError, match=message):
        TaskData.load(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ArgumentError, match="could not be read"):
        TaskData.load(tmp_path / "nothing.csv")
    with pytest.raises(ArgumentError, match="token ids; only texts"):
        TaskData("ids", "ids", (Example((1, 2), (1, 3), 4, 5),)).save(tmp_path / "ids.csv")


def test_bad_examples(tiny):
    model = tiny("gpt2")
    good = Example((1, 2, 3), (1, 4, 3), 5, 6)
    assert TaskData("mine", "", (good,)).checked(model).of_length(model) == {3: (good,)}
    for example, error, message in (
        (
            Example((1, 2, 3), (1, 4), 5, 6),
            ArgumentError,
            "example 1: the clean prompt has 3 tokens and the corrupted one 2",
        ),
        (Example((1, 2), (1, 4), 5, 5), ArgumentError, "example 1: target and foil are the same"),
        (Example((1, 2), (1, 4), 5, 10**6), TargetError, "example 1: foil=1000000 is not a token id"),
        (Example("a text", (1, 4), 5, 6), ArgumentError, "clean: a |  t | e | x | t — corrupted"),
    ):
        with pytest.raises(error, match=message):
            TaskData("mine", "", (good, example)).checked(model)
    with pytest.raises(ArgumentError, match="has no examples"):
        TaskData("mine", "", ())


def test_tasks_that_cannot_be_made(tiny):
    with pytest.raises(ArgumentError, match="known are ioi, greater-than"):
        task(tiny("gpt2"), "sudoku")
    with pytest.raises(ArgumentError, match="count=0"):
        task(tiny("gpt2"), "ioi", count=0)
    with pytest.raises(ArgumentError, match="causal model with a tokenizer"):
        task(tiny("bert"), "ioi")
    with pytest.raises(TargetError, match="of 40 names only 2 are one token"):
        task(tiny("gpt2"), "ioi")
    bare = flowgraph.load_model(tiny("gpt2").model)
    with pytest.raises(ArgumentError, match="causal model with a tokenizer"):
        task(bare, "ioi")
    with pytest.raises(PromptError, match="has no tokenizer"):
        TaskData("mine", "", (Example("a text", (1, 4), 5, 6),)).checked(bare)


@pytest.mark.real_model
def test_too_few_words(smollm2, monkeypatch):
    monkeypatch.setattr("flowgraph.tasks.words.NAMES", ("Mary", "Bartholomew", "Zyxwvu"))
    with pytest.raises(TargetError, match="of 3 names only 1 are one token"):
        task(smollm2, "ioi")


@pytest.mark.real_model
def test_names_are_replaced_by_others(smollm2):
    prompt = "When Mary and John went to the store, John gave a drink to"
    other = corrupt(smollm2, prompt)
    assert corrupt(smollm2, prompt) == other != corrupt(smollm2, prompt, seed=1)
    before, after = (smollm2.vocabulary.strings(prompt_ids(smollm2, text)) for text in (prompt, other))
    changed = [n for n, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert [before[n] for n in changed] == [" Mary", " John", " John"]
    assert len({after[n] for n in changed} | {" Mary", " John"}) == 5
    one = corrupt(smollm2, prompt, positions=[changed[-1]])
    assert one.startswith("When Mary and John went to the store,")
    assert one != prompt


@pytest.mark.real_model
@pytest.mark.parametrize("seed", range(5))
def test_words_are_replaced_by_words(smollm2, seed):
    prompt = "The capital of Japan is the city of"
    made = corrupt(smollm2, prompt, "tokens", positions=[3, -2], seed=seed)
    before, after = (smollm2.vocabulary.strings(prompt_ids(smollm2, text)) for text in (prompt, made))
    assert [n for n in range(8) if before[n] != after[n]] == [3, 6]
    assert all(after[n].startswith(" ") and after[n].strip().isalpha() for n in (3, 6))


def test_what_cannot_be_corrupted(tiny):
    model = tiny("gpt2")
    for prompt, options, message in (
        ("abc", {"how": "noise"}, "how='noise' is not known"),
        ("...", {"how": "tokens"}, "no word to replace"),
        ("abc", {"how": "tokens", "positions": [9]}, "positions=9 is outside the prompt of 3 tokens"),
    ):
        # Called without the tests' own type checks, as users call it.
        with pytest.raises(ArgumentError, match=message):
            inspect.unwrap(corrupt)(model, prompt, **options)
    with pytest.raises(PromptError, match="has no tokenizer"):
        corrupt(flowgraph.load_model(model.model), (1, 2, 3))


@pytest.mark.real_model
def test_a_prompt_without_names(smollm2):
    with pytest.raises(ArgumentError, match="no first name that is one token"):
        corrupt(smollm2, "The capital of Japan is")
