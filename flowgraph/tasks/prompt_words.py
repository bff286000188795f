"""The words of a prompt, each with its tokens, and other words as tokens of the same form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PromptError
from ..models import LoadedModel
from .kinds import FUNCTION_WORDS, FUNCTION_WORDS_OF, KEYWORDS

_CONTINUES = "##"
"""What a piece within a word begins with, where tokens have no spaces."""
_CODE = re.compile(
    r"\bdef \w+\(|\breturn\b.*[;+*/-]|\bimport \w|\bfunction\b ?\w*\(|\b(?:var|let|const) \w+ ?=|\bprint\(|[=!<>]=|=>|[;{}]\s*\n|\w+\(\w*\) ?[{:]|"
    r"^\s*\w+ = .+\n|\bfor \w+ in \w+:",
    re.MULTILINE,
)


@dataclass(frozen=True)
class PromptWord:
    """One word at one place.

    Attributes
    ----------
    text
        Its letters or digits.
    lead
        What stands before them in the first token: a space, or nothing.
    positions
        Its tokens, one behind the other.
    """

    text: str
    lead: str
    positions: tuple[int, ...]

    @property
    def is_number(self) -> bool:
        """Whether it is made of digits."""
        return self.text.isdecimal()


class Spelling:
    """How a model's tokenizer writes words.

    Parameters
    ----------
    model
        The model.

    Raises
    ------
    PromptError
        If it has no tokenizer.
    """

    def __init__(self, model: LoadedModel) -> None:
        if model.tokenizer is None:
            raise PromptError(
                f"{model.name!r} has no tokenizer, so its words are not known; give the corrupted prompts yourself"
            )
        self.tokenizer, self.vocabulary = model.tokenizer, model.vocabulary
        added = getattr(model.tokenizer, "added_tokens_decoder", {})
        self.special = {*model.tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        self.ignores_case = _lowers(model.tokenizer)
        # Where no token carries a space, each begins a word, unless a sign says that it goes on.
        self.carries_spaces = " " in "".join(self.vocabulary.strings(self._plain("a a")))
        self._known: dict[tuple[str, str], tuple[int, ...] | None] = {}

    def words(self, ids: Sequence[int]) -> list[PromptWord]:
        """The words of a prompt in order; special tokens, punctuation and pieces of characters are none."""
        found: list[PromptWord] = []
        before = ""
        for position, token in enumerate(ids):
            text = "" if token in self.special else self.vocabulary.string(token)
            inside = text.startswith(_CONTINUES) and len(text) > len(_CONTINUES)
            body = text.removeprefix(_CONTINUES) if inside else text.lstrip()
            lead = "" if inside else text[: len(text) - len(body)]
            kind = "letters" if body.isalpha() else "digits" if body.isdecimal() else ""
            joins = kind == before and not lead and (inside or self.carries_spaces)
            if kind and joins:
                last = found[-1]
                found[-1] = PromptWord(last.text + body, last.lead, (*last.positions, position))
            elif kind and not inside:
                found.append(PromptWord(body, lead, (position,)))
            elif kind:
                kind = ""  # the rest of something that is no word
            before = kind
        return found

    def ids(self, text: str, lead: str) -> tuple[int, ...] | None:
        """The tokens of a word behind ``lead``; None if the tokenizer cannot write it so."""
        key = text, lead
        if key not in self._known:
            self._known[key] = self._written(text, lead)
        return self._known[key]

    def form(self, token: int) -> tuple[str, str]:
        """Text and lead of a token that is a word; two empty ones if it is none."""
        string = "" if token in self.special else self.vocabulary.string(token)
        body = string.lstrip()
        return (body, string[: len(string) - len(body)]) if body.isalpha() or body.isdecimal() else ("", "")

    def _written(self, text: str, lead: str) -> tuple[int, ...] | None:
        wanted = self._cased(lead + text)
        for given in (lead + text, text):
            ids = self._plain(given)
            if ids and self._joined(ids) == wanted:
                return tuple(ids)
        # Some tokenizers put a space before a text themselves, but not behind a bracket.
        ids = [] if lead else self._plain(f"({text}")
        for n in range(1, len(ids)):
            if self._joined(ids[:n]).strip() == "(" and self._joined(ids[n:]) == wanted:
                return tuple(ids[n:])
        return None

    def _joined(self, ids: Sequence[int]) -> str:
        if any(token in self.special or token >= len(self.vocabulary) for token in ids):
            return ""
        strings = [self.vocabulary.string(token) for token in ids]
        return strings[0] + "".join(string.removeprefix(_CONTINUES) for string in strings[1:])

    def _cased(self, text: str) -> str:
        return text.lower() if self.ignores_case else text

    def _plain(self, text: str) -> list[int]:
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False)]


def _lowers(tokenizer: Any) -> bool:
    """Whether a tokenizer makes all letters small."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if normalizer is None:
        return bool(getattr(tokenizer, "do_lower_case", False))
    return "A" not in normalizer.normalize_str("A")


def like(entry: str, word: str, *, ignores_case: bool = False) -> str:
    """A word of a list in the capitals of the word whose place it takes."""
    if ignores_case:
        return entry.lower()
    if len(word) > 1 and word.isupper():
        return entry.upper()
    if entry[:1].isupper() or not word[:1].isupper():
        return entry
    return entry[:1].upper() + entry[1:]


def function_words(words: Sequence[str]) -> frozenset[str]:
    """The words that hold a text together: those of English, and of the language that the text has most of such words of."""
    here = {word.lower() for word in words}
    # English first, which wins where two have as many.
    return FUNCTION_WORDS | max((FUNCTION_WORDS, *FUNCTION_WORDS_OF.values()), key=lambda some: len(here & some))


def is_content(word: str, holding: frozenset[str] = FUNCTION_WORDS, *, code: bool = False) -> bool:
    """Whether a word says something by itself: a number, or no word that holds a sentence (``holding``) or a program together."""
    if word.isdecimal():
        return True
    if code:
        return word.lower() not in KEYWORDS and (len(word) == 1 or word.lower() not in holding)
    return len(word) > 1 and word.lower() not in holding


def is_code(text: str) -> bool:
    """Whether a text looks like a program."""
    return bool(_CODE.search(text))
