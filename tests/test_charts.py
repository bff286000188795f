"""Charts: a result says once what is to be seen, and every look of it follows."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowgraph
from flowgraph import TokenMatrix, head_scores, logit_lens
from flowgraph.charts import rendering
from flowgraph.charts.axis import Axis
from flowgraph.charts.bars import Bar, Bars, Column
from flowgraph.charts.grid import Grid, Places
from flowgraph.charts.lines import Lines, Panel, Rule, Series
from flowgraph.charts.result import Result
from flowgraph.charts.table import Table, Tabular
from flowgraph.errors import ArgumentError
from flowgraph.lenses.head_scores import HeadScore
from flowgraph.render.print import Look, grid_picture
from flowgraph.render.print.bars import bars_picture
from flowgraph.render.print.lines import lines_picture
from flowgraph.render.print.plot import path, scale
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
        Column(rows, Axis("m (u)"), (Bar(np.zeros(3), lambda _: ()),))


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


@dataclass(frozen=True, eq=False)
class Curve(Result):
    """A result that says its chart and nothing else."""

    y: np.ndarray

    def chart(self) -> Lines:
        x = np.arange(1.0, len(self.y) + 1)
        band = np.stack([self.y - 1, self.y + 1], axis=1)
        line = Series(
            "line",
            "main",
            x,
            self.y,
            lambda n: (f"point {n}", HOSTILE_TOKENS[0]),
            is_joined=True,
            band=band,
            band_name="band",
        )
        points = Series("points", "rest", x, 100.0 / x, lambda n: (f"rank {n}",))
        rules = (Rule("x", 2.5, "level"), Rule("y", 2.0, "upright"), Rule("both", name="equal"))
        panels = (Panel(Axis("height (m)"), (line,), rules), Panel(Axis("rank", "rank"), (points,)))
        return Lines("A curve", Axis("time (s)"), panels, subtitle="below")


@dataclass(frozen=True, eq=False)
class Lists(Result):
    """Bars of every kind: parts, moves, words and bands."""

    parts: np.ndarray

    def chart(self) -> Bars:
        one, other = self.parts
        places = Places("token", tuple(range(len(one))), tuple(HOSTILE_TOKENS[: len(one)]), is_numbered=False)
        stacked = tuple(
            Bar(part, lambda n: (f"part {n}",), name, role)
            for part, name, role in ((one, "a", "mlp"), (other, "b", "rest"))
        )
        move = Bar(np.full(len(one), 3.0), lambda n: ("a move",), start=np.arange(1.0, len(one) + 1))
        ranged = Bar(one, lambda _: (), band=np.stack([one - 1, one + 1], axis=1))
        words = (tuple(HOSTILE_TOKENS[:2]),) * len(one)
        return Bars(
            "Lists",
            (
                Column(places, Axis("apples"), stacked, title="stacked"), Column(places, Axis("rank", "rank"), (move,)),
                Column(places, Axis("pears"), (ranged,)), Column(places, Axis("words"), words=words),
            ),
            parts_title="parts",
        )  # fmt: skip


def saved(result, folder, **options):
    """Text of the picture in every vector format, and that the others are written."""
    texts = [result.save(folder / f"r.{ending}", **options).read_text(encoding="utf-8") for ending in ("svg", "tex")]
    for ending in ("png", "pdf"):
        assert result.save(folder / f"r.{ending}", **options).stat().st_size > 500
    return texts


@pytest.mark.parametrize("theme", ["light", "print"])
def test_a_result_that_only_says_its_chart_is_drawn_everywhere(tmp_path, theme):
    curve = Curve(np.array([1.0, 4.0, 2.0]))
    figure = curve.figure(theme="dark")
    band, line, points = figure.data
    assert (list(line.x), list(line.y), line.mode) == ([1, 2, 3], [1, 4, 2], "lines+markers")
    assert (list(points.y), points.mode) == ([100, 50, 100 / 3], "markers")
    assert list(band.y) == [2, 5, 3, 1, 3, 0]
    assert figure.layout.yaxis2.autorange == "reversed"
    assert line.customdata[1].startswith("point 1<br>")
    assert "<b>" not in line.customdata[1]
    assert {shape.type for shape in figure.layout.shapes} == {"line"}
    assert len(figure.layout.shapes) == 3
    assert curve.to_dataframe()["y"].tolist() == [1, 4, 2, 100, 50, 100 / 3]
    assert curve.to_csv().splitlines()[0] == "series,measure,x,y,low,high"
    assert "A curve" in str(curve)
    assert "33.3" in curve._repr_html_()
    svg, _ = saved(curve, tmp_path, theme=theme, width="one-column")
    assert svg.count("<circle") == 6 + 2
    for text in ("height (m)", "time (s)", "level", "equal", "band", "below"):
        assert f">{text}<" in svg


@pytest.mark.parametrize("theme", ["light", "print"])
def test_bars_of_every_kind_are_drawn_everywhere(tmp_path, theme):
    lists = Lists(np.array([[1.0, -2.0, 3.0], [2.0, -1.0, -1.0]]))
    figure = lists.figure()
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [list(bar.x) for bar in bars] == [[1, -2, 3], [2, -1, -1], [1, -2, 3]]
    assert list(bars[0].y) == [2, 1, 0]
    assert list(bars[2].error_x.array) == [1, 1, 1]
    moves = [tuple(trace.x) for trace in figure.data if trace.type == "scatter" and trace.mode != "text"]
    assert moves == [(1, 3), (2, 3), (3, 3)]
    assert "<" not in "".join(figure.layout.yaxis.ticktext).replace("<br>", "")
    assert figure.layout.legend.title.text == "parts"
    assert lists.to_csv().splitlines()[0] == "token,measure,a,b,before,after,value,low,high,words"
    assert len(lists.to_dataframe()) == 12
    assert "stacked" in lists._repr_html_()
    saved(lists, tmp_path, theme=theme)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=6), st.booleans())
def test_printed_bars_are_as_long_as_their_numbers(values, upright):
    array = np.array(values)
    column = Column(Places("p", tuple(range(len(array)))), Axis("u"), (Bar(array, lambda _: (), role="main"),))
    shapes = bars_picture(Bars("b", (column,), is_upright=upright), Look()).shapes
    drawn = [shape for shape in shapes if isinstance(shape, Line) and shape.colour == "attention"]
    axis = 1 if upright else 0
    lengths = np.array([(shape.end[axis] - shape.start[axis]) * (-1 if upright else 1) for shape in drawn])
    kept = array[array != 0]
    assert np.allclose(
        lengths * np.abs(array).max(),
        kept * np.abs(lengths).max(initial=0.0),
        atol=1e-6 * max(np.abs(kept).max(initial=0.0), 1e-9),
    )


def test_parts_of_a_printed_bar_lie_end_to_end():
    parts = tuple(
        Bar(np.array(values), lambda _: (), name, "main")
        for name, values in (("a", [2.0]), ("b", [-1.0]), ("c", [3.0]), ("d", [-4.0]))
    )
    column = Column(Places("p", (0,)), Axis("u"), parts)
    shapes = bars_picture(Bars("b", (column,)), Look(legend=False)).shapes
    a, b, c, d = [shape for shape in shapes if isinstance(shape, Line) and shape.colour == "attention"]
    assert a.start == b.start
    assert (c.start, d.start) == (a.end, b.end)
    assert (c.end[0] - d.end[0]) == pytest.approx(10 * (a.end[0] - a.start[0]) / 2)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=9), st.sampled_from(["linear", "log", "rank"]))
def test_points_and_ticks_lie_within_their_scale(values, kind):
    made = scale(Axis("a", kind), values, 100.0, 20.0)
    order = np.argsort(values)
    places = np.array([made.place(values[n]) for n in order])
    assert ((places >= 20 - 1e-6) & (places <= 100 + 1e-6)).all()
    assert (np.diff(places) * (1 if kind == "rank" else -1) >= -1e-9).all()
    ticks = made.ticks(20.0)
    assert len(ticks) <= 5
    assert all(20 - 1e-6 <= at <= 100 + 1e-6 for at, _ in ticks)
    for at, name in ticks:
        assert made.place(float(name.replace(",", "").replace("−", "-"))) == pytest.approx(at, abs=0.6)


def test_dashes_run_on_round_corners():
    points = [(float(n), 0.0) for n in range(49)]
    dashes = list(path(points, "ink", 1.0, is_dashed=True))
    drawn = sum(dash.end[0] - dash.start[0] for dash in dashes)
    assert drawn == pytest.approx(48 * 3.0 / 4.8)
    assert len(list(path(points, "ink", 1.0))) == 48


def test_a_table_is_a_picture_too(tmp_path):
    table = Table("many", {"n": np.arange(57), "word": [HOSTILE_TOKENS[0]] * 57}, note="a note")
    figure = rendering.figure(table, theme="dark")
    assert list(figure.data[0].cells.values[0][:3]) == ["0", "1", "2"]
    assert "<b" not in figure.data[0].cells.values[1][0]
    path = rendering.picture(table, tmp_path / "t.svg", width="one-column", caption=True)
    svg = path.read_text(encoding="utf-8")
    assert ">19<" in svg
    assert ">20<" not in svg
    assert "37 of 57 rows are not shown" in (tmp_path / "t.caption.txt").read_text(encoding="utf-8")
    wide = Table("wide", {f"column {n}": [0] for n in range(40)})
    with pytest.raises(
        ArgumentError, match=r"40 columns, and a width of 234 points has no room for them; give width=\d+ or more"
    ):
        rendering.picture(wide, tmp_path / "w.svg", width="one-column")
    with pytest.raises(ArgumentError, match="no rows"):
        rendering.picture(Table("none", {"a": []}), tmp_path / "n.svg")


def test_charts_without_numbers_or_room_are_refused(tmp_path):
    empty = np.zeros(0)
    nothing = Lines("none", Axis("x"), (Panel(Axis("y"), (Series("s", "main", empty, empty, lambda _: ()),)),))
    with pytest.raises(ArgumentError, match="'none' has no points"):
        rendering.picture(nothing, tmp_path / "n.svg")
    assert not rendering.figure(nothing, theme="light").data[0].x
    places = Places("p", (0,))
    many = Bars("many", (Column(places, Axis("u"), (Bar(np.ones(1), lambda _: ()),)),) * 20)
    with pytest.raises(
        ArgumentError, match=r"20 columns side by side, and a width of 234 points .* give width=\d+"
    ) as caught:
        rendering.picture(many, tmp_path / "m.svg", width="one-column")
    enough = int(str(caught.value).split("width=")[1].split(" ")[0])
    assert rendering.picture(many, tmp_path / "m.svg", width=enough)
    with pytest.raises(ArgumentError, match="there are 2 columns"):
        Bars("b", many.columns[:2], is_upright=True)
    for x, y, band, match in (
        (1, 2, None, r"'s' has x of shape \(1,\) and y of shape \(2,\)"), (1, 1, (2, 2), r"'s' has a band of shape \(2, 2\) for 1 points"),
    ):  # fmt: skip
        series = SimpleNamespace(name="s", x=np.zeros(x), y=np.zeros(y), band=None if band is None else np.zeros(band))
        with pytest.raises(ArgumentError, match=match):
            Series.__post_init__(series)


def test_a_grid_gives_its_numbers():
    grid = Grid(
        "g",
        Places("row", (4, 5)),
        Places("column", (0,), (" a",)),
        np.array([[1.0], [2.0]]),
        "u",
        lambda *_: (),
        words=(("x",), ("y",)),
    )
    frame = grid.table().to_dataframe()
    assert frame.to_dict("list") == {
        "row": [4, 5],
        "column": [0, 0],
        "column_token": [" a", " a"],
        "value": [1, 2],
        "word": ["x", "y"],
    }


LOOKS = {"figure", "show", "save", "to_csv", "to_dataframe", "to_npz", "_repr_html_"}


def test_looks_are_written_once():
    """Every class with a table is a result, and says its chart; how it is drawn and written it does not say."""
    for module in pkgutil.walk_packages(flowgraph.__path__, "flowgraph."):
        importlib.import_module(module.name)
    found, new = set(), [Tabular]
    while new:
        new = [under for one in new for under in one.__subclasses__() if under.__module__.startswith("flowgraph.")]
        found |= set(new)
    assert len(found) > 15
    assert {one for one in found if not issubclass(one, Result)} == {Table}
    own = {one: set(vars(one)) & LOOKS for one in found - {Result} if set(vars(one)) & LOOKS}
    # A graph has two tables and formats of its own, and opens as a page.
    assert own == {flowgraph.FlowGraph: {"save", "show", "to_csv", "to_dataframe"}}


def test_sets_of_heads_are_points_beside_the_line_of_a_complete_circuit():
    heads = tuple(flowgraph.Node("head", layer=0, head=n) for n in range(3))
    draws = np.ones((5, 2), dtype=int)
    about = {"heads": heads, "how": "zero", "metric": "m", "unit": "logits", "draws": draws, "seed": 0, "model": "<b>"}
    circuit, model = (np.array(rows, dtype=float) for rows in ([[3, 3], [0, 0], [1, 3]], [[4, 2], [0, 0], [3, 3]]))
    found = flowgraph.Completeness(((), heads, heads[:1]), ("none", "all", "random"), circuit, model, **about)
    figure = found.figure()
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("no head", [3], [3]), ("all heads", [0], [0]), ("random sets", [3], [2]),
    ]  # fmt: skip
    assert figure.data[2].customdata[0] == "without L0H0<br>circuit − model = -1 [-1, -1] logits"
    assert len(figure.layout.shapes) == 1
    assert "&lt;b&gt;" in figure.layout.title.subtitle.text
    minimal = flowgraph.Minimality(((), heads[:1], ()), np.array([[0.1, 0.1], [-2.0, -4.0], [1.0, 1.0]]), 7, **about)
    (bars,) = minimal.figure().data
    assert list(bars.x) == [-3, 1, 0.1]
    assert list(minimal.figure().layout.yaxis.ticktext) == ["L0H1", "L0H2", "L0H0"]
    assert list(bars.error_x.array) == [0, 0, 0]
    assert bars.customdata[0] == "L0H1: -3 [-3, -3] logits<br>without L0H0 before"
    assert len(set(bars.marker.color)) == 2


def test_effects_and_parts_of_a_logit_are_drawn(traces):
    effects = flowgraph.HeadEffects(
        np.arange(12.0).reshape(2, 2, 3) - 5, np.ones(2), None, "zero", "m", "logits", "a model"
    )
    assert effects.figure().data[0].z.tolist() == effects.effects.tolist()
    html = effects._repr_html_()
    assert html.count("<img") == 1
    assert html.count("<tr>") == 7
    trace = traces("gpt2")
    parts = flowgraph.direct_logit_attribution(trace)
    table = parts.table()
    bars = parts.figure(most=7).data
    assert np.allclose(np.sum([bar.x for bar in bars], axis=0), table.columns["logits"][:7])
    assert list(parts.figure(most=7).layout.yaxis.ticktext) == table.columns["part"][:7]
    with pytest.raises(ArgumentError, match="most=0 must be at least 1"):
        parts.chart(most=0)
    alti = flowgraph.AltiLogit(
        np.array([1.0, -2.0]), np.array([0.5, 1.0]), np.array([0.0, 0.25]), 0.1, 0.85, (" a", "b")
    )
    stacked = alti.figure().data
    assert [list(bar.y) for bar in stacked] == [[1, -2], [0.5, 1], [0, 0.25]]
    assert stacked[1].customdata[0] == "0 ␣a<br>MLPs +0.5 logits<br>in all +1.5 logits"


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=12), st.booleans())
def test_printed_points_stand_where_their_numbers_are(points, joined):
    x, y = np.array(points).T
    series = Series("s", "main", x, y, lambda _: (), is_joined=joined)
    lines = Lines("l", Axis("x"), (Panel(Axis("y"), (series,), (Rule("x", 60.0, "level"),)),))
    shapes = lines_picture(lines, Look(legend=False)).shapes
    marks = np.array([shape.centre for shape in shapes if isinstance(shape, Mark)])
    (level,) = [shape for shape in shapes if isinstance(shape, Line) and shape.dash == "dashed"]
    # Along both axes places are a linear function of the numbers; y runs down the page.
    assert np.allclose((marks[:, 0] - marks[0, 0]) * np.ptp(x), (x - x[0]) * np.ptp(marks[:, 0]), atol=1e-6)
    assert np.allclose(
        (marks[:, 1] - level.start[1]) * (60 - y.min()), (60 - y) * (marks[:, 1].max() - level.start[1]), atol=1e-6
    )
    drawn = [shape for shape in shapes if isinstance(shape, Line) and shape.colour == "attention"]
    assert len(drawn) == (len(points) - 1) * joined


def test_roles_are_a_list_or_a_grid_of_one_score():
    scores = {
        name: HeadScore(name, np.full((2, 3), n / 2), "share", 0.0, 1.0, 1, "about")
        for n, name in enumerate(("sink", "copying"))
    }
    roles = flowgraph.HeadRoles("m", scores, {"answer": "no task"}, {"sink": 0.3, "copying": 0.3}, None)
    assert isinstance(roles.chart(), Table)
    assert len(roles.chart()) == 6
    assert roles.figure("copying").data[0].z.tolist() == [[0.5] * 3] * 2
    assert roles._repr_html_().count("<img") == 2
    with pytest.raises(ArgumentError, match="'answer': no task"):
        roles.chart("answer")


def test_a_column_without_a_value_is_written_as_numbers_that_do_not_exist():
    arrays = Table("none", {"head": [None, None], "layer": [None, 3], "word": ["a", "b"]}).column_arrays()
    assert np.isnan(arrays["head"]).all()
    assert arrays["layer"].tolist() == [-1, 3]
