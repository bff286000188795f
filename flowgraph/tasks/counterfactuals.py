"""Counterfactuals: prompts of the same length in which one word is exchanged for one of its kind, so that the answer changes.

A candidate is kept if the model's first token for it, the foil o, is not the answer a, and if the exchange moves the answer far
enough: the gap is (logit a − logit o) in the run of the prompt minus the same in the run of the candidate.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from statistics import median
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import printable
from ..errors import ArgumentError, CancelledError, NoCounterfactualError, NonFiniteError, PromptError
from ..interventions.ablation import answer_logits
from ..interventions.passes import Pass, logits_of_states
from ..interventions.prompts import Prompt as PlacedPrompt
from ..interventions.prompts import batch_of, prompts_of
from ..models import LoadedModel, load_model
from ..models.parameters import device_of
from ..models.wheel import Progress
from ..values.arguments import takes
from ..values.inputs import Inputs, Row
from .examples import Prompt, prompt_ids
from .kinds import IDENTIFIERS, LISTS, OPPOSITES
from .prompt_words import PromptWord, Spelling, function_words, is_code, is_content, like

_LEAST_FALL = 0.25
"""Nats by which the answer's log-probability has to fall at least."""
_FIRST_ROWS, _ROWS, _MOST_ROWS = 12, 8, 96
"""Prompts of the first round and of each later one, and of all together."""
_MANY, _FEW = 24, 3
"""From how many prompts on half of what is wanted is enough, from twice as many on a few, and from three times as many on one."""
_MOST_TOKENS = 32_768
"""Tokens of all prompts that are run, where the prompt is long."""
_LEAST_ROWS = 24
_LEAST_LETTERS = 4
_TOKENS_AT_ONCE = 1_024
_PLACES = 4
"""Places of a repeated word at which it is exchanged alone: the last ones."""
_GUESSED, _HARDLY, _PROBABLE = 0.6, 0.3, 0.005
"""Worth, beside a word of a list, of one that the model expected, which need not fit what follows: from a probability on, and below."""
_ASKED, _CUT = 0.25, 0.3
"""Worth of a word at which the answer is read, and of one that makes the model's answer the rest of the last word."""
_PREDICTED = 60
"""Most probable tokens that are looked at for each word."""


@dataclass(frozen=True)
class Counterfactual:
    """A prompt with one word exchanged.

    Attributes
    ----------
    prompt
        The text where the tokenizer cuts it into the tokens that were meant, otherwise their ids; of inputs, inputs.
    text
        It in words, whatever form ``prompt`` has.
    token_ids
        [position] its tokens; of an encoder–decoder what the encoder reads.
    position, positions
        The first token that differs from the prompt, and all that do.
    word, replacement
        The word of the prompt, and the one in its place.
    kind
        Name of the list that both stand in; ``"predicted"`` for a word of no list that the model itself expected there, ``"given"``
        for one that was given.
    answer, foil
        The model's first token for it, as a string and as an id: it is what the prompt's answer is compared with.
    probability
        Probability of ``answer``, 0 … 1.
    gap
        Logits: how much the difference between the prompt's answer and ``foil`` falls with the exchange.
    log_gap
        Nats by which the log-probability of the prompt's answer falls.
    instead_of
        The prompt's answer.
    """

    prompt: Prompt = field(repr=False)
    text: str
    token_ids: tuple[int, ...] = field(repr=False)
    position: int
    positions: tuple[int, ...]
    word: str
    replacement: str
    kind: str
    answer: str
    foil: int
    probability: float
    gap: float
    log_gap: float
    instead_of: str

    @property
    def has_known_kind(self) -> bool:
        """Whether both words stand in one list, and are not what the model expected or what was given."""
        return self.kind not in ("predicted", "given")

    def caption(self) -> str:
        """The exchange and what it does, in one line."""
        places = ", ".join(map(str, self.positions))
        at = f"position{'s' if len(self.positions) > 1 else ''} {places}"
        return printable(
            f"“{self.replacement}” for “{self.word}” at {at} ({self.kind}): {self.answer!r} with probability {self.probability:.2f} "
            f"instead of {self.instead_of!r}; gap {self.gap:.1f} logits, log-probability {-self.log_gap:+.1f} nats"
        )


@dataclass(frozen=True, eq=False)
class Counterfactuals(Result):
    """Counterfactuals of one prompt: a sequence, the best first.

    Attributes
    ----------
    items
        The counterfactuals. The first has the largest gap, counting words of a list before predicted ones, and foils that the model is
        sure of before others; each next one is the best that is not like those before it.
    prompt
        The prompt in words.
    token_ids
        [position] its tokens; of an encoder–decoder what the encoder reads.
    answer, target
        The prompt's answer, as a string and as an id.
    probability
        Its probability, 0 … 1.
    tried
        How many candidates were run to find them.
    model
        Name of the model.
    """

    items: tuple[Counterfactual, ...]
    prompt: str
    token_ids: tuple[int, ...]
    answer: str
    target: int
    probability: float
    tried: int
    model: str

    def __len__(self) -> int:
        """Number of counterfactuals."""
        return len(self.items)

    def __iter__(self) -> Iterator[Counterfactual]:
        return iter(self.items)

    @overload
    def __getitem__(self, number: int) -> Counterfactual: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Counterfactual, ...]: ...
    def __getitem__(self, number: int | slice) -> Counterfactual | tuple[Counterfactual, ...]:
        return self.items[number]

    def __repr__(self) -> str:
        first = self.items[0]
        return printable(
            f"Counterfactuals({len(self)} of {self.answer!r}, {self.model!r}; first “{first.replacement}” for “{first.word}” → "
            f"{first.answer!r}, gap {first.gap:.1f} logits)"
        )

    @property
    def texts(self) -> list[Prompt]:
        """The prompts, as functions take them for ``corrupted=``; see :attr:`Counterfactual.prompt`."""
        return [item.prompt for item in self.items]

    def alike(self) -> list[Counterfactual]:
        """The exchanges at one place, those of one kind first.

        Several kinds, or several places, ask several questions, and a picture that answers all of them is a larger one. The place is
        that with most exchanges of one kind, up to three, and then with the largest gaps. What the model expected there may be of any
        kind, so these are the last.
        """
        by_place: dict[tuple[int, ...], list[Counterfactual]] = {}
        for item in self.items:
            by_place.setdefault(item.positions, []).append(item)

        def worth(some: Sequence[Counterfactual]) -> tuple[int, float]:
            same = of_one_kind(some)
            return min(len(same), 3) if same[0].has_known_kind else 0, median(item.gap for item in same)

        best = max(by_place.values(), key=worth)
        same = of_one_kind(best)
        return same + sorted((item for item in best if item not in same), key=lambda item: not item.has_known_kind)

    def chart(self) -> Table:
        """One row for each: ``word``, ``replacement``, ``kind``, ``position``, ``answer``, ``probability``, ``gap``, ``log_gap``, ``text``."""
        names = ("word", "replacement", "kind", "position", "answer", "probability", "gap", "log_gap", "text")
        columns = {name: [getattr(item, name) for item in self.items] for name in names}
        note = f"gap in logits, log_gap in nats; {self.tried} candidates were run"
        return Table(repr(self), columns, words=("kind",), note=note)


def of_one_kind(found: Sequence[Counterfactual]) -> list[Counterfactual]:
    """Those of the kind that occurs most often; a known kind before those that the model expected."""
    kinds = Counter(item.kind for item in found)
    known = {item.kind: item.has_known_kind for item in found}
    best = max(kinds, key=lambda kind: (known[kind], kinds[kind]))
    return [item for item in found if item.kind == best]


@takes()
def counterfactuals(
    model: Any,
    prompt: Any,
    count: int = 8,
    *,
    target: str | int | None = None,
    words: Sequence[str] | None = None,
    positions: Sequence[int] | None = None,
    least_gap: float = 2.0,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Counterfactuals:
    """Propose prompts of the same length in which one word is exchanged for one of its kind, so that the answer changes.

    A word is exchanged for one of the same list (names, countries, numbers, opposites, identifiers of a program, …), for another
    such word of the prompt, or for one that the model itself expected at its place. One that occurs several times is exchanged
    everywhere, or at one place. Special tokens, and words that hold a sentence together (the, of, …; in English and six
    other languages), stay.

    Parameters
    ----------
    model
        A :class:`LoadedModel` with a tokenizer and a head, or anything :func:`flowgraph.load_model` accepts.
    prompt
        A trace, a text, token ids, or :func:`flowgraph.inputs`. Of an encoder–decoder, words that the encoder reads are exchanged.
    count
        How many at most.
    target
        The answer, one token; None: the trace's target, or the model's first token.
    words
        Words to try in place of every other word, instead of lists and predictions.
    positions
        Tokens that may change; None: all. Negative counts from the end.
    least_gap
        Logits by which the difference between answer and foil has to fall. The answer's log-probability has to fall by 0.25 nats
        besides.
    seed
        The same seed tries the same words.
    progress
        Called with a stage in words and the fraction done.
    cancel
        Asked before each batch; the search stops when it says True.

    Returns
    -------
    Counterfactuals
        At most ``count``, in several words and with several answers where the prompt has them; at least one.

    Raises
    ------
    NoCounterfactualError
        If no word can be exchanged, or no exchange moves the answer far enough; the message says how many were tried and what the
        best one did.
    PromptError
        If the model has no tokenizer, or the prompt is an image, a sound or a batch.
    ArgumentError
        If ``count`` is below 1, ``least_gap`` is not above 0, ``words`` is empty, or a position is outside the prompt.
    TargetError, ModelMismatchError, NonFiniteError, UnsupportedReadingError, CancelledError
        As for :func:`flowgraph.head_effects`.

    References
    ----------
    Wang et al. (2022), "Interpretability in the Wild", whose second subject becomes the other name; Zhang & Nanda (2023), "Towards
    best practices of activation patching", on exchanged words rather than noise.

    Examples
    --------
    >>> found = fg.counterfactuals(trace.model, trace, count=3)
    >>> fg.patch(trace.model, trace, found[0].prompt, fg.Node("mlp", layer=0, position=3), foil=found[0].foil).score > 0.1
    True
    """
    loaded = load_model(model)
    loaded.require_head("a counterfactual, whose answer is another one,")
    if count < 1:
        raise ArgumentError(f"count={count} must be at least 1")
    if not 0 < least_gap < float("inf"):
        raise ArgumentError(f"least_gap={least_gap} must be a number of logits above 0")
    if words is not None and not [word for word in words if word.strip()]:
        raise ArgumentError("words= holds no word; give those that may take a word's place, or leave it out")
    spelling = Spelling(loaded)
    places = prompts_of(loaded, prompt, "prompt", target=target)
    if len(places) != 1:
        raise PromptError(f"prompt is a batch of {len(places)} prompts; give them one by one")
    runs = _Runs(loaded, places[0], cancel)
    allowed = _allowed(positions, len(runs.ids))
    with loaded.lock, torch.no_grad():
        search = _Search(runs, spelling, allowed, words, least_gap, seed)
        kept = search.run(count, progress)
    if not kept:
        raise NoCounterfactualError(search.failure(least_gap))
    return _result(search, _chosen(kept, count), prompt)


class _Runs:
    """Runs of a prompt with other tokens, measured at the prompt's position."""

    def __init__(self, loaded: LoadedModel, prompt: PlacedPrompt, cancel: Callable[[], bool] | None) -> None:
        row = prompt.row
        read = row if row.encoder is None else row.encoder
        if read.axis is not None:
            what = "a sound" if read.source == "audio" else "an image"
            raise PromptError(f"prompt is {what}, which has no words to exchange; give the corrupted one yourself")
        self.loaded, self.prompt, self.cancel = loaded, prompt, cancel
        self.ids = read.token_ids

    def with_ids(self, ids: tuple[int, ...]) -> Row:
        """The prompt with these tokens; of an encoder–decoder the encoder's."""
        row = self.prompt.row
        return replace(row, ids=ids) if row.encoder is None else replace(row, encoder=replace(row.encoder, ids=ids))

    def text(self, ids: tuple[int, ...]) -> str:
        """The tokens in words."""
        return str(self.loaded.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def logits(self, several: Sequence[tuple[int, ...]], at: Sequence[int] | None = None) -> Tensor:
        """[prompt, d_vocab] logits at the prompt's position, or at one position of each."""
        places = [self.prompt.position] * len(several) if at is None else list(at)
        rows = [PlacedPrompt(self.with_ids(ids), place) for ids, place in zip(several, places, strict=True)]
        length = max(len(self.ids), self.prompt.length)
        size = max(1, _TOKENS_AT_ONCE // length)
        found = []
        for start in range(0, len(rows), size):
            self._ask(len(rows))
            batch = batch_of(self.loaded, rows[start : start + size], "prompt")
            found.append(answer_logits(self.loaded, Pass(self.loaded, len(batch)).run(batch.feed), batch.positions))
        return _finite(torch.cat(found))

    def _ask(self, count: int) -> None:
        if self.cancel is not None and self.cancel():
            raise CancelledError(f"the search for counterfactuals was cancelled before {count:,} more prompts")

    def states(self) -> Tensor:
        """[position, d_model] last states of the prompt."""
        self._ask(1)
        return Pass(self.loaded, 1).run(batch_of(self.loaded, [self.prompt], "prompt").feed)[0]

    def expected(self, words: Sequence[PromptWord], states: Tensor) -> dict[PromptWord, list[tuple[int, float]]]:
        """The most probable tokens at the place of each word that is one token; empty where the model does not predict words."""
        loaded = self.loaded
        single = [word for word in words if len(word.positions) == 1]
        if loaded.anatomy.labels is not None or self.prompt.row.encoder is not None or not single:
            return {}
        if loaded.anatomy.causal:
            single = [word for word in single if word.positions[0] > 0][-_AT_ONCE:]
            before = [word.positions[0] - 1 for word in single]
            logits = logits_of_states(loaded, states[before])
        else:
            mask = loaded.tokenizer.mask_token_id
            if mask is None:
                return {}
            # Each word takes a run of its own.
            single = sorted(single, key=lambda word: abs(word.positions[0] - self.prompt.position))[:_MASKED]
            masked = [(*self.ids[: w.positions[0]], mask, *self.ids[w.positions[0] + 1 :]) for w in single]
            logits = self.logits(masked, [word.positions[0] for word in single])
        best = logits.softmax(-1).topk(min(_PREDICTED, logits.shape[1]))
        found = {}
        for word, ids, shares in zip(single, best.indices, best.values, strict=True):
            order = self._likeness(self.ids[word.positions[0]], ids).argsort(descending=True, stable=True)
            found[word] = list(zip(ids[order].tolist(), shares[order].tolist(), strict=True))
        return found

    def _likeness(self, token: int, others: Tensor) -> Tensor:
        """[other] how alike the embeddings of tokens are to one token's, as a cosine: words of one kind have embeddings of one direction."""
        embedding = self.loaded.anatomy.embedding
        if embedding is None:
            return torch.zeros(len(others))
        both = embedding(torch.cat([others.new_tensor([token]), others]).to(device_of(embedding))).float().cpu()
        likeness: Tensor = torch.nn.functional.cosine_similarity(both[:1], both[1:], dim=-1)
        return likeness


def _finite(logits: Tensor) -> Tensor:
    # Rows of the vocabulary that are not used may be −∞; a best token there always is.
    if not bool(torch.isfinite(logits.logsumexp(-1)).all()):
        raise NonFiniteError("the logits of a prompt are not finite, so that its answer is not known")
    return logits


@dataclass(frozen=True)
class _Change:
    """A word exchanged at some places; a flip makes the last place of a repeated word another word of the prompt."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    words: tuple[PromptWord, ...]
    replacement: str
    kind: str
    weight: float
    is_flip: bool


@dataclass(frozen=True)
class _Kept:
    """A change that moves the answer far enough."""

    change: _Change
    foil: int
    probability: float
    gap: float
    fall: float
    worth: float


class _Nearest(NamedTuple):
    """The change that came nearest to one that is kept: how far it moves the answer, by the gap if there is another one."""

    change: _Change
    foil: int
    moved: float
    gap: float
    fall: float


@dataclass(eq=False)
class _Slot:
    """One word at one or all of its places, and what can be put there, the best guesses first."""

    changes: Iterator[_Change]
    rank: tuple[int, int]
    asks: bool
    tried: int = 0
    best: float | None = None

    @property
    def promise(self) -> float:
        """How much another word at these places is worth trying."""
        return (0.5 if self.best is None else max(self.best, 0.0)) * 0.8**self.tried * (_ASKED if self.asks else 1.0)


class _Search:
    """Candidates in rounds: one for each word first, then more for those that move the answer."""

    def __init__(
        self,
        runs: _Runs,
        spelling: Spelling,
        allowed: frozenset[int],
        given: Sequence[str] | None,
        least_gap: float,
        seed: int,
    ) -> None:
        self.runs, self.spelling, self.allowed, self.given = runs, spelling, allowed, given
        self.least_gap, self.seed = least_gap, seed
        text = "".join(spelling.vocabulary.strings(runs.ids))
        self.code = is_code(text)
        every = spelling.words(runs.ids)
        # A protein or a molecule is written in letters, each of which is a word.
        self.letters = len(every) > _LEAST_LETTERS and all(len(word.text) <= 2 for word in every)
        self.holding = function_words([word.text for word in every])
        self.words = [word for word in every if self._is_content(word.text)]
        self.groups: dict[str, list[PromptWord]] = {}
        for word in self.words:
            self.groups.setdefault(self._name(word), []).append(word)
        self.expected: dict[PromptWord, list[tuple[int, float]]] = {}
        self.tried = 0
        self.cut = 0
        self.nearest: _Nearest | None = None

    def run(self, count: int, progress: Progress | None) -> list[_Kept]:
        """All changes that are kept, in the order in which they were tried."""
        states = self.runs.states()
        self.clean = _finite(logits_of_states(self.runs.loaded, states[[self.runs.prompt.position]]))[0]
        given = self.runs.prompt.target
        self.target = int(self.clean.argmax()) if given is None else given
        self.probabilities = self.clean.log_softmax(-1)
        free = [word for word in self.words if self.allowed.issuperset(word.positions) or word.is_number]
        if self.given is None:
            self.expected = self.runs.expected(free, states)
        slots = sorted(self._slots(), key=lambda slot: slot.rank)
        most = max(_LEAST_ROWS, min(_MOST_ROWS, _MOST_TOKENS // max(len(self.runs.ids), self.runs.prompt.length)))
        kept: list[_Kept] = []
        seen: set[tuple[int, ...]] = {self.runs.ids}
        rounds = 0
        while self.tried < most and (rounds < 2 or len(kept) < self._enough(count)):
            if progress is not None:
                progress("counterfactuals", self.tried / most)
            chosen = self._next(slots, min(_ROWS if rounds else _FIRST_ROWS, most - self.tried), seen, first=not rounds)
            if not chosen:
                break
            logits = self.runs.logits([change.ids for _, change in chosen])
            for (slot, change), row in zip(chosen, logits, strict=True):
                found = self._measured(slot, change, row)
                kept += [] if found is None else [found]
            self.tried += len(chosen)
            rounds += 1
        if progress is not None:
            progress("counterfactuals", 1.0)
        return kept

    def _name(self, word: PromptWord) -> str:
        """What words that are the same share; residues of a protein are each one of their own."""
        alone = self.letters and not self.runs.loaded.anatomy.causal
        return f"{word.text} {word.positions[0]}" if alone else word.text.casefold()

    def _is_content(self, word: str) -> bool:
        return self.letters or is_content(word, self.holding, code=self.code)

    def written(self, text: str, kind: str, word: str) -> str:
        """A word as it stands in place of another: in its capitals, unless it was given."""
        lowers = self.spelling.ignores_case
        return text if kind == "given" and not lowers else like(text, word, ignores_case=lowers)

    def _enough(self, count: int) -> int:
        """How many are enough after as many tries: the more were in vain, the fewer."""
        if self.tried < _MANY:
            return count
        if self.tried < 2 * _MANY:
            return (count + 1) // 2
        return min(count, _FEW) if self.tried < 3 * _MANY else 1

    def failure(self, least_gap: float) -> str:
        """Why nothing was kept, with the numbers."""
        answer = self.runs.loaded.answers.string(self.target)
        said = "give words= to put in their place, or the corrupted prompt yourself"
        if not self.words:
            return f"prompt has no word to exchange: all its tokens are special, punctuation or words such as 'the'; {said}"
        if self.nearest is None and not self.cut:
            names = ", ".join(repr(word.text) for word in self.words[:6]) + (", …" if len(self.words) > 6 else "")
            return f"none of the prompt's {len(self.words)} words ({names}) has another of its kind with as many tokens that may stand there; {said}"
        cut = f" ({self.cut} of them ended in a part of a word, with the rest of it as the answer)" if self.cut else ""
        found = f"none of {self.tried} prompts with one word exchanged{cut} moves the answer {answer!r} far enough"
        if self.nearest is None:
            return f"{found}; {said}"
        change, foil = self.nearest.change, self.runs.loaded.answers.string(self.nearest.foil)
        other = (
            "keeps that answer"
            if self.nearest.foil == self.target
            else f"has the answer {foil!r}, a gap of {self.nearest.gap:.2f} logits"
        )
        return (
            f"{found}: the nearest, {change.replacement!r} for {change.words[0].text!r} at {change.positions[0]}, {other}, and lowers the answer's "
            f"log-probability by {self.nearest.fall:.2f} nats; least_gap={least_gap:g} logits and {_LEAST_FALL:g} nats are needed; {said}, or choose "
            "another least_gap="
        )

    def _measured(self, slot: _Slot, change: _Change, row: Tensor) -> _Kept | None:
        a, foil = self.target, int(row.argmax())
        scores = row.log_softmax(-1)
        gap = float((self.clean[a] - self.clean[foil]) - (row[a] - row[foil]))
        fall = float(self.probabilities[a] - scores[a])
        slot.tried += 1
        asks = self._asks(change.words)
        goes_on = self._goes_on(change.ids, foil) and not self._goes_on(self.runs.ids, a)
        if asks and goes_on:
            self.cut += 1
            return None
        # Where the answer stays, the fall of its probability still says which word matters.
        moved = fall if foil == a else gap
        slot.best = max(slot.best or 0.0, moved)
        if self.nearest is None or (foil != a, moved) > (self.nearest.foil != a, self.nearest.moved):
            self.nearest = _Nearest(change, foil, moved, gap, fall)
        if foil == a or gap < self.least_gap or fall < _LEAST_FALL:
            return None
        probability = float(scores[foil].exp())
        weight = change.weight * (_ASKED if asks else _CUT if goes_on else 1.0)
        worth = gap * (0.5 + 0.5 * probability**0.5) * weight
        return _Kept(change, foil, probability, gap, fall, worth)

    def _asks(self, words: Sequence[PromptWord]) -> bool:
        """Whether the answer is read at one of these words: another one there is another question rather than another fact."""
        prompt = self.runs.prompt
        return prompt.row.encoder is None and any(prompt.position in word.positions for word in words)

    def _goes_on(self, ids: tuple[int, ...], answer: int) -> bool:
        """Whether an answer is the rest of a word that the prompt has begun: then the exchange made a part of a word."""
        loaded, prompt = self.runs.loaded, self.runs.prompt
        if not self.spelling.carries_spaces or not loaded.anatomy.causal or loaded.anatomy.labels is not None:
            return False
        last = (ids if prompt.row.encoder is None else prompt.ids)[prompt.position]
        return self.spelling.vocabulary.string(last)[-1:].isalpha() and loaded.answers.string(answer)[:1].isalpha()

    def _next(
        self, slots: Sequence[_Slot], size: int, seen: set[tuple[int, ...]], *, first: bool
    ) -> list[tuple[_Slot, _Change]]:
        chosen: list[tuple[_Slot, _Change]] = []
        ahead = {id(slot): slot.promise for slot in slots}
        turns = list(slots)
        while turns and len(chosen) < size:
            slot = turns.pop(0) if first else max(turns, key=lambda one: ahead[id(one)])
            change = next((one for one in slot.changes if one.ids not in seen), None)
            if change is None:
                turns = [one for one in turns if one is not slot]
                continue
            seen.add(change.ids)
            ahead[id(slot)] *= 0.8
            chosen.append((slot, change))
        return chosen

    def _slots(self) -> Iterator[_Slot]:
        for number, (name, places) in enumerate(self.groups.items()):
            kinds = self._kinds(places[0])
            known = kinds or places[0].is_number or len(places) > 1 or name in _OPPOSITE
            rank = (0 if known else 1, -places[-1].positions[0])
            sets: list[tuple[PromptWord, ...]] = [(word,) for word in places[-_PLACES:]]
            if len(places) > 1:
                sets.insert(0, tuple(places))
            for some in sets:
                draw = random.Random(f"{self.seed} {number} {name} {some[0].positions[0]} {len(some)}")
                changes = self._changes(some, kinds, len(places) > 1, draw)
                yield _Slot(changes, rank, self._asks(some))

    def _changes(
        self, places: tuple[PromptWord, ...], kinds: Sequence[str], repeats: bool, draw: random.Random
    ) -> Iterator[_Change]:
        first = places[0]
        for text, kind, weight, is_swap in self._replacements(places, kinds, repeats, draw):
            if text.casefold() == first.text.casefold():
                continue
            ids = list(self.runs.ids)
            for word in places:
                written = self.written(text, kind, word.text)
                new = self.spelling.ids(written, word.lead)
                if new is None or len(new) != len(word.positions):
                    break
                for position, token in zip(word.positions, new, strict=True):
                    ids[position] = token
            else:
                changed = tuple(n for n, (old, new) in enumerate(zip(self.runs.ids, ids, strict=True)) if old != new)
                if changed and self.allowed.issuperset(changed):
                    is_flip = is_swap and repeats and first is self.groups[self._name(first)][-1]
                    yield _Change(tuple(ids), changed, places, text, kind, weight, is_flip)

    def _replacements(
        self, places: tuple[PromptWord, ...], kinds: Sequence[str], repeats: bool, draw: random.Random
    ) -> Iterator[tuple[str, str, float, bool]]:
        """(word, its kind, its weight, whether the prompt has it) in the order in which they are tried."""
        word = places[0]
        if self.given is not None:
            yield from ((text.strip(), "given", 1.0, False) for text in self.given if text.strip())
            return
        if len(places) == 1 and self._name(word) == word.text.casefold():
            yield from ((text, kind, 1.0, True) for text, kind in self._swaps(word, kinds, repeats))
        here = set(self.groups)
        listed: Iterator[tuple[str, str, float, bool]] = iter(())
        if word.is_number:
            listed = ((text, "numbers", 1.0, False) for text in _numbers(word.text, draw))
        else:
            yield from ((text, "opposites", 1.0, False) for text in _OPPOSITE.get(word.text.casefold(), ()))
            drawn = [(text, kind, 1.0, False) for kind in kinds for text in _LISTS[kind] if text.casefold() not in here]
            draw.shuffle(drawn)
            listed = iter(drawn)
        predicted = (
            (text, *self._kind_of_predicted(text, kinds, probability), False)
            for text, probability in self._predicted(word)
            if text.casefold() not in here
        )
        inflected = () if word.is_number or self.code else self._of_other_number(word, draw)
        numbers = ((text, "singular and plural", 1.0, False) for text in inflected)
        for found in chain.from_iterable(zip_longest(numbers, listed, predicted)):
            if found is not None:
                yield found

    def _of_other_number(self, word: PromptWord, draw: random.Random) -> list[str]:
        """The word itself as a plural, or as a singular, then nouns of its kinds in that number."""
        inflected = _other_number(word.text)
        if not inflected or word.text in _LISTS_LOWER["adjectives"]:
            return []
        is_plural = word.text.endswith("s")
        alike = [one for name in _NOUNS if not {word.text, *inflected}.isdisjoint(LISTS[name]) for one in LISTS[name]]
        others = [one for noun in alike for one in ([noun] if noun.endswith("s") != is_plural else _other_number(noun))]
        draw.shuffle(others)
        return [*inflected, *(one for one in others if one not in self.groups)]

    def _swaps(self, word: PromptWord, kinds: Sequence[str], repeats: bool) -> Iterator[tuple[str, str]]:
        """Other words of the prompt that could stand at this place."""
        for name, others in self.groups.items():
            other = others[0]
            if name == word.text.casefold() or other.is_number != word.is_number:
                continue
            shared = next((kind for kind in self._kinds(other) if kind in kinds), None)
            if word.is_number:
                if len(other.text) == len(word.text):
                    yield other.text, "numbers"
            elif shared is not None:
                yield other.text, shared
            elif repeats and not kinds and other.text[:1].isupper() == word.text[:1].isupper():
                yield other.text, "words of the prompt"

    def _kinds(self, word: PromptWord) -> list[str]:
        """Names of the lists in which a word stands; of a word in capitals that is in none, those of all proper names."""
        if word.is_number:
            return []
        lower, is_proper = word.text.casefold(), word.text[:1].isupper() or self.spelling.ignores_case
        if self.letters:
            return ["alphabet"] if self.runs.loaded.anatomy.causal else []
        if self.code:
            # Names of a program are of its own choice; letters stand for letters.
            return ["letters" if len(word.text) == 1 else "identifiers"]
        found = [name for name, some in _LISTS_LOWER.items() if lower in some and (is_proper or some[lower].islower())]
        if not found and word.text[:1].isupper() and word.lead:
            found = list(_PROPER)
        return found

    def _kind_of_predicted(self, text: str, kinds: Sequence[str], probability: float) -> tuple[str, float]:
        """Kind and weight of a word that the model expected: those of a list if it stands there with the one it takes the place of."""
        shared = next((kind for kind in kinds if text.casefold() in _LISTS_LOWER.get(kind, ())), None)
        return (shared, 1.0) if shared is not None else ("predicted", _GUESSED if probability >= _PROBABLE else _HARDLY)

    def _predicted(self, word: PromptWord) -> Iterator[tuple[str, float]]:
        for token, probability in self.expected.get(word, ()):
            body, lead = self.spelling.form(token)
            if lead == word.lead and _case(body) == _case(word.text) and self._is_content(body):
                yield body, probability


_AT_ONCE, _MASKED = 64, 16
"""Words whose places are looked at for what the model expected there: the last ones, of masked models the nearest."""
_LISTS: dict[str, tuple[str, ...]] = {
    **LISTS,
    "alphabet": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "letters": tuple(name for name in IDENTIFIERS if len(name) == 1),
    "identifiers": tuple(name for name in IDENTIFIERS if len(name) > 1),
}
_OPPOSITE: dict[str, list[str]] = {}
for _one, _other in OPPOSITES:
    _OPPOSITE.setdefault(_one.casefold(), []).append(_other)
    _OPPOSITE.setdefault(_other.casefold(), []).append(_one)
_LISTS_LOWER = {name: {word.casefold(): word for word in some} for name, some in LISTS.items()}
_NOUNS = ("things", "nouns", "more nouns", "animals", "people", "professions", "vehicles")
"""Lists of nouns with regular plurals; other plurals are not one word of a vocabulary as often."""
_PROPER = tuple(
    name for name, some in LISTS.items() if some[0][0].isupper() and name not in ("days", "months", "continents")
)


def _case(word: str) -> str:
    return (
        "digits"
        if word.isdigit()
        else "lower"
        if word.islower()
        else "upper"
        if len(word) > 1 and word.isupper()
        else "capital"
    )


def _numbers(text: str, draw: random.Random) -> list[str]:
    """Numbers of as many digits, one digit changed; the first one of a year stays."""
    found = [
        text[:n] + digit + text[n + 1 :]
        for n in range(1 if len(text) == 4 else 0, len(text))
        for digit in "0123456789"
        if digit != text[n] and not (n == 0 and digit == "0" and len(text) > 1)
    ]
    draw.shuffle(found)
    return found


def _other_number(word: str) -> list[str]:
    """The plural of a noun, or its singular, by the ending."""
    if len(word) < 3 or not word.islower() or not word.isascii():
        return []
    if word.endswith("ies"):
        return [f"{word[:-3]}y"]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return [word[:-1]]
    if word.endswith("y") and word[-2] not in "aeiou":
        return [f"{word[:-1]}ies"]
    return [f"{word}es" if word.endswith(("s", "x", "ch", "sh")) else f"{word}s"]


def _allowed(positions: Sequence[int] | None, count: int) -> frozenset[int]:
    if positions is None:
        return frozenset(range(count))
    outside = [position for position in positions if not -count <= position < count]
    if outside:
        raise ArgumentError(f"positions={outside[0]} is outside the prompt of {count} tokens")
    return frozenset(position % count for position in positions)


def _chosen(kept: Sequence[_Kept], count: int) -> list[_Kept]:
    """The one of most worth, then again and again the one of most worth that is not like those before."""
    left = sorted(kept, key=lambda one: -one.worth)
    flip = next((one for one in left if one.change.is_flip), None)
    chosen: list[_Kept] = []
    while left and len(chosen) < count:
        best = max(left, key=lambda one: one.worth * _novelty(one, chosen))
        # The published counterfactual of a prompt with two names is always among them.
        best = flip if len(chosen) == 1 and flip is not None and flip in left else best
        chosen.append(best)
        left.remove(best)
    return chosen


def _novelty(one: _Kept, chosen: Iterable[_Kept]) -> float:
    value = 1.0
    for other in chosen:
        value *= 0.5 if one.foil == other.foil else 1.0
        value *= 0.7 if one.change.words[0].text == other.change.words[0].text else 1.0
        value *= 0.8 if one.change.positions == other.change.positions else 1.0
    return value


def _result(search: _Search, chosen: Sequence[_Kept], given: Any) -> Counterfactuals:
    runs = search.runs
    answers = runs.loaded.answers
    answer = answers.string(search.target)
    items = []
    for one in chosen:
        change, word = one.change, one.change.words[0].text
        made = _shown(runs, change, given)
        items.append(
            Counterfactual(
                prompt=made,
                text=made if isinstance(made, str) else runs.text(change.ids),
                token_ids=change.ids,
                position=change.positions[0],
                positions=change.positions,
                word=word,
                replacement=search.written(change.replacement, change.kind, word),
                kind=change.kind,
                answer=answers.string(one.foil),
                foil=one.foil,
                probability=one.probability,
                gap=one.gap,
                log_gap=one.fall,
                instead_of=answer,
            )
        )
    return Counterfactuals(
        items=tuple(items),
        prompt=runs.prompt.row.prompt or runs.text(runs.ids),
        token_ids=tuple(runs.ids),
        answer=answer,
        target=search.target,
        probability=float(search.probabilities[search.target].exp()),
        tried=search.tried,
        model=runs.loaded.name,
    )


def _shown(runs: _Runs, change: _Change, given: Any) -> Prompt:
    """The changed prompt in the form in which the prompt was given."""
    row = runs.prompt.row
    if row.source == "text" and row.pair is None and row.encoder is None and not isinstance(given, Inputs):
        text = _text(row, change)
        if text is not None and prompt_ids(runs.loaded, text) == list(change.ids):
            return text
        return change.ids
    if row.source == "ids" and not isinstance(given, Inputs) and row.token_types is None and row.position_ids is None:
        return change.ids
    read = row if row.encoder is None else row.encoder
    new = replace(
        read, source="tokenizer", text=None, pair=None, messages=None, ids=change.ids, offsets=None, words=None
    )
    return Inputs((new if row.encoder is None else replace(row, encoder=new),))


def _text(row: Row, change: _Change) -> str | None:
    """The text with the words exchanged where they stand; None where that is not known."""
    text, offsets = row.text, row.offsets
    if text is None or offsets is None:
        return None
    for word in reversed(change.words):
        start, end = offsets[word.positions[0]][0], offsets[word.positions[-1]][1]
        start += len(text[start:end]) - len(text[start:end].lstrip())
        if text[start:end].casefold() != word.text.casefold():
            return None
        new = change.replacement if change.kind == "given" else like(change.replacement, text[start:end])
        text = text[:start] + new + text[end:]
    return text
