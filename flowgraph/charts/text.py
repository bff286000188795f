"""How tokens are written where people read them: every character visible, nothing that could move the text around."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

SPACE = "␣"
_NAMED = {"\n": "⏎", "\t": "⇥"}
_RIGHT_TO_LEFT = frozenset({"R", "AL"})
_LEFT_TO_RIGHT_MARK, _FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u200e", "\u2068", "\u2069"
_DOTTED_CIRCLE = "◌"


def visible(token: str) -> str:
    """A token as one line of visible text.

    Spaces at the edges become ``␣``, a newline ``⏎``, a tab ``⇥``; any other character that does not print becomes
    its code point, as ``⟨00A0⟩``. Right-to-left words are isolated, so that their marks stay where they belong.
    The result is text, not markup: escape it for the format it goes into.
    """
    body = token.strip(" ")
    before = SPACE * (len(token) - len(token.lstrip(" ")))
    after = SPACE * (len(token) - len(before) - len(body))
    word = printable(body)
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in word):
        return f"{_LEFT_TO_RIGHT_MARK}{before}{_FIRST_STRONG_ISOLATE}{word}{_POP_ISOLATE}{after}"
    return before + word + after


def printable(text: str) -> str:
    """Text on one line: newlines, tabs and characters that do not print are written out, spaces stay spaces."""
    # A combining mark at the start would sit on whatever stands before it on the screen.
    start = _DOTTED_CIRCLE if text and unicodedata.combining(text[0]) else ""
    return start + "".join(_printable_character(character) for character in text)


def picture_label(token: str) -> str:
    """A token as it stands beside a node: as :func:`visible`, without the ``␣`` before a word."""
    word = token.removeprefix(" ")
    return visible(word if word.strip(" ") else token)


def prompt_line(tokens: Sequence[str], longest: int | None = None) -> str:
    """The prompt on one line, cut with ``…`` after ``longest`` characters."""
    text = printable("".join(tokens))
    return text if longest is None or len(text) <= longest else text[: longest - 1].rstrip() + "…"


def _printable_character(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    return character if character.isprintable() else f"⟨{ord(character):04X}⟩"


def whole_percent(part: float) -> str:
    """A part of 1 in whole percent, as statements of what a picture keeps say it."""
    # A tiny negative number is rounded to 0 without its sign.
    return f"{round(100 * part) + 0} %".replace("-", "−")


def abbreviated(token: str, longest: int = 14) -> str:
    """A token of at most so many characters, ``…`` at the end of one that was longer."""
    return token if len(token) <= longest else token[: longest - 1] + "…"
