r"""TikZ: what a token can do to TeX, and what pdfLaTeX says to every picture."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgraph.render.print import Look, picture
from flowgraph.render.print.pictures import render_picture
from flowgraph.render.print.shapes import Label, Line, Mark, text_width
from flowgraph.render.print.tikz import latex, spell, to_tikz
from flowgraph.semantic import semantic_graph
from tests.synthetic_graphs import token_graph
from tests.test_pictures import EVERY_GRAPH
from tests.test_semantic_views import hostile

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

ATTACKS = (
    r"\input{/etc/passwd}", r"\immediate\write18{ls}", "^^5cinput", "%", "}", "{", r"\end{tikzpicture}", "$$", "$x", "#1", "&", "~", "_a^b",
    r"\\", "[", "]", ";", '"a', "``a''", "--", "---", "<<", ">>", "?`", "!`", ",,", "\n\n", "\t", "  ", "é", "ñ", "ï", "ł", "ß", "Å", "日本",
    "🎉", "שלום", "\x00", "\u202e", "e\u0301", "\u0301", "Ω", "…", "€", "“q”", "a\u0308\u0301", r"\verb|x|", r"\csname x\endcsname", "\\",
    "^^M", "\x7f", "\\relax%",
)  # fmt: skip
COMMANDS = re.compile(r"\\([a-zA-Z]+|.)")
KNOWN = {
    "textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar", "symbol", "ss", "ae", "AE", "oe", "OE", "o",
    "O", "l", "L", "i", "j", "S", "P", "textendash", "textemdash", "textquoteleft", "textquoteright", "textquotedblleft",
    "textquotedblright", "ldots", "bullet", "cdot", "times", "div", "pm", "leq", "geq", "approx", "rightarrow", "leftarrow",
    "textvisiblespace", "hookleftarrow", "kern", "langle", "rangle", "circ", "{", "}", "$", "&", "#", "%", "_", "`", "'", "^", "~", "=", "u", ".", '"',
    "r", "H", "v", "c",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tokyo", "Tokyo"),
        ("a b", "a~b"),
        ("\\", r"\textbackslash{}"),
        ("{}", r"\{\}"),
        ("50%", r"50\%"),
        ("x^_~", r"x\textasciicircum{}\_\textasciitilde{}"),
        ("$&#", r"\$\&\#"),
        ("é", r"\'{e}"),
        ("e\u0301", r"\'{e}"),
        ("ï", r"\"{\i}"),
        ("␣a", r"\textvisiblespace{}a"),
        ("😀", r"\textless{}U+1F600\textgreater{}"),
        ("\u200e\u2068a", "a"),
        ("--", "-{}-{}"),
        ("≤1k", r"$\leq$1k"),
    ],
)
def test_texts_in_latex(text, expected):
    assert latex(text) == expected


@given(st.text(st.characters(exclude_categories=()), max_size=20) | st.text(r"\{}$&#%_^~<>|\"`'-,!?[] a1", max_size=20))
def test_no_text_becomes_a_command(text):
    found = latex(text)
    assert found.isascii()
    assert "\n" not in found
    assert "^^" not in found
    assert {match[1] for match in COMMANDS.finditer(found)} <= KNOWN
    plain = COMMANDS.sub("", found)
    assert not set(plain) & set("\\&#%~_^") - {"~"}
    assert plain.count("{") == plain.count("}")
    assert "$" not in re.sub(r"\\\$", "", re.sub(r"\$(\\[a-z]+|-)\$", "", found))


@pytest.mark.parametrize("text", ATTACKS)
def test_what_is_spelled_stays_spelled(text):
    once = spell(text)
    assert spell(once) == once


@pytest.mark.parametrize("name", EVERY_GRAPH)
def test_the_snippet_stands_alone(name):
    source = render_picture(EVERY_GRAPH[name](), "tex").decode()
    lines = source.splitlines()
    assert lines[0] == r"% In the preamble: \usepackage{tikz}"
    assert all(line.isascii() for line in lines)
    assert lines[2].startswith(r"\begin{tikzpicture}")
    assert lines[-1] == r"\end{tikzpicture}"
    assert source.count(r"\begin{") == source.count(r"\end{") == 1
    defined = set(re.findall(r"\\definecolor\{(flow\w+)\}", source))
    assert set(re.findall(r"\bflow[a-z]\w*(?=[!,\]}])", source.split(r"\path")[1])) <= defined
    body = [line.strip() for line in lines[3:-1] if not line.strip().startswith("%")]
    assert all(re.match(r"\\(definecolor|path|draw|fill|filldraw|node)\b.*[;}]$", line) for line in body)
    assert "e-" not in re.sub(r"\\node.*", "", source)


def test_what_is_drawn_is_what_the_picture_holds():
    drawn = picture(EVERY_GRAPH["heads"](), Look(), spell)
    source = to_tikz(drawn)
    for command, kind in ((r"\draw[", Line), (r"\node[", Label)):
        assert source.count(command) == sum(isinstance(shape, kind) for shape in drawn.shapes)
    assert source.count("circle[") + source.count(r"\filldraw") > sum(isinstance(s, Mark) for s in drawn.shapes) / 2
    assert "486," in source.split("bounding box")[1][:40]
    bent = Line((0.0, 0.0), (0.0, 9.0), "attention", 1.0, bend=(3.0, 4.5))
    curve = to_tikz(picture_of(bent))
    assert "(0,0) .. controls (2,3) and (2,6) .. (0,9)" in curve


def picture_of(*shapes):
    drawn = picture(EVERY_GRAPH["nothing at all"]())
    return type(drawn)(50.0, 50.0, shapes, drawn.palette, "", "")


# --- pdfLaTeX -----------------------------------------------------------------------------------------------------

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
DOCUMENT = r"""\documentclass{article}
%s\usepackage{tikz}
\pagestyle{empty}
\begin{document}
%s
\end{document}
"""


def compiled(folder: Path, body: str, preamble: str = "") -> str:
    """Run pdflatex once, without a shell to escape to; its log."""
    (folder / "paper.tex").write_text(DOCUMENT % (preamble, body), encoding="utf-8")
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
    log = (folder / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, "\n".join(re.findall(r"^!.*\n(?:.*\n){3}", log, re.MULTILINE))
    return log


@needs_latex
def test_pdflatex_sets_every_picture(tmp_path):
    pages = []
    wanted = [(name, "light") for name in EVERY_GRAPH] + [("heads", "print"), ("logits", "print")]
    for n, (name, theme) in enumerate(wanted):
        (tmp_path / f"p{n}.tex").write_bytes(render_picture(EVERY_GRAPH[name](), "tex", theme=theme))
        pages.append(rf"\noindent\input{{p{n}.tex}}\clearpage")
    log = compiled(tmp_path, "\n".join(pages))
    assert "Missing character" not in log
    assert f"({len(wanted)} page" in log


@needs_latex
@pytest.mark.parametrize("theme", ["light", "print"])
def test_pdflatex_sets_semantic_graphs(traces, tmp_path, theme):
    whole = semantic_graph(traces("llama"), heads=3, neurons_per_block=6)
    pages = []
    for n, graph in enumerate((whole, hostile(whole))):
        (tmp_path / f"p{n}.tex").write_bytes(render_picture(graph, "tex", theme=theme))
        pages.append(rf"\noindent\input{{p{n}.tex}}\clearpage")
    log = compiled(tmp_path, "\n".join(pages))
    assert "Missing character" not in log
    assert "(2 page" in log


@needs_latex
@pytest.mark.parametrize(
    "preamble",
    ["", "\\usepackage{lmodern}\\usepackage[T1]{fontenc}\n", "\\usepackage[ngerman]{babel}\n"],
    ids=["ot1", "t1", "german"],
)
def test_pdflatex_sets_hostile_tokens_as_text(tmp_path, preamble):
    for name, file in (("babel", "ngerman.ldf"), ("lmodern", "lmodern.sty")):
        if name in preamble and not _has(file):
            pytest.skip(f"this TeX has no {file}")
    graph = token_graph(ATTACKS, layers=2, threshold=0.05)
    (tmp_path / "picture.tex").write_bytes(render_picture(graph, "tex", width=900))
    log = compiled(tmp_path, r"\noindent\input{picture.tex}", preamble)
    assert "Missing character" not in log
    assert "Output written on paper.pdf" in log
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "paper.aux",
        "paper.log",
        "paper.pdf",
        "paper.tex",
        "picture.tex",
    ]
    if shutil.which("pdftotext"):
        text = subprocess.run(
            ["pdftotext", "paper.pdf", "-"], cwd=tmp_path, capture_output=True, check=True
        ).stdout.decode()
        assert "root:" not in text
        assert "\\input{/etc" in re.sub(r"\s", "", text)


def _has(file: str) -> bool:
    return bool(subprocess.run(["kpsewhich", file], capture_output=True, check=False).stdout.strip())


@needs_latex
def test_the_measure_is_an_upper_bound_for_the_fonts_of_tex(tmp_path):
    """What was placed without an overlap by measure has none on paper either."""
    labels = {
        (label.text, label.is_bold)
        for name in ("eight tokens", "heads", "logits", "hostile", "dollars")
        for label in picture(EVERY_GRAPH[name](), spell=spell).shapes
        if isinstance(label, Label)
    }
    rows = sorted(labels)
    weight = {True: r"\bfseries", False: ""}
    lines = [
        rf"\setbox0\hbox{{\fontsize{{10}}{{12}}\sffamily{weight[bold]}\selectfont {latex(text)}}}\typeout{{W=\the\wd0}}"
        for text, bold in rows
    ]
    log = compiled(tmp_path, "\n".join([*lines, "x"]))
    widths = [float(width) for width in re.findall(r"^W=([\d.]+)pt", log, re.MULTILINE)]
    assert len(widths) == len(rows) > 40
    for (text, bold), width in zip(rows, widths, strict=True):
        assert width <= text_width(text, 10.0, bold) + 0.5, (text, width)
