"""Pairs of prompts with an answer and a wrong answer, checked against a model's tokenizer."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic_file import as_path
from ..errors import ArgumentError, FileFormatError, TargetError
from ..models import LoadedModel
from ..values.inputs import Inputs, row_of

Prompt = str | tuple[int, ...] | Inputs

GIVEN = "as given"
"""Corruption of examples that were given: what was changed in their corrupted prompts is not known."""
_COLUMNS = ("clean", "corrupted", "target", "foil")
_MOST_BYTES = 20 * 2**20
_MOST_ROWS = 10_000


@dataclass(frozen=True)
class Example:
    """One prompt, its counterpart, the right answer and a wrong one.

    Attributes
    ----------
    clean, corrupted
        Texts, token ids as they are, or :func:`flowgraph.inputs`: the prompt, and one of as many tokens without the information that decides.
    target, foil
        The answer to the clean prompt and a wrong one, one token each (strings or ids); the metric is the difference of
        their logits.
    """

    clean: Prompt
    corrupted: Prompt
    target: str | int
    foil: str | int


@dataclass(frozen=True)
class TaskData:
    """Examples of one task.

    Attributes
    ----------
    name
        Name of the task, or of the file.
    description
        One sentence: the question, and the change of the corrupted prompt.
    examples
        At least one.
    corruption
        What was changed in the corrupted prompts, ``"flip"``; ``"as given"`` for examples that were given.
    corruptions
        All corruptions that the task has, the published one first; empty for examples that were given.
    """

    name: str
    description: str
    examples: tuple[Example, ...]
    corruption: str = GIVEN
    corruptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.examples:
            raise ArgumentError(f"the task {self.name!r} has no examples; give at least one")

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def __repr__(self) -> str:
        first = self.examples[0]
        return (
            f"TaskData({self.name!r}, corruption {self.corruption!r}, {len(self)} examples, first {first.clean!r} → {first.target!r}, "
            f"not {first.foil!r})"
        )

    def checked(self, model: LoadedModel) -> TaskData:
        """The same data, once every example is known to fit the model.

        Raises
        ------
        ArgumentError
            If an example's prompts differ in length, or its answers are the same; the message names the example.
        TargetError
            If an answer is not one token.
        """
        for number, example in enumerate(self.examples):
            _check(model, example, f"{self.name}, example {number}")
        return self

    def of_length(self, model: LoadedModel) -> dict[int, tuple[Example, ...]]:
        """Examples by the number of their tokens, the shortest first; those of one length can run in one batch."""
        found: dict[int, list[Example]] = {}
        for example in self.examples:
            found.setdefault(len(prompt_ids(model, example.clean)), []).append(example)
        return {length: tuple(found[length]) for length in sorted(found)}

    def of_lengths(self, model: LoadedModel) -> dict[tuple[int, int], tuple[Example, ...]]:
        """As :meth:`of_length`, by the number of positions and by that of the encoder, which is 0 for models of one stack."""
        found: dict[tuple[int, int], list[Example]] = {}
        for example in self.examples:
            row = row_of(model, example.clean, "an example's prompt")
            lengths = row.length, 0 if row.encoder is None else row.encoder.length
            found.setdefault(lengths, []).append(example)
        return {lengths: tuple(found[lengths]) for lengths in sorted(found)}

    def save(self, path: str | Path, *, overwrite: bool = True) -> Path:
        """Write the examples as CSV with the columns clean, corrupted, target, foil.

        Raises
        ------
        ArgumentError
            If prompts or answers are token ids, which a text file would not tell from numbers in words.
        """
        from ..atomic_file import atomic_write_text

        for number, example in enumerate(self.examples):
            if not all(isinstance(getattr(example, name), str) for name in _COLUMNS):
                raise ArgumentError(f"example {number} of {self.name!r} is given as token ids; only texts can be saved")
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(_COLUMNS)
        writer.writerows([getattr(example, name) for name in _COLUMNS] for example in self.examples)
        return atomic_write_text(as_path(path), table.getvalue(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> TaskData:
        """Read examples from CSV: columns clean, corrupted, target, foil, in any order, one row each.

        Raises
        ------
        ArgumentError
            If the file cannot be opened.
        FileFormatError
            If it is not UTF-8, too large, or a column or a value is missing; the message names the row.
        """
        path = as_path(path)
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise FileFormatError(f"{path} is larger than {_MOST_BYTES // 2**20} MB; give fewer examples")
            # Spreadsheets begin a file with a byte order mark, which is no part of the first column's name.
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ArgumentError(f"the task file {path} could not be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise FileFormatError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
        return cls(path.stem, f"examples of {path.name}", tuple(_rows(path, text)))


def _rows(path: Path, text: str) -> list[Example]:
    try:
        reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise FileFormatError(
                f"{path} has no column {', '.join(missing)}; its first line must name {', '.join(_COLUMNS)}"
            )
        rows = [{name: row[name] for name in _COLUMNS} for row in reader]
    except csv.Error as error:
        raise FileFormatError(f"{path} is not a CSV file: {error}") from error
    if len(rows) > _MOST_ROWS:
        raise FileFormatError(f"{path} has {len(rows):,} rows; at most {_MOST_ROWS:,} are read")
    for number, row in enumerate(rows, start=1):
        empty = [name for name, value in row.items() if not value]
        if empty:
            raise FileFormatError(f"{path}, row {number}: {', '.join(empty)} is missing")
    if not rows:
        raise FileFormatError(f"{path} has no examples below its first line")
    return [Example(**row) for row in rows]


def prompt_ids(model: LoadedModel, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, with the special tokens the model expects."""
    return list(row_of(model, prompt, "an example's prompt").token_ids)


def _check(model: LoadedModel, example: Example, where: str) -> None:
    rows = [row_of(model, one, "an example's prompt") for one in (example.clean, example.corrupted)]
    sources = [0 if row.encoder is None else row.encoder.length for row in rows]
    if sources[0] != sources[1]:
        raise ArgumentError(
            f"{where}: the encoder reads {sources[0]} positions of the clean prompt and {sources[1]} of the corrupted one; positions could "
            "not be compared"
        )
    clean, corrupted = (list(row.token_ids) for row in rows)
    # Patching puts one position in place of another, which needs equal lengths.
    if len(clean) != len(corrupted):
        shown = " | ".join(model.vocabulary.strings(clean)), " | ".join(model.vocabulary.strings(corrupted))
        raise ArgumentError(
            f"{where}: the clean prompt has {len(clean)} tokens and the corrupted one {len(corrupted)}; positions could not be "
            f"compared. clean: {shown[0]} — corrupted: {shown[1]}"
        )
    try:
        answers = [model.answers.target_id(value, name) for name, value in _answers(example)]
    except TargetError as error:
        raise TargetError(f"{where}: {error}") from error
    if answers[0] == answers[1]:
        raise ArgumentError(f"{where}: target and foil are the same token {example.target!r}; the metric would be 0")


def _answers(example: Example) -> Sequence[tuple[str, Any]]:
    return (("target", example.target), ("foil", example.foil))
