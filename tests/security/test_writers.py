"""Writers that are killed, disks that are full, and labels that want to be more than text."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import flowgraph
from flowgraph import FlowGraph
from flowgraph import atomic_file as files
from flowgraph.atomic_file import OLD, atomic_write_bytes
from flowgraph.errors import ArgumentError
from tests.graphs import graph_of
from tests.security.test_files import GRAPHS
from tests.synthetic_graphs import token_graph

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def never_swept(monkeypatch):
    monkeypatch.setattr(files, "_swept", {})


def aged(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)
    return path


# Killed writers


def test_what_killed_writers_left_is_swept_when_the_folder_is_written(tmp_path):
    part = ".0123456789abcdef.part"
    old, young = tmp_path / part, tmp_path / ".fedcba9876543210.part"
    others = [
        tmp_path / name
        for name in ("x.part", ".0123.part", ".0123456789abcdeg.part", "a.0123456789abcdef.part", f"{part}.x")
    ]
    for path in (old, young, *others):
        path.write_bytes(b"half")
        aged(path, OLD + 60)
    aged(young, OLD - 600)
    kept = tmp_path / "kept"
    kept.write_bytes(b"whole")
    aged(kept, OLD * 9)
    link = tmp_path / ".aaaaaaaaaaaaaaaa.part"
    link.symlink_to(kept)
    aged(link, OLD * 9)
    folder = tmp_path / ".bbbbbbbbbbbbbbbb.part"
    folder.mkdir()
    aged(folder, OLD * 9)
    atomic_write_bytes(tmp_path / "new", b"data")
    assert not old.exists()
    assert all(path.exists() for path in (young, kept, link, folder, *others))
    assert link.is_symlink()


def test_sweeping_is_no_reason_not_to_write(tmp_path, monkeypatch):
    def fail(_folder: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "scandir", fail)
    assert atomic_write_bytes(tmp_path / "new", b"data").read_bytes() == b"data"


_WRITER = """
import sys
from flowgraph.atomic_file import atomic_write_bytes
print("begun", flush=True)
n = 0
while True:
    n += 1
    atomic_write_bytes(sys.argv[1], bytes([n % 256]) * 3_000_000)
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_file(tmp_path, factor):
    chance = random.Random(5)
    for _ in range(6 * factor):
        path = tmp_path / "file"
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
        assert writer.stdout.readline() == b"begun\n"
        time.sleep(chance.uniform(0.0, 0.25))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        if path.exists():
            data = path.read_bytes()
            assert len(data) == 3_000_000
            assert len(set(data)) == 1
    for part in tmp_path.glob(".*.part"):
        aged(part, OLD + 60)
    atomic_write_bytes(tmp_path / "next", b"x")
    assert not list(tmp_path.glob(".*.part"))


# Full disks


@pytest.fixture
def full():
    """A disk that takes only so many bytes of a file: as full disks do, the write itself fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def at(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield at
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


ENDINGS = (
    ".json",
    ".graphml",
    ".gexf",
    ".gml",
    ".dot",
    ".csv",
    ".neuronpedia.json",
    ".html",
    ".svg",
    ".tex",
    ".png",
    ".pdf",
)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_no_half_file(tmp_path, full, ending):
    graph = token_graph(("a", " b"), layers=1)
    path = tmp_path / f"graph{ending}"
    graph.save(path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for size in (0, 100, 1_000):
        full(size)
        with pytest.raises(ArgumentError, match="could not be written"):
            token_graph(("a", " b"), layers=2).save(path)
        assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_trace_on_a_full_disk(tmp_path, full, traces):
    trace = traces("llama")
    path = trace.save(tmp_path / "run.safetensors")
    before = path.read_bytes()
    full(1_000)
    with pytest.raises(ArgumentError, match="could not be written"):
        trace.save(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


# Labels

LABELS = {
    "html": '<img src=x onerror="alert(1)"><script>alert(2)</script>',
    "js": "</script><script>alert(3)//\u2028'\";`${alert(4)}`",
    "svg": "<svg onload=alert(5)>]]><!--",
    "latex": r"\input{/etc/passwd}\write18{id} % $x$ #1 ~^_{}&",
    "xml": '&xxe; "\'<!DOCTYPE a SYSTEM "file:///etc/passwd">',
    "csv": '=cmd|"/c calc"!A1',
    "terminal": "\x1b]0;title\x07\x1b[31mred\x1b[0m\r\n\x08",
    "bidi": "abc\u202egpj.exe\u2066\u200b\ufeff",
    "dot": '"]; evil [label="x',
    "surrogate": "\ud83d half",
    "null": "a\x00b\x7f\x85",
}  # fmt: skip


def hostile(text: str) -> FlowGraph:
    """A graph that says a text everywhere it can."""
    graph = token_graph(("a", " b", " c"), layers=1)
    info = graph.info
    return replace(
        graph,
        info=replace(info, model=text, tokens=(text,) * len(info.tokens), target_token=text, foil_token=text, foil=3),
    )


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("ending", ENDINGS[:-2])
def test_hostile_labels_stay_labels(tmp_path, name, ending):
    text = LABELS[name]
    graph = hostile(text)
    path = tmp_path / f"graph{ending}"
    graph.save(path)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert written
    for file, data in written.items():
        said = data.decode("utf-8")
        # The numbers of a graph keep every text as it is; what people look at does not.
        if ending != ".dot":
            assert "\x1b" not in said
        assert "\x00" not in said
        if file.endswith((".html", ".svg")):
            for evil in ("<img src=x", "<script>alert", "<svg onload", "<!DOCTYPE a"):
                assert evil not in said
        if ending in (".html", ".svg", ".tex"):
            assert "\u202e" not in said
        if file.endswith(".tex"):
            typeset = "".join(line for line in said.splitlines() if not line.startswith("%"))
            assert r"\input{/etc" not in typeset
            assert r"\write18{" not in typeset
        if file.endswith(".csv"):
            cells = [cell for row in csv.reader(io.StringIO(said)) for cell in row]
            assert not any(cell.startswith(("=", "@", "+", "\t", "\r")) for cell in cells)
        if file.endswith((".svg", ".graphml", ".gexf")):
            ElementTree.fromstring(data)
    if ending in (".json", ".graphml"):
        again = FlowGraph.load(path)
        assert again.info == graph.info
    assert json.dumps(graph.explain().__str__())


@pytest.mark.parametrize("name", LABELS)
def test_hostile_labels_do_not_reach_the_terminal_or_a_notebook(name):
    graph = hostile(LABELS[name])
    for said in (repr(graph), str(graph.explain())):
        assert "\x1b" not in said
    shown = graph._repr_html_() or ""
    assert "<script>alert" not in shown
    assert "<img src=x" not in shown


def test_graphs_of_the_tests_are_not_empty():
    assert all(len(make()) for make in GRAPHS.values())
    assert len(graph_of([])) == 0
    assert flowgraph.__name__ == "flowgraph"
