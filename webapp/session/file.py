"""Session files: a recipe, the answers that were recorded for it, and what a reader noted, in one file that runs nothing.

A session is a zip of JSON, of graphs in flowgraph's own format and of numpy arrays. It stands in a safetensors file, with the
trace that the answers came from where that is not too large (:mod:`flowgraph_webapp.session.container`). It is opened as if an
enemy had made it: sizes are bounded before anything is unpacked (:mod:`flowgraph_webapp.session.archive`), and every value is
checked against the type of its field (:mod:`flowgraph_webapp.session.codec`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, get_type_hints

from flowgraph import NodeReading
from flowgraph.errors import ArgumentError, FileFormatError

from ..node_key import parse_node_key
from ..recipe import MOST_PINS, Recipe
from ..registered import KINDS
from ..server.question import A, Question, answer_type
from ..server.run import OfRun, Run, RunQuestion, refuse_unfit, run_of, same
from .archive import Archive, packed
from .codec import Reader, Writer, completed, refuse, strict_json
from .container import joined, parts, pass_of

FORMAT = "flowgraph-session"
VERSION = 1
LONGEST_NOTE = 5_000
MOST_NOTES = 500
MOST_ANSWERS = 20_000
MOST_RUNS = 100


@dataclass(frozen=True)
class Note:
    """What somebody wrote about a node, or about the whole (``node`` is then None)."""

    node: str | None
    text: str

    def __post_init__(self) -> None:
        if self.node is not None:
            parse_node_key(self.node)
        if len(self.text) > LONGEST_NOTE:
            raise ArgumentError(f"a note has {len(self.text):,} characters; at most {LONGEST_NOTE:,} are kept")


@dataclass(frozen=True)
class Annotations:
    """Pinned nodes as keys, and notes."""

    pins: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        for key in self.pins:
            parse_node_key(key)
        if len(self.pins) > MOST_PINS or len(self.notes) > MOST_NOTES:
            raise ArgumentError(f"at most {MOST_PINS} pins and {MOST_NOTES} notes are kept")


@dataclass(frozen=True, eq=False)
class Session:
    """What a session file holds.

    Attributes
    ----------
    title
        What to call it.
    recipe
        What was looked at.
    annotations
        What was pinned and noted.
    answers
        Question → answer. Of a bundled example each is unpacked when it is asked for.
    trace
        The trace of the recipe's run, as :meth:`flowgraph.Trace.save` writes it; empty where the file holds none.
    id
        Under which the service has opened it; empty before.
    """

    title: str
    recipe: Recipe
    annotations: Annotations
    answers: Mapping[Question[Any], Any] = field(repr=False)
    trace: bytes = field(default=b"", repr=False)
    id: str = ""

    @property
    def is_graph_file(self) -> bool:
        """Whether it is a graph out of a file, with no pass of a model behind it."""
        runs = [self.answers[question] for question in self.answers if isinstance(question, RunQuestion)]
        return bool(runs) and not any(isinstance(run, Run) and run.token_ids for run in runs)

    @property
    def is_text(self) -> bool:
        """Whether it is of a text, which a model can be run on again."""
        return all(run.is_text for run in self.answers.values() if isinstance(run, Run))


def write_session(
    recipe: Recipe,
    answers: Mapping[Question[Any], Any],
    annotations: Annotations | None = None,
    title: str = "",
) -> bytes:
    """The bytes of a session file.

    Parameters
    ----------
    recipe
        What was looked at.
    answers
        What was recorded: question → answer. Whatever is recorded about a run, the run itself must be among them.
    annotations
        Pins and notes.
    title
        What to call it.

    Raises
    ------
    ArgumentError
        If an answer holds numbers that are not finite, or its run is missing.
    FileFormatError
        If the file would be too large to be opened again.
    """
    writer = Writer()
    runs: dict[RunQuestion, int] = {}
    groups: dict[tuple[int, type], list[Any]] = {}
    listed: list[dict[str, Any]] = []
    for question, answer in answers.items():
        run = _run(question)
        kind: Any = type(question)
        number = runs.setdefault(run, len(runs))
        if run not in answers or run.session is not None:
            raise ArgumentError("answers are recorded about a run that is not recorded itself; record the run too")
        group = groups.setdefault((number, kind), [])
        member = f"answers/{list(groups).index((number, kind))}.json"
        about = {name: writer.plain(getattr(question, name)) for name in _about(kind)}
        listed.append({"kind": kind.__name__, "run": number, "about": about, "member": member, "entry": len(group)})
        group.append(writer.plain(question.to_file(answer, answers[run]) if isinstance(question, OfRun) else answer))
    manifest = {
        "format": FORMAT, "version": VERSION, "title": title,
        "recipe": writer.plain(replace(recipe, session=None, example=None)),
        "annotations": writer.plain(annotations or Annotations()),
        "runs": [writer.plain(run) for run in runs],
        "answers": listed,
    }  # fmt: skip
    members = {"session.json": _dump(manifest)}
    members |= {f"answers/{n}.json": _dump(group) for n, group in enumerate(groups.values())}
    members["readings.json"] = _dump([writer.plain(reading) for reading in writer.readings])
    return joined(packed(members | writer.members))


def with_trace(data: bytes, trace: bytes) -> bytes:
    """A session file with the trace of its recipe's run, as :meth:`flowgraph.Trace.save` writes it, or without one."""
    return joined(parts(data).session, trace)


def read_session(data: bytes) -> Session:
    """Open a session file that may come from anywhere; everything in it is read and checked.

    Raises
    ------
    FileFormatError
        If it is too large, damaged, of another version, or anything in it is not what it should be.
    """
    session = open_recorded(data)
    answers = dict(session.answers)
    for question, answer in answers.items():
        run = answers[_run(question)]
        assert isinstance(run, Run)
        refuse_unfit(run, question, answer)
    if session.trace:
        _refuse_other_pass(session, answers)
    return replace(session, answers=answers)


def open_recorded(data: bytes) -> Session:
    """Open a session file, its answers to be unpacked when they are asked for."""
    packed_session, trace = parts(data)
    if trace and not packed_session:
        raise FileFormatError("the file is the trace of a pass and holds no session")
    archive = Archive(packed_session)
    manifest = strict_json(archive.member("session.json"), "session.json")
    reader = Reader(archive.member)
    if not isinstance(manifest, dict):
        refuse("session.json", manifest, "an object")
    if manifest.get("format") != FORMAT:
        refuse("session.json: format", manifest.get("format"), repr(FORMAT))
    if manifest.get("version") != VERSION:
        refuse("session.json: version", manifest.get("version"), f"{VERSION}, the only one this release reads")
    about = reader.record(_Manifest, manifest, "session.json")
    return Session(about.title[:200], about.recipe, about.annotations, _Answers(archive, about), trace)


def _refuse_other_pass(session: Session, answers: Mapping[Question[Any], Any]) -> None:
    """Refuse a trace of another pass than the one that the session is about."""
    run = answers.get(RunQuestion.of(session.recipe)) if session.recipe.text else None
    if not isinstance(run, Run):
        raise FileFormatError("the file holds a trace, and no answer about the run that it would be of")
    said = pass_of(session.trace)
    for name in ("tokens", "position", "target", "foil"):
        value = said.get(name)
        same(f"trace.{name}", tuple(value) if isinstance(value, list) else value, getattr(run, name))
    same("trace.model_name", said.get("model_name"), run.model)


@dataclass(frozen=True)
class _Entry:
    """Where the answer of a question is; ``about`` are the fields of its kind."""

    kind: str
    run: int
    about: Any
    member: str
    entry: int


@dataclass(frozen=True)
class _Manifest:
    """What the first member of a session says."""

    format: str
    version: int
    title: str
    recipe: Recipe
    annotations: Annotations
    runs: tuple[RunQuestion, ...]
    answers: tuple[_Entry, ...]

    def __post_init__(self) -> None:
        if len(self.answers) > MOST_ANSWERS or len(self.runs) > MOST_RUNS:
            raise ArgumentError(f"at most {MOST_ANSWERS:,} answers about {MOST_RUNS} runs are read")
        if any(run.session is not None for run in self.runs):
            raise ArgumentError("a run names a session; a session file holds runs of no other")


class _Answers(Mapping[Question[Any], Any]):
    """The answers of a session, each unpacked when it is asked for."""

    def __init__(self, archive: Archive, about: _Manifest) -> None:
        self._archive = archive
        self._reader = Reader(archive.member, _Readings(archive))
        self._entries: dict[Question[Any], tuple[Any, str, int]] = {}
        self._parsed: dict[str, list[Any]] = {}
        for n, entry in enumerate(about.answers):
            question = _question(about.runs, entry, f"session.json.answers[{n}]")
            if question in self._entries:
                raise FileFormatError(f"session.json.answers[{n}] is recorded twice")
            kind = (
                question.filed_as if isinstance(question, OfRun) and question.filed_as else answer_type(type(question))
            )
            self._entries[question] = kind, entry.member, entry.entry
        for question in self._entries:
            if _run(question) not in self._entries:
                raise FileFormatError("session.json records answers about a run that it does not hold")

    def __getitem__(self, question: Question[A]) -> A:
        kind, member, n = self._entries[question]
        rows = self._rows(member)
        if not 0 <= n < len(rows):
            refuse(f"{member}[{n}]", None, f"one of {len(rows)} answers")
        answer: A = self._reader.record(kind, rows[n], f"{member}[{n}]")
        return question.from_file(answer, self[question.run]) if isinstance(question, OfRun) else answer

    def __iter__(self) -> Iterator[Question[Any]]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _rows(self, member: str) -> list[Any]:
        """The answers of one kind as they stand; parsed once, since nodes are asked for one by one."""
        if member not in self._parsed:
            self._parsed[member] = _list(self._archive, member)
        return self._parsed[member]


class _Readings(Sequence[NodeReading]):
    """Readings that graphs of a session share, each unpacked when it is asked for."""

    def __init__(self, archive: Archive) -> None:
        self._reader = Reader(archive.member)
        self._rows = _list(archive, "readings.json") if "readings.json" in archive.names else []
        self._made: dict[int, NodeReading] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, n: Any) -> Any:
        if n not in self._made:
            self._made[n] = self._reader.record(NodeReading, self._rows[n], f"readings.json[{n}]")
        return self._made[n]


def _list(archive: Archive, member: str) -> list[Any]:
    rows = strict_json(archive.member(member), member)
    if not isinstance(rows, list):
        refuse(member, rows, "a list")
    return rows


def _question(runs: tuple[RunQuestion, ...], entry: _Entry, place: str) -> Question[Any]:
    if entry.kind not in KINDS:
        refuse(f"{place}.kind", entry.kind, f"one of {', '.join(KINDS)}")
    if not 0 <= entry.run < len(runs):
        refuse(f"{place}.run", entry.run, f"0…{len(runs) - 1}")
    kind: Any = KINDS[entry.kind]
    run = runs[entry.run]
    declared = _about(kind)
    about = completed(entry.about, declared) if isinstance(entry.about, dict) else {}
    if not isinstance(entry.about, dict) or set(about) != set(declared):
        refuse(f"{place}.about", entry.about, f"the fields {', '.join(declared) or '(none)'}")
    if kind is RunQuestion:
        return run
    reader = Reader(_no_member)
    values = {name: reader.value(hint, about[name], f"{place}.{name}") for name, hint in declared.items()}
    try:
        question: Question[Any] = kind(run=run, **values)
    except ArgumentError as error:
        raise FileFormatError(f"{place}: {error}") from error
    return question


@cache
def _about(kind: Any) -> dict[str, Any]:
    """Fields of a kind of question besides its run, and their types."""
    if kind is RunQuestion:
        return {}
    hints = get_type_hints(kind)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind) if item.name != "run"}


def _run(question: Question[Any]) -> RunQuestion:
    run = run_of(question)
    if run is None:
        raise ArgumentError(f"a {type(question).__name__} is about no run and is not recorded")
    return run


def _no_member(name: str) -> bytes:
    raise FileFormatError(f"a question refers to the member {name[:60]!r}")


def _dump(data: Any) -> bytes:
    # Plain ASCII, so that half a surrogate pair in a token is written and read back as it is.
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
