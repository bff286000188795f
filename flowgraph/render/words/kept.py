"""How much of the answer a picture keeps, as short as a badge and as sentences; nothing where it was not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...charts.text import picture_label, visible, whole_percent
from ...values.graph_info import KEPT, GraphInfo

_NAMED = 2
"""Foils and exchanged words that are named; of more, the number."""
_MOST = 1e6
"""What no measured part reaches."""


@dataclass(frozen=True)
class Kept:
    """What was measured of a picture.

    Attributes
    ----------
    f, low, high
        Part of the answer that is kept: mean, least and most over the counterfactual prompts.
    answer, foils
        The answer, and what it is compared with, each once.
    exchanged
        The words that differ in each counterfactual prompt, and those in their place.
    text
        The whole sentence.
    random, other_heads
        What pictures by chance keep: anywhere, and of other heads at the same places. None where none was drawn.
    unseen
        Whether the search had not seen those prompts; None if no search is known.
    searched
        Part kept beside the prompts of the search; None if it is not known.
    """

    f: float
    low: float
    high: float
    answer: str
    foils: tuple[str, ...]
    exchanged: tuple[tuple[str, str], ...]
    text: str
    random: float | None
    other_heads: float | None
    unseen: bool | None
    searched: float | None


def kept_of(info: GraphInfo) -> Kept | None:
    """What was measured of a graph's picture; None where nothing is stated, or a file states it in another form."""
    data = info.provenance.get(KEPT)
    if not isinstance(data, Mapping):
        return None
    f, answer, foils, text = _number(data, "f"), data.get("answer"), _texts(data.get("foils")), data.get("text")
    if f is None or not foils or not isinstance(answer, str) or not isinstance(text, str):
        return None
    low, high, unseen, searched = _number(data, "low"), _number(data, "high"), data.get("unseen"), data.get("searched")
    pairs = data.get("counterfactuals")
    exchanged = [_texts(pair) for pair in pairs] if isinstance(pairs, Sequence) and not isinstance(pairs, str) else []
    return Kept(
        f, f if low is None else low, f if high is None else high, answer, tuple(dict.fromkeys(foils)),
        tuple((pair[0], pair[1]) for pair in exchanged if len(pair) == 2), text,
        _number(data, "random"), _number(data, "other_heads"), unseen if isinstance(unseen, bool) else None,
        _number(searched, "f") if isinstance(searched, Mapping) else None,
    )  # fmt: skip


def badge(kept: Kept) -> str:
    """Half a line: what is kept, rather than what, beside which prompts, and what chance keeps."""
    answer, *foils = (f"‘{picture_label(word)}’" for word in (kept.answer, *kept.foils))
    parts = [f"keeps {whole_percent(kept.f)} of {answer} rather than {_either(foils)}"]
    beside = {True: "unseen prompt", False: "prompt of the search", None: "counterfactual"}[kept.unseen]
    count = len(kept.exchanged)
    if kept.low != kept.high:
        plural = beside.replace("prompt", "prompts") if "prompt" in beside else f"{beside}s"
        parts.append(f"{f'{count} ' if count else ''}{plural} {_range(kept.low, kept.high)}")
    elif kept.unseen is not None and count:
        parts.append(f"{'one' if count == 1 else count} {beside}{'s' if count > 1 and kept.unseen else ''}")
    if kept.random is not None:
        parts.append(f"random {whole_percent(kept.random)}")
    return " · ".join(parts)


def kept_sentences(kept: Kept) -> list[str]:
    """What is kept, of which answer, beside which prompts; and what chance keeps."""
    span = f" ({_range(kept.low, kept.high)})" if kept.low != kept.high else ""
    words = [f"{_quoted(other)} for {_quoted(own)}" for own, other in kept.exchanged]
    named = f" ({_listed(words)})" if words else ""
    count, several = f"{len(words)} " if len(words) > 1 else "a " if words else "", "s" if len(words) != 1 else ""
    by = {
        True: f"{count}prompt{several} that the search did not see{named}",
        False: f"the prompt{several} of the search{named}, as there was no other",
        None: f"{count}counterfactual prompt{several}{named}",
    }
    whom = _either(list(map(_quoted, kept.foils)))
    said = f"The parts shown keep {whole_percent(kept.f)}{span} of {_quoted(kept.answer)} rather than {whom}"
    said += f", measured beside {by[kept.unseen]}"
    if kept.unseen and kept.searched is not None:
        said += f"; beside those of the search they keep {whole_percent(kept.searched)}"
    chance = []
    if kept.random is not None:
        chance.append(f"as many parts anywhere keep {whole_percent(kept.random)}")
    if kept.other_heads is not None:
        chance.append(f"other heads at the same places, with the same MLPs, keep {whole_percent(kept.other_heads)}")
    return [f"{said}.", *([f"By chance {' and '.join(chance)}."] if chance else [])]


def _range(low: float, high: float) -> str:
    ends = whole_percent(low).removesuffix(" %"), whole_percent(high)
    # A dash between two signs would be read as a third one.
    return f"{ends[0]} to {ends[1]}" if low < 0 or high < 0 else f"{ends[0]}–{ends[1]}"


def _either(words: Sequence[str]) -> str:
    more = len(words) - _NAMED
    return " or ".join([*words[:_NAMED], *([f"{more} other{'s' if more > 1 else ''}"] if more > 0 else [])])


def _listed(words: Sequence[str]) -> str:
    more = len(words) - _NAMED
    named = list(words[:_NAMED]) + ([f"{more} other{'s' if more > 1 else ''}"] if more > 0 else [])
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _quoted(text: str) -> str:
    return f"“{visible(text)}”"


def _number(data: Mapping[str, Any], name: str) -> float | None:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _MOST else None


def _texts(values: Any) -> list[str]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return []
    return [value for value in values if isinstance(value, str)]
