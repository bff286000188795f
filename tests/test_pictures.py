"""Pictures for papers: what is on them, that no text covers another, and that a token can be nothing but text."""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import replace

import numpy as np
import pytest

import flowgraph
from flowgraph.algorithms import keep_strongest
from flowgraph.errors import ArgumentError
from flowgraph.render.page.semantic_page import statements
from flowgraph.render.print import COLUMN_WIDTHS, MOST_EDGES, Look, build, matplotlib_picture, picture
from flowgraph.render.print import legend as legend_module
from flowgraph.render.print.frame import SCALE, frame
from flowgraph.render.print.ink import THEMES, palette, style_of
from flowgraph.render.print.labels import Ground, Wish
from flowgraph.render.print.pictures import FORMATS, render_picture, save_picture
from flowgraph.render.print.semantic_ink import _PRINT_FILLS, edge_ink, pill_palette
from flowgraph.render.print.shapes import (
    DASHES,
    Label,
    Line,
    Mark,
    Picture,
    Pill,
    Plate,
    corners,
    shortened,
    text_width,
)
from flowgraph.render.print.svg import to_svg
from flowgraph.render.scene.elements import drawing, elements
from flowgraph.render.scene.layout import Geometry
from flowgraph.render.scene.semantic_elements import pill_text, semantic_elements
from flowgraph.render.scene.semantic_plan import plan_of
from flowgraph.render.scene.style import edge_stroke
from flowgraph.render.words.caption import caption
from flowgraph.semantic import semantic_graph, visit_graph
from flowgraph.values.flow_graph import EDGE_KINDS
from tests import graphs
from tests.conftest import IDS, slow_but
from tests.synthetic_graphs import (
    HOSTILE,
    empty_graph,
    head_graph,
    logits_graph,
    token_graph,
    with_structural,
)  # fmt: skip
from tests.test_semantic_views import KINDS_OF_GRAPH, hostile
from tests.test_stacks import trace_of
from tests.test_views import _contrast

matplotlib = pytest.importorskip("matplotlib", reason="PDF and PNG need the extra 'figures'")


def without_provenance(graph):
    return replace(graph, info=replace(graph.info, provenance={}))


EVERY_GRAPH = {
    "eight tokens": lambda: keep_strongest(token_graph(), mass=0.8, max_edges=300),
    "sixty tokens": lambda: keep_strongest(token_graph(tuple(f" word{i}" for i in range(60)), layers=12), max_edges=400),
    "sixty tokens, deep": lambda: keep_strongest(token_graph(tuple(f" w{i}" for i in range(60)), layers=30), max_edges=90),
    "heads": lambda: keep_strongest(head_graph(), max_edges=300),
    "logits": lambda: logits_graph(),
    "logits of heads": lambda: keep_strongest(logits_graph(layers=8, heads=6, level="head"), max_edges=150),
    "hostile": lambda: token_graph(HOSTILE, layers=3),
    "hostile readings": lambda: graphs.token_graph(5, tokens=graphs.HOSTILE_TOKENS, layers=2),
    "dollars": lambda: token_graph(("$x^2$", " $\\frac{1}{2}$", " 100%", "a_b", "\\", "{", "}~#&"), layers=3),
    "parallel": lambda: token_graph(layers=5, parallel=True),
    "window": lambda: token_graph(layers=12, first=7),
    "structural": lambda: with_structural(token_graph(layers=6)),
    "no head": lambda: token_graph(layers=4, head=False),
    "one token": lambda: token_graph(("Hello",), layers=3),
    "two stacks": lambda: without_provenance(flowgraph.build_graph(trace_of("t5"), heads_in=[0], threshold=0.02)),
    "not read": lambda: replace(token_graph(layers=2), readings=()),
    "no edges": empty_graph,
    "nothing at all": lambda: empty_graph(with_nodes=False),
}  # fmt: skip
EVERY_GRAPH = {name: functools.cache(make) for name, make in EVERY_GRAPH.items()}
SOME = ("eight tokens", "sixty tokens", "heads", "logits", "logits of heads", "hostile", "hostile readings")
FONTS = pytest.mark.parametrize(
    "font",
    [pytest.param(None, id="first font", marks=pytest.mark.slow), pytest.param("DejaVu Sans", id="widest font")],
)


@pytest.fixture(params=EVERY_GRAPH, name="graph")
def _graph(request):
    return EVERY_GRAPH[request.param]()


@pytest.fixture(params=COLUMN_WIDTHS, name="width")
def _width(request):
    return request.param


def shapes_of(drawn: Picture, kind: type) -> list:
    return [shape for shape in drawn.shapes if isinstance(shape, kind)]


# --- nothing covers a text ----------------------------------------------------------------------------------------


def meet(one, other) -> bool:
    """Whether two convex shapes overlap: no edge of either separates them."""
    for shape in (one, other):
        for (x0, y0), (x1, y1) in itertools.pairwise([*shape, shape[0]]):
            normal = (y1 - y0, x0 - x1)
            a, b = ([x * normal[0] + y * normal[1] for x, y in points] for points in (one, other))
            if max(a) <= min(b) + 1e-9 or max(b) <= min(a) + 1e-9:
                return False
    return True


def box_corners(box):
    left, top, right, bottom = box
    return (left, top), (right, top), (right, bottom), (left, bottom)


def rendered_corners(drawn: Picture) -> list:
    """Corners of the ink of each text, as matplotlib sets it, in points."""
    made = matplotlib_picture.figure(drawn)
    renderer = importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(made).get_renderer()
    scale = 72 / made.dpi
    found = []
    for artist, label in zip(made.axes[0].texts, shapes_of(drawn, Label), strict=True):
        artist.set_rotation(0)
        box = artist.get_window_extent(renderer)
        left, right = box.x0 * scale, box.x1 * scale
        top, bottom = drawn.height - box.y1 * scale, drawn.height - box.y0 * scale
        (x, y), angle = label.at, math.radians(label.angle)
        # Letters without descenders still get the line they stand on; a tenth of a point is the renderer's own rounding.
        found.append(
            tuple(
                (x + (u - x) * math.cos(angle) + (v - y) * math.sin(angle),
                 y - (u - x) * math.sin(angle) + (v - y) * math.cos(angle))
                for u, v in box_corners((left + 0.1, top + 0.1, right - 0.1, bottom - 0.1))
            )
        )  # fmt: skip
    return found


def overlapping(labels, found) -> list[tuple[str, str]]:
    pairs = itertools.combinations(zip(labels, found, strict=True), 2)
    return [(a.text, b.text) for (a, one), (b, other) in pairs if meet(one, other)]


@pytest.mark.parametrize("name", SOME)
@FONTS
def test_no_text_covers_another_as_rendered(name, width, font, monkeypatch):
    if font:
        found = tuple(dict.fromkeys([font, *matplotlib_picture._families()]))
        monkeypatch.setattr(matplotlib_picture, "_families", lambda: found)
    drawn = picture(EVERY_GRAPH[name](), Look(width=width), matplotlib_picture.spell)
    labels = shapes_of(drawn, Label)
    found = rendered_corners(drawn)
    assert len(labels) > 20
    assert overlapping(labels, found) == []
    for label, points in zip(labels, found, strict=True):
        assert all(0 <= x <= drawn.width and 0 <= y <= drawn.height for x, y in points), label


def test_the_axis_of_a_long_prompt_is_thinned_and_keeps_the_target():
    graph = token_graph(tuple(f" w{i}" for i in range(200)), layers=2, threshold=0.3)
    ticks = [label for label in shapes_of(picture(graph, Look(legend=False)), Label) if label.size == 7]
    assert 60 < len(ticks) < 200
    assert ticks[-1].text == "␣w199"
    assert ticks[-1].is_bold
    assert overlapping(ticks, [corners(tick) for tick in ticks]) == []


def test_the_overlap_check_sees_an_overlap():
    one, far = Label("alpha", (10.0, 20.0), 6.0, "ink"), Label("beta", (80.0, 20.0), 6.0, "ink")
    turned = Label("gamma", (14.0, 27.0), 6.0, "ink", angle=45.0)
    drawn = Picture(120.0, 60.0, (one, far, turned), palette(THEMES["light"]), "", "")
    assert overlapping([one, far, turned], rendered_corners(drawn)) == [("alpha", "gamma")]
    assert not meet(corners(one), corners(far))


def test_no_label_covers_a_node_and_all_stay_on_the_page(graph, width):
    drawn = picture(graph, Look(width=width, legend=False))
    marks = [box_corners(mark.box()) for mark in shapes_of(drawn, Mark) if mark.border_width or mark.shape == "square"]
    for label in shapes_of(drawn, Label):
        points = corners(label)
        is_number = label.anchor == "middle" and label.size < 6
        # A turned token may be measured for a font that is wider than any that sets it.
        assert all(-1 <= x <= drawn.width + 1 and -1 <= y <= drawn.height + 1 for x, y in points), label
        if not is_number:
            assert not any(meet(points, mark) for mark in marks), label
    for mark in shapes_of(drawn, Mark):
        left, top, right, bottom = mark.box()
        assert left >= 0
        assert top >= 0
        assert right <= drawn.width
        assert bottom <= drawn.height


@pytest.mark.parametrize(
    "text", ["Tokyo .85", "residual stream", "␣capital", "MMMWWW", "illicit", "L29", "日本", "‑—…≤"]
)
@pytest.mark.parametrize("is_bold", [False, True])
def test_the_measure_is_an_upper_bound(text, is_bold):
    label = Label(matplotlib_picture.spell(text), (10.0, 20.0), 10.0, "ink", is_bold=is_bold)
    drawn = Picture(300.0, 40.0, (label,), palette(THEMES["light"]), "", "")
    for font in matplotlib_picture._families()[:2]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(matplotlib_picture, "_families", lambda font=font: (font, "DejaVu Sans"))
            (found,) = rendered_corners(drawn)
        wide = found[1][0] - found[0][0]
        assert wide <= text_width(label.text, 10.0, is_bold) + 0.3
        assert wide >= 0.5 * text_width(label.text, 10.0, is_bold)


def test_texts_are_cut_to_their_room():
    assert shortened("Tokyo", 6.0, 100.0) == "Tokyo"
    cut = shortened("averyveryverylongtoken", 6.0, 40.0)
    assert cut.endswith("…")
    assert text_width(cut, 6.0) <= 40


def test_a_label_that_finds_no_place_is_left_out_and_the_caption_says_so():
    def wish(priority, must=False):
        return Wish(priority, (Label("word", (20.0, 20.0), 6.0, "ink"),), must)

    ground = Ground((0.0, 0.0, 100.0, 100.0))
    assert [label.text for label in ground.place([wish(2), wish(3)])] == ["word"]
    ground.take_lines([Line((0.0, 18.0), (100.0, 18.0), "attention", 2.0)])
    assert ground.place([wish(2)]) == []
    assert len(ground.place([wish(3, must=True)])) == 1
    faint = Ground((0.0, 0.0, 100.0, 100.0))
    faint.take_lines([Line((0.0, 18.0), (100.0, 18.0), "attention", 0.4, 0.2)])
    assert len(faint.place([wish(2)])) == 1
    bent = Ground((0.0, 0.0, 100.0, 100.0))
    bent.take_lines([Line((0.0, 90.0), (60.0, 90.0), "attention", 2.0, bend=(25.0, -55.0))])
    assert bent.place([wish(2)]) == []
    assert re.search(r"\d+ node labels? left out for want of room", picture(logits_graph(), Look("one-column")).caption)
    assert "left out" not in picture(token_graph(("a",), layers=2)).caption


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_widths_are_those_of_journals_and_the_height_follows(graph):
    for width, points in {**COLUMN_WIDTHS, 300: 300.0}.items():
        drawn = picture(graph, Look(width=width))
        assert drawn.width == points
        assert drawn.height > 40
    assert COLUMN_WIDTHS == {"one-column": 3.25 * 72, "two-column": 6.75 * 72}


@pytest.fixture(name="fitted")
def _fitted(monkeypatch):
    """Frames that pictures were fitted into, in order."""
    frames = []

    def spy(needs, width):
        frames.append(frame(needs, width))
        return frames[-1]

    monkeypatch.setattr(build, "frame", spy)
    return frames


def test_nodes_stand_where_the_layout_puts_them(graph, width, fitted):
    drawn = picture(graph, Look(width=width, legend=False))
    centres = np.array([mark.centre for mark in shapes_of(drawn, Mark)]).reshape(-1, 2)
    geometry = fitted[0].geometry
    assert type(geometry) is Geometry
    for place in drawing(graph).places:
        expected = np.array(geometry.pixel(place)) * SCALE
        assert np.abs(centres - expected).max(axis=1).min() < 1e-6


@pytest.mark.parametrize(
    ("name", "width", "orientation"),
    [
        ("eight tokens", "one-column", "columns"),
        ("eight tokens", "two-column", "columns"),
        ("sixty tokens", "one-column", "rows"),
        ("sixty tokens", "two-column", "rows"),
        ("heads", "one-column", "columns"),
    ],
)
def test_tokens_are_columns_while_they_fit(name, width, orientation, fitted):
    picture(EVERY_GRAPH[name](), Look(width=width))
    assert fitted[0].geometry.orientation == orientation


def test_a_width_that_cannot_hold_the_graph_is_refused_with_one_that_can():
    graph = token_graph(tuple(f" w{i}" for i in range(60)), layers=80, threshold=0.05)
    with pytest.raises(ArgumentError, match="too narrow for 60 tokens and 81 layers") as caught:
        picture(graph, Look("one-column"))
    enough = int(re.search(r"width=(\d+) or more", str(caught.value))[1])
    assert picture(graph, Look(enough)).width == enough
    with pytest.raises(ArgumentError, match="too narrow"):
        picture(graph, Look(enough - 4))


def test_every_edge_and_node_is_drawn_as_the_page_styles_it(graph):
    drawn = picture(graph, Look(legend=False))
    edges = elements(drawing(graph))["edges"]
    lines = [line for line in shapes_of(drawn, Line) if line.colour != "line"]
    assert len(lines) == len(edges) == len(graph)
    wanted = sorted((e["data"]["w"] if "structural" not in e["classes"] else 1.0) * SCALE for e in edges)
    assert sorted(line.width for line in lines) == pytest.approx(wanted)
    assert sum(line.dash == "dotted" for line in lines) == int(graph.structural.sum())
    if drawing(graph).is_signed:
        assert sum(line.dash == "dashed" for line in lines) == int((graph.share < 0).sum())
    squares = [mark for mark in shapes_of(drawn, Mark) if mark.shape == "square"]
    assert len(squares) == sum("square" in n["classes"] for n in elements(drawing(graph))["nodes"])


def test_strong_edges_lie_over_weak_ones_of_their_kind():
    lines = [line for line in shapes_of(picture(EVERY_GRAPH["eight tokens"]()), Line) if line.colour == "attention"]
    straight = [line.width for line in lines if line.bend is None][:-5]  # the last are the legend's
    assert len(straight) > 3
    assert straight == sorted(straight)


def test_a_large_graph_is_cut_to_its_strongest_edges_and_says_so():
    graph = token_graph(tuple(f" w{i}" for i in range(40)), layers=12, threshold=0.0005)
    assert len(graph) > MOST_EDGES
    with pytest.warns(UserWarning, match=f"{len(graph):,} edges, of which the strongest 2,000 are drawn"):
        render_picture(graph)
    drawn = picture(graph, Look(legend=False))
    assert len([line for line in shapes_of(drawn, Line) if line.colour != "line"]) == MOST_EDGES
    assert f"drawn: the strongest 2,000 of {len(graph):,} edges" in drawn.caption
    whole = drawing(graph)
    strongest = elements(whole)["edges"][:MOST_EDGES]
    wanted = sorted(edge["data"]["w"] * SCALE for edge in strongest)
    assert sorted(line.width for line in shapes_of(drawn, Line) if line.colour != "line") == pytest.approx(wanted)


def test_a_picture_higher_than_a_page_warns():
    graph = token_graph(tuple(f" w{i}" for i in range(200)), layers=3, threshold=0.2)
    with pytest.warns(UserWarning, match="in high, and a page holds about 9 in"):
        render_picture(graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": "wide"}, "width='wide'; expected 'one-column', 'two-column' or a number of points"),
        ({"width": 20}, "width=20; expected"),
        ({"width": True}, "width=True; expected"),
        ({"width": float("nan")}, "width=nan; expected"),
        ({"theme": "dark"}, "theme='dark'; expected one of 'light', 'print'"),
        ({"format": "jpg"}, "format='jpg'; expected one of 'svg', 'pdf', 'png', 'tex'"),
        ({"dpi": 0}, "dpi=0; expected a number in 50…2400"),
    ],
)
def test_wrong_arguments_are_named(options, message, monkeypatch):
    # The shape checks of the tests would refuse these before the function does.
    unchecked = getattr(render_picture, "__wrapped__", render_picture)
    with pytest.raises((ArgumentError, TypeError), match="(?s)" + re.escape(message) + "|Type-check"):
        unchecked(token_graph(layers=2), **options)


# --- legend and caption -------------------------------------------------------------------------------------------


def texts(drawn: Picture) -> list[str]:
    return [label.text for label in shapes_of(drawn, Label)]


def test_the_legend_names_every_kind_of_edge_that_is_there(graph):
    there = {name for edge in elements(drawing(graph))["edges"] for name in edge["classes"].split()} - {"trunk"}
    assert there <= set(legend_module._EDGES)
    names = texts(picture(graph))
    for name, text in legend_module._EDGES.items():
        if text != "MLP":  # the square has the same name
            assert (text in names) == (name in there)


def test_the_widths_of_the_legend_are_those_of_edges_with_these_numbers():
    drawn = picture(EVERY_GRAPH["eight tokens"]())
    lines, names = shapes_of(drawn, Line), texts(drawn)
    assert names[-4:] == [".3", ".1", ".03", ".01"]
    for line, part in zip(lines[-4:], (0.3, 0.1, 0.03, 0.01), strict=True):
        assert line.width == pytest.approx(edge_stroke("attention", part)[0] * SCALE)
    assert [step in names for step in ("≤10", "≤100", "≤1k", "≤10k", "more")] == [True] * 5
    assert "Lens rank of ␣Tokyo" in names


def test_the_legend_can_be_left_out(graph):
    drawn = picture(graph, Look(legend=False))
    assert not any(text.startswith(("Edges", "Width", "Lens rank")) for text in texts(drawn))
    if len(graph):
        assert drawn.height < picture(graph).height


def test_the_caption_can_be_set_below():
    graph = EVERY_GRAPH["eight tokens"]()
    with_caption = picture(graph, Look("one-column", caption=True))
    assert with_caption.height > picture(graph, Look("one-column")).height + 20
    assert " ".join(texts(with_caption)).endswith(with_caption.caption)
    assert with_caption.caption.startswith(caption(graph))


# --- colours ------------------------------------------------------------------------------------------------------


def test_the_print_theme_is_grey_and_its_ranks_can_be_told_apart():
    colours = palette(THEMES["print"])
    assert all(colour[1:3] == colour[3:5] == colour[5:7] for colour in colours.values())
    ranks = [int(colours[f"ranks{n}"][1:3], 16) for n in range(5)]
    assert all(b - a >= 40 for a, b in itertools.pairwise(ranks))
    assert ranks[-1] <= 255 - 30
    looks = set()
    for kind in ("attention", "residual", "mlp", "lowers"):
        style = style_of("edge", (kind,), "print")
        looks.add((colours[style["line-color"]], style.get("line-style", "solid")))
    assert len(looks) == 4
    effects = [style_of("node", ("head", f"effect{n}"), "print") for n in range(5)]
    known = {(s["background-color"], s["border-color"], s["border-width"], s.get("border-style")) for s in effects}
    assert len({(colours[fill], colours[border], *rest) for fill, border, *rest in known}) == 5


def test_names_of_colours_give_the_page_its_own_colours():
    light = palette(THEMES["light"])
    assert light["attention"] == THEMES["light"].attention
    assert light["ranks2"] == THEMES["light"].ranks[2]
    assert style_of("node", ("square",), "light")["background-color"] == "mlp"
    assert style_of("node", ("state", "k0", "dense"), "light")["width"] == 7
    assert "label" not in style_of("node", ("p2", "rows"), "light")
    assert "label" in style_of("node", ("p2", "columns"), "light")


def test_a_tint_is_the_colour_mixed_with_the_background():
    drawn = Picture(1.0, 1.0, (), {"attention": "#0072B2", "background": "#FFFFFF"}, "", "")
    assert drawn.colour("attention") == "#0072B2"
    assert drawn.colour("attention", 0.0) == "#FFFFFF"
    assert drawn.colour("attention", 0.5) == "#80B8D8"


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "theme"), [*((format, "light") for format in FORMATS), ("svg", "print")])
def test_the_same_graph_makes_the_same_file(format, theme):
    graph = EVERY_GRAPH["heads"]()
    first = render_picture(graph, format, theme=theme)
    assert render_picture(EVERY_GRAPH["heads"](), format, theme=theme) == first
    assert not re.search(rb"20\d\d-\d\d-\d\d|CreationDate|D:20", first)


@pytest.mark.slow
def test_the_files_do_not_depend_on_the_process():
    code = (
        "import sys, hashlib; from tests.synthetic_graphs import HOSTILE, token_graph; "
        "from flowgraph.render.print.pictures import render_picture; "
        f"print([hashlib.sha256(render_picture(token_graph(HOSTILE, layers=2), one)).hexdigest() for one in {FORMATS!r}])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ".", "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert found.pop().count("'") == 2 * len(FORMATS)


@pytest.mark.parametrize("name", slow_but((*SOME, "no edges", "nothing at all"), EVERY_GRAPH))
def test_every_graph_makes_every_file(name):
    graph = EVERY_GRAPH[name]()
    starts = {"svg": b"<?xml", "pdf": b"%PDF-1.", "png": b"\x89PNG", "tex": b"% In the preamble"}
    for format, width in zip(FORMATS, itertools.cycle(COLUMN_WIDTHS), strict=False):
        assert render_picture(graph, format, width=width, dpi=72).startswith(starts[format])


@pytest.mark.parametrize("dpi", [150, 300])
def test_a_png_has_the_size_asked_for(dpi):
    data = render_picture(EVERY_GRAPH["eight tokens"](), "png", width="one-column", dpi=dpi)
    wide, high = struct.unpack(">II", data[16:24])
    assert wide == pytest.approx(3.25 * dpi, abs=1)
    assert high == pytest.approx(picture(EVERY_GRAPH["eight tokens"](), Look("one-column")).height / 72 * dpi, abs=1)


def test_a_pdf_embeds_truetype_and_has_no_transparency():
    data = render_picture(EVERY_GRAPH["heads"](), "pdf")
    assert b"/FontFile2" in data
    assert b"/Type3" not in data
    assert set(re.findall(rb"/(?:CA|ca) ([\d.]+)", data)) <= {b"1"}
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", data)
    assert float(box[1]) == 486.0
    content = b"".join(_streams(data))
    assert b"Do" not in content.split(b"BT")[0]
    assert content.count(b"BT") >= len(
        shapes_of(picture(EVERY_GRAPH["heads"](), spell=matplotlib_picture.spell), Label)
    )


def _streams(data: bytes) -> list[bytes]:
    found = []
    for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        try:
            found.append(zlib.decompress(match[1]))
        except zlib.error:
            continue
    return found


def test_saving_writes_the_caption_beside(tmp_path):
    graph = EVERY_GRAPH["eight tokens"]()
    for format in FORMATS:
        path = save_picture(graph, tmp_path / f"{format}.figure.{format.upper()}", width="one-column")
        assert path.read_bytes() == render_picture(graph, format, width="one-column")
        beside = tmp_path / f"{format}.figure.caption.txt"
        assert beside.read_text(encoding="utf-8").startswith(caption(graph))
    with pytest.raises(ArgumentError, match="exists"):
        save_picture(graph, path, overwrite=False)
    path.unlink()
    with pytest.raises(ArgumentError, match=r"caption\.txt.*exists"):
        save_picture(graph, path, overwrite=False)
    assert not path.exists()


def test_without_matplotlib_pdf_and_png_say_what_to_install(monkeypatch):
    real = importlib.import_module

    def absent(name, *rest):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    matplotlib_picture._families.cache_clear()
    graph = EVERY_GRAPH["eight tokens"]()
    for format in ("pdf", "png"):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'transformer-flowgraph\[figures\]'"):
            render_picture(graph, format)
    for format in ("svg", "tex"):
        assert render_picture(graph, format)


def test_matplotlib_is_imported_for_pdf_and_png_alone():
    code = (
        "import sys; from tests.synthetic_graphs import token_graph; from flowgraph.render.print import pictures; "
        "pictures.render_picture(token_graph(layers=2), 'svg'); print('matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "."}
    )
    assert done.stdout.strip() == "False"


# --- semantic graphs ----------------------------------------------------------------------------------------------

SMALL = {"heads": 3, "neurons_per_block": 6, "sources_per_head": 2}
FEW_ROWS = {
    "positions": {"positions": [1, 6], **SMALL},
    "everything": {**SMALL, "rows_per_block": 4},
    "parallel": {"positions": [0, 6], **SMALL},
}


@pytest.fixture(scope="module", name="semantic")
def _semantic(tiny):
    made = {}

    def graph(name):
        if name not in made:
            family, options = KINDS_OF_GRAPH[name]
            made[name] = semantic_graph(
                flowgraph.trace(tiny(family), IDS, position=-1), **(options | FEW_ROWS.get(name, {}))
            )
        return made[name]

    return graph


SEMANTIC = [name for name in KINDS_OF_GRAPH if name != "some heads"]


def band_of(graph, drawn):
    """(node, pill) for every pill but those of the legend, which stand lower."""
    ends = [label.at[1] for label in shapes_of(drawn, Label) if label.text.startswith(("Rank of", "Edges", "Width"))]
    return [pill for pill in shapes_of(drawn, Pill) if pill.box[3] < min(ends, default=1e9) - 6]


@pytest.mark.parametrize("name", SEMANTIC)
def test_semantic_graphs_are_drawn_whole_where_the_page_draws_them(semantic, name):
    graph = semantic(name)
    drawn = picture(graph)
    plan = plan_of(graph)
    parts = semantic_elements(graph, plan)
    pills, rows = band_of(graph, drawn), {panel.position for panel in plan.panels}
    first, stop = graph.info.layers
    repeated = sum(
        node.kind == "resid_post" and node.layer < stop - 1 and n in graph.source and n in graph.target
        for n, node in enumerate(graph.nodes)
    )
    assert len(graph.nodes) <= len(pills) <= len(graph.nodes) + repeated + len(graph.info.tokens) * (stop - first)
    assert {round(pill.box[3] - pill.box[1], 6) for pill in pills} == {7.6}
    assert len({round((pill.box[2] - pill.box[0]) / width, 4) for pill, width in zip(
        sorted(pills, key=lambda pill: pill.box[2] - pill.box[0])[-1:], [max(spot.width for spot in plan.spots)], strict=True)}) == 1  # fmt: skip
    # As many lines as the page's ways have pieces, each as wide as the page draws it.
    pieces = {"down": 1, "level": 1, "curve": 2, "under": 3, "trunk": 3}
    wanted = [
        (1.0 if "structural" in edge["classes"] else edge["data"]["w"]) * SCALE
        for edge in parts["edges"] for _ in range(pieces[edge["classes"].split()[-1]])
    ]  # fmt: skip
    legend = picture(graph, Look(legend=False))
    assert sorted(line.width for line in shapes_of(legend, Line)) == pytest.approx(sorted(wanted))
    texts_shown = {label.text for label in shapes_of(drawn, Label)}
    for n in range(len(graph.nodes)):
        text = pill_text(graph, n, rows)
        assert any(
            shown == text or (shown.endswith("…") and text.startswith(shown[:-1].rstrip())) for shown in texts_shown
        )
    assert drawn.width == 486
    assert drawn.caption.startswith(caption(graph))


@pytest.mark.parametrize("name", ["a layer", "positions", "everything", "post-norm", "no neurons"])
@FONTS
def test_texts_of_semantic_graphs_stay_in_their_pills_and_cover_nothing(semantic, name, font, monkeypatch):
    if font:
        found = tuple(dict.fromkeys([font, *matplotlib_picture._families()]))
        monkeypatch.setattr(matplotlib_picture, "_families", lambda: found)
    drawn = picture(semantic(name), spell=matplotlib_picture.spell)
    labels, found = shapes_of(drawn, Label), rendered_corners(drawn)
    assert len(labels) > 30
    assert min(label.size for label in labels) >= 5
    assert overlapping(labels, found) == []
    pills = [pill.box for pill in shapes_of(drawn, Pill)]
    for one, other in itertools.combinations(pills, 2):
        assert not meet(box_corners(one), box_corners(other))
    for label, points in zip(labels, found, strict=True):
        left, right = min(x for x, _ in points), max(x for x, _ in points)
        assert left >= 0
        assert right <= drawn.width
        x, y = label.at
        for box in pills:
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            # On a screen letters stand on whole pixels, which makes a line of the widest font a little wider.
            assert not inside or (box[0] - 0.5 <= left and right <= box[2] + 0.5), label
            assert inside or not meet(box_corners(box), box_corners((left, y - 0.6 * label.size, right, y))), label


def test_layers_stand_below_each_other_and_share_their_states(semantic):
    graph = semantic("llama")
    drawn = picture(graph, Look(legend=False))
    titles = {label.text: label.at[1] for label in shapes_of(drawn, Label) if label.text.startswith("Layer")}
    assert list(titles) == ["Layer 0", "Layer 1"]
    assert titles["Layer 0"] < titles["Layer 1"]
    out = [label.at for label in shapes_of(drawn, Label) if label.text == "L0 out"]
    assert len(out) == 2
    (right, above), (left, below) = sorted(out, key=lambda at: at[1])
    assert above < titles["Layer 1"] < below
    assert left < drawn.width / 4 < right
    assert "layer 0 at position 6: " + " ".join(statements(graph, 0, 6)) in drawn.caption
    one = picture(semantic("a layer"), Look(legend=False))
    assert not [label for label in shapes_of(one, Label) if label.text.startswith(("Layer", "position"))]
    assert one.caption.endswith(" ".join(statements(semantic("a layer"), 1, 6)))


def test_positions_are_named_above_their_rows(semantic):
    names = [
        label.text for label in shapes_of(picture(semantic("positions"), Look(legend=False)), Label) if label.is_bold
    ]
    assert sum("position 1 " in name for name in names) == sum("position 6 " in name for name in names) == 2


def test_a_semantic_graph_that_nobody_could_read_is_refused(semantic, tiny):
    graph = semantic("a layer")
    with pytest.raises(
        ArgumentError, match=r"too narrow for [\d.]+ columns of words; give width=(\d+) or more"
    ) as caught:
        picture(graph, Look("one-column"))
    enough = int(re.search(r"give width=(\d+)", str(caught.value))[1])
    assert picture(graph, Look(enough)).width == enough
    with pytest.raises(ArgumentError, match="too narrow"):
        picture(graph, Look(enough - 3))
    trace = flowgraph.trace(tiny("llama"), IDS, position=-1)
    tall = semantic_graph(trace, positions=list(range(7)), sources_per_head=7, neurons_per_block=40)
    with pytest.raises(ArgumentError, match=r"2 layers at 7 positions would be \d+ in high.*choose fewer layers="):
        picture(tall)


@pytest.mark.parametrize(("format", "theme"), [*((format, "light") for format in FORMATS), ("svg", "print")])
def test_semantic_graphs_are_files_of_every_format(semantic, format, theme, tmp_path):
    graph = semantic("a layer")
    path = graph.save(tmp_path / f"graph.{format}", theme=theme)
    assert path.read_bytes() == render_picture(graph, format, theme=theme)
    assert (tmp_path / "graph.caption.txt").read_text(encoding="utf-8").startswith(caption(graph))
    if format == "svg":
        _is_plain(path.read_bytes())


def test_hostile_words_of_semantic_graphs_are_text(semantic):
    graph = hostile(semantic("a layer"))
    data = render_picture(graph, "svg")
    _is_plain(data)
    assert [text.text or "" for text in ElementTree.fromstring(data).iter(f"{SVG}text")] == texts(picture(graph))
    for format in ("png", "tex"):
        assert render_picture(graph, format)


def test_graphs_of_visit_are_drawn_too(tiny):
    graph = visit_graph(flowgraph.trace(tiny("gpt2"), IDS, position=-1), layers=1)
    assert len(shapes_of(picture(graph), Pill)) > 20


@pytest.mark.parametrize("theme", THEMES)
def test_words_on_pills_can_be_read(theme):
    colours = palette(THEMES[theme]) | pill_palette(theme)
    for step in range(6):
        assert _contrast(colours[f"pill{step}"], colours[f"pilltext{step}"]) >= 4.5
    assert len({fill for fill, _ in _PRINT_FILLS}) == 6
    # Without colours, what is measured differently is drawn differently.
    looks = {unit: edge_ink([unit], 1.0, "print")[:3] for unit in ("contribution", "attention", "activation", "norm")}
    assert len({(colours[colour] if theme == "print" else colour, dash) for colour, _, dash in looks.values()}) == 4


# --- nothing but text ---------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"
ALLOWED = {SVG + name for name in ("svg", "g", "title", "desc", "metadata", "rect", "circle", "path", "text")}
ATTACKS = (
    "</text><script>alert(1)</script>", "<image href='http://example.com/a.png'/>", "]]>", "<!--", "&#x6A;avascript:", "<?xml?>",
    "\" onload=\"alert(1)", "' onclick='x", "url(http://example.com)", "<style>*{fill:url(//x)}</style>", "&lt;&amp;", "\x00\x1b",
    "\ud800", "\ufffe", "\u202e", "]]><script>", "<foreignObject>",
)  # fmt: skip


@pytest.mark.parametrize("name", EVERY_GRAPH)
def test_an_svg_holds_shapes_and_text_alone(name):
    graph = EVERY_GRAPH[name]()
    drawn = picture(graph)
    data = render_picture(graph, "svg")
    _is_plain(data)
    root = ElementTree.fromstring(data)
    assert [text.text or "" for text in root.iter(f"{SVG}text")] == texts(drawn)
    assert root.find(f"{SVG}desc").text == drawn.caption
    assert float(root.get("width").removesuffix("pt")) == drawn.width


def test_no_token_becomes_markup():
    graph = token_graph(ATTACKS, layers=3)
    info = replace(graph.info, model=ATTACKS[0], target_token=ATTACKS[0])
    data = render_picture(replace(graph, info=info), "svg")
    _is_plain(data)
    shown = " ".join(text.text or "" for text in ElementTree.fromstring(data).iter(f"{SVG}text"))
    assert "</text><" in shown
    assert "⟨D800⟩" in shown


def test_the_writer_itself_lets_nothing_through():
    """Whatever a label holds, also what the labels of graphs cannot."""
    labels = tuple(Label(text, (1.0, 1.0), 6.0, "ink") for text in (*ATTACKS, "\r", "\uffff", "a\nb"))
    data = to_svg(Picture(10.0, 10.0, labels, palette(THEMES["light"]), ATTACKS[0], ATTACKS[4])).encode()
    _is_plain(data)
    found = [text.text for text in ElementTree.fromstring(data).iter(f"{SVG}text")]
    assert found[: len(ATTACKS) - 6] == list(ATTACKS[: len(ATTACKS) - 6])


def _is_plain(data: bytes) -> None:
    assert b"<!DOCTYPE" not in data
    for element in ElementTree.fromstring(data).iter():
        assert element.tag in ALLOWED
        for name, value in element.attrib.items():
            assert not name.lower().startswith("on")
            assert not name.endswith("href")
            assert name != "style"
            assert "url(" not in value
            assert name == "font-family" or re.fullmatch(r"[\w#%.,() -]*", value), (name, value)


@pytest.mark.parametrize("format", ["png", "pdf"])
def test_a_dollar_is_a_dollar(format):
    """Between two dollars matplotlib would read mathematics, and stop at what is none."""
    graph = token_graph(("$\\frac{$", " $x^2$", "$", "$\\input{x}$"), layers=2)
    assert render_picture(graph, format, dpi=72)
    made = matplotlib_picture.figure(picture(graph, spell=matplotlib_picture.spell))
    assert all(not text.get_parse_math() for text in made.axes[0].texts)
    assert "$\\frac{$" in [text.get_text() for text in made.axes[0].texts]


def test_characters_without_a_font_are_written_out():
    assert matplotlib_picture.spell("Tokyo ␣⏎≤…") == "Tokyo ␣⏎≤…"
    assert matplotlib_picture.spell("\U0010fffd") == "⟨10FFFD⟩"
    assert matplotlib_picture.spell("\u200e\u2068a\u2069") == "a"


def test_pictures_draw_no_shape_they_cannot_name():
    for make in EVERY_GRAPH.values():
        for shape in picture(make()).shapes:
            assert isinstance(shape, Line | Mark | Label | Plate)
            if isinstance(shape, Line | Mark):
                assert shape.dash in (*DASHES, "solid")


def test_tests_cover_every_kind_of_edge_of_flow():
    kinds = {EDGE_KINDS[kind] for make in EVERY_GRAPH.values() for kind in make().kind}
    assert {"attention", "residual", "mlp_in", "mlp", "head", "unembed", "embed", "bias"} <= kinds
