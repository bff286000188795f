"""Charts: a result says once what is to be seen, and every look of it follows."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgraph import TokenMatrix, head_scores, logit_lens
from flowgraph.charts import rendering
from flowgraph.charts.bars import Bars
from flowgraph.charts.grid import Grid, Places
from flowgraph.charts.result import Result
from flowgraph.charts.table import Table
from flowgraph.errors import ArgumentError
from flowgraph.render.print import Look, grid_picture
from flowgraph.render.print.shapes import Label, Line, Mark
from tests.graphs import HOSTILE_TOKENS


class Cells(HTMLParser):
    """Texts of the cells of a table, and their titles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.titles: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        assert tag in ("div", "table", "thead", "tbody", "tr", "th", "td"), tag
        if tag == "td":
            self.cells.append("")
            self.titles.append(dict(attrs)["title"])
            self.open = True
        else:
            self.open = False

    def handle_data(self, data):
        if self.cells and self.open:
            self.cells[-1] += data


@dataclass(frozen=True, eq=False)
class Toy(Result):
    """A result of somebody else's module: its numbers, its table, its chart, and nothing about looks."""

    values: np.ndarray

    def table(self) -> Table:
        return Table("toy", {"value": self.values.ravel()})

    def chart(self, *, negated: bool = False) -> Grid:
        values = -self.values if negated else self.values
        rows, columns = values.shape
        return Grid(
            "A toy",
            Places("row", tuple(range(rows))),
            Places("column", tuple(range(columns))),
            values,
            "apples",
            lambda row, column: (f"row {row}, column {column}", f"{values[row, column]:.3g} apples"),
        )


@pytest.fixture
def toy():
    return Toy(np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]))


def test_a_new_result_has_every_look(toy, tmp_path):
    figure = toy.figure(theme="dark")
    assert figure.data[0].z.tolist() == toy.values.tolist()
    assert figure.data[0].customdata[1][2] == "row 1, column 2<br>5 apples"
    cells = Cells(toy._repr_html_())
    assert [float(text or 0) for text in cells.cells] == toy.values.ravel().tolist()
    assert cells.titles[5] == "row 1, column 2\n5 apples"
    for ending in (".svg", ".png", ".pdf", ".tex"):
        assert toy.save(tmp_path / f"toy{ending}", width="one-column", theme="print").stat().st_size > 500
    assert (tmp_path / "toy.caption.txt").read_text(encoding="utf-8") == "A toy\n"
    assert toy.save(tmp_path / "toy.csv").read_text(encoding="utf-8").split() == [
        "value",
        *map(str, toy.values.ravel()),
    ]
    assert np.load(toy.save(tmp_path / "toy.npz"))["value"].tolist() == toy.values.ravel().tolist()
    assert "toy" in str(toy)


def test_options_of_the_chart_reach_every_look(toy, tmp_path):
    assert toy.figure(negated=True).data[0].z.min() == -5
    plain, turned = (toy.save(tmp_path / f"{n}.svg", negated=n) for n in (False, True))
    assert plain.read_text(encoding="utf-8") != turned.read_text(encoding="utf-8")
    with pytest.raises(ArgumentError, match=r"negated= is for pictures; 'toy.csv' holds the numbers"):
        toy.save(tmp_path / "toy.csv", negated=True)
    with pytest.raises(ArgumentError, match=r"extension '.gif'; expected .csv or .npz for the numbers, or .svg, .pdf"):
        toy.save(tmp_path / "toy.gif")
    assert not list(tmp_path.glob("toy*"))


def test_a_result_without_a_chart_is_none():
    with pytest.raises(TypeError, match="chart"):
        type("Half", (Result,), {"table": lambda self: Table("half", {})})()


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=5), st.booleans())
def test_strength_is_the_part_of_the_end_of_the_scale(values, low):
    array = np.abs(np.array(values)) if low else np.array(values)
    values = array.tolist()
    places = Places("row", tuple(range(len(array)))), Places("column", (0, 1, 2))
    grid = Grid("g", *places, array, "u", lambda *_: (), strongest="low" if low else "high")
    largest = np.abs(array).max() or 1.0
    naive = [[(1 - v / largest) if low else v / largest for v in row] for row in values]
    assert np.allclose(grid.strength, naive)
    assert grid.is_signed == (array.min() < 0)
    assert (np.abs(grid.strength) <= 1).all()


def test_a_scale_of_ranks_is_logarithmic_and_low_is_strong():
    ranks = np.array([[1.0, 10.0, 1000.0]])
    grid = Grid(
        "ranks", Places("row", (0,)), Places("column", (0, 1, 2)), ranks, "rank", lambda *_: (), strongest="low",
        is_logarithmic=True,
    )  # fmt: skip
    assert np.allclose(grid.strength, [[1.0, 2 / 3, 0.0]])
    bar = rendering.figure(grid, theme="light").data[0].colorbar
    assert list(bar.ticktext) == ["1", "10", "100", "1,000"]


@pytest.mark.parametrize("columns", [4, 200])
def test_the_scale_of_a_printed_grid_is_as_deep_as_its_places(columns):
    """With words or, where there is no room for them, without: the strongest place looks as the end of the scale."""
    values = np.linspace(0, 1, columns)[None]
    grid = Grid(
        "g", Places("row", (0,)), Places("column", tuple(range(columns))), values, "u", lambda *_: (),
        words=(("word",) * columns,),
    )  # fmt: skip
    shapes = grid_picture(grid, Look("two-column", "light")).shapes
    colour = {Mark: "fill", Line: "colour"}
    tinted = [shape for shape in shapes if getattr(shape, colour.get(type(shape), ""), None) == "attention"]
    has_words = any(isinstance(shape, Label) and shape.text == "word" for shape in shapes)
    assert has_words == (columns == 4)
    scale = [shape.tint for shape in tinted[-6:]]
    assert max(shape.tint for shape in tinted[:-6]) == pytest.approx(max(scale))
    assert max(scale) == pytest.approx(0.45 if has_words else 1.0)


def test_shapes_are_checked():
    rows, columns = Places("row", (0, 1)), Places("column", (0,))
    with pytest.raises(ArgumentError, match=r"shape \(1, 2\); rows and columns say \(2, 1\)"):
        Grid("g", rows, columns, np.zeros((1, 2)), "u", lambda *_: ())
    with pytest.raises(ArgumentError, match="2 rows"):
        Grid("g", rows, columns, np.zeros((2, 1)), "u", lambda *_: (), words=(("a",), ("b", "c")))
    with pytest.raises(ArgumentError, match="strongest='low' is for values from 0 on; the least is -1"):
        Grid("g", rows, columns, np.array([[1.0], [-1.0]]), "u", lambda *_: (), strongest="low")
    with pytest.raises(ArgumentError, match="1 tokens for 2 numbers"):
        Places("row", (0, 1), ("a",))
    with pytest.raises(ArgumentError, match="there are 2 places"):
        Bars("b", rows, np.zeros(3), "m", "u", lambda _: ())


def test_tokens_of_a_prompt_are_text_in_every_look(tmp_path):
    tokens = tuple(HOSTILE_TOKENS)
    matrix = TokenMatrix(np.eye(len(tokens)), ("query_pos", "key_pos"), "attention", "probability", tokens)
    Cells(matrix._repr_html_())  # no other tag than those of a table
    figure = matrix.figure()
    for text in (*figure.layout.xaxis.ticktext, *(tip for row in figure.data[0].customdata for tip in row)):
        assert "<" not in text.replace("<br>", "")
        assert "$" not in text
    for ending in (".svg", ".tex"):
        assert matrix.save(tmp_path / f"m{ending}", width="two-column").exists()


def test_a_lens_and_heads_are_drawn_for_papers_by_their_charts(traces, tmp_path):
    trace = traces("gpt2")
    lens = logit_lens(trace)
    for colour in ("probability", "rank", "entropy"):
        chart = lens.chart(colour=colour)
        assert chart.words[1][2] == lens[1, 2].top[0][0]
        assert lens.save(tmp_path / f"{colour}.svg", colour=colour).exists()
        assert (lens.figure(colour=colour).data[0].z == chart.scaled).all()
    assert lens[1, 2].top[0][0] in (tmp_path / "rank.svg").read_text(encoding="utf-8")
    assert (tmp_path / "rank.caption.txt").read_text(encoding="utf-8").startswith("top tokens of ")
    assert "colour: rank of the target" in (tmp_path / "rank.caption.txt").read_text(encoding="utf-8")
    scores = head_scores(trace)
    name = next(iter(scores.scores))
    assert scores.chart(name).values is scores[name]
    assert scores.chart(name).tip(1, 0)[0] == f"L{scores.layers[0] + 1}H0"
    assert scores.save(tmp_path / "heads.svg", score=name).exists()


def test_a_signed_row_has_bars_of_two_colours():
    matrix = TokenMatrix(np.array([0.5, -0.25]), ("key_pos",), "effect", "logits")
    assert isinstance(matrix.chart(), Bars)
    assert len(set(matrix.figure().data[0].marker.color)) == 2
    assert Cells(matrix._repr_html_()).cells == [".50", "-.25"]


def test_what_nobody_registered_for_is_said():
    with pytest.raises(TypeError, match="nothing is registered that can draw a int"):
        rendering.figure(3)


def test_charts_know_nothing_of_looks():
    code = (
        "import sys, flowgraph.charts.result, flowgraph.charts.bars; "
        "print([n for n in ('torch', 'plotly', 'matplotlib', 'flowgraph.render', 'flowgraph.files') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
