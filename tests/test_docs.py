"""What the docs say is what happens: examples run, commands parse, links lead somewhere, and the site builds."""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import flowgraph
from flowgraph.cli import _parser
from tests.conftest import JAPAN

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
    if "_build" not in path.parts
)
TEXT = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""Language and content of a block of code."""


def blocks(name: str, *languages: str) -> list[tuple[str, str]]:
    return [(language, code) for language, code in BLOCK.findall(TEXT[name]) if language in languages]


ELSEWHERE = ("README.md", "docs/how_to/extend.md")
"""Pages whose examples are run by test_readme.py and test_extend.py."""
WITH_CODE = [name for name in TEXT if name not in ELSEWHERE and blocks(name, "python", "pycon")]
COMMANDS = [
    (name, line.split(" #")[0].strip())
    for name in TEXT
    for _, code in blocks(name, "sh")
    for line in code.replace("\\\n", " ").splitlines()
    if line.startswith("flowgraph ")
]


def test_there_is_something_to_check():
    assert len(WITH_CODE) >= 10
    assert len(COMMANDS) >= 20
    assert not [name for name in TEXT if blocks(name, "py")], "examples are ```python or ```pycon, which run"


@pytest.fixture(scope="module")
def trace(smollm2):
    return flowgraph.trace(smollm2, JAPAN, foil=" Kyoto")


@pytest.fixture(autouse=True)
def _families():
    """An example may add a family; no test after it should find it."""
    before = dict(flowgraph.FAMILIES)
    yield
    flowgraph.FAMILIES.clear()
    flowgraph.FAMILIES.update(before)


def run(code: str, names: dict[str, object], place: str) -> None:
    """Run statements; an expression that gives nothing shows nothing, so its line would be there for nothing."""
    for statement in ast.parse(code, place).body:
        if isinstance(statement, ast.Expr) and not ast.unparse(statement).startswith("print("):
            shown = eval(compile(ast.Expression(statement.value), place, "eval"), names)
            assert shown is not None, f"{place}: {ast.unparse(statement)} gives nothing"
        else:
            exec(compile(ast.Module([statement], []), place, "exec"), names)


@pytest.mark.real_model
@pytest.mark.parametrize("name", WITH_CODE)
def test_the_examples_of_a_page_run_in_their_order(name, smollm2, trace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "session.flowgraph" in TEXT[name]:
        # A session of the app is a trace with one tensor more, which Python does not read.
        trace.record(methods=["proximity"]).save("session.flowgraph")
    names = {"fg": flowgraph, "model": smollm2, "trace": trace, "lens": flowgraph.logit_lens(trace)}
    for language, code in blocks(name, "python", "pycon"):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                run(code, names, name)
            continue
        said: list[str] = []
        made = doctest.DocTestParser().get_doctest(code, names, name, name, 0)
        result = doctest.DocTestRunner(verbose=False).run(made, out=said.append, clear_globs=False)
        names |= made.globs
        assert result.attempted
        assert not result.failed, "".join(said)


def test_an_example_that_is_wrong_would_fail():
    with pytest.raises(NameError):
        run("x = nothing_of_this_name", {}, "page")
    with pytest.raises(AssertionError, match="gives nothing"):
        run("[].clear()", {}, "page")


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_has_only_options_that_exist(name, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text("clean,corrupted,target,foil\n")
    Path("chat.json").write_text('[{"role": "user", "content": "Hello"}]')
    program, *arguments = shlex.split(command)
    assert program == "flowgraph"
    assert callable(_parser().parse_args(arguments).run), (name, command)


LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"|^```\{image\} (\S+)$", re.MULTILINE)


def links(text: str) -> list[str]:
    """Where a page points within the project."""
    found = ["".join(groups) for groups in LINK.findall(re.sub(r"`[^`\n]*`", "", text))]
    return [link for link in found if not re.match(r"https?:|mailto:", link)]


def headings(text: str) -> set[str]:
    """Anchors of a page, as GitHub and Sphinx make them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", TEXT)
def test_every_link_leads_to_a_file_of_the_project(name):
    for link in links(TEXT[name]):
        place, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / place).resolve() if place else ROOT / name
        # The site takes the notebooks from their own folder.
        notebook = ROOT / "notebooks" / f"{target.name.removesuffix('.ipynb')}.ipynb"
        is_there = target.exists() or (target.parent == DOCS / "tutorials" and notebook.is_file())
        assert is_there, f"{name} links to {link}"
        if anchor:
            assert anchor in headings(target.read_text(encoding="utf-8")), f"{name} links to {link}"


def test_a_link_to_nothing_is_seen():
    assert links('[a](b.md) ![c](d.png) <img src="e.svg"> [f](https://g.org) `[h](i)`') == ["b.md", "d.png", "e.svg"]
    assert headings("# One two\n## Add a `family`, now") == {"one-two", "add-a-family-now"}


def test_every_page_is_in_a_table_of_contents():
    listed = {DOCS / "index.md"}
    for name in TEXT:
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", TEXT[name], re.MULTILINE | re.DOTALL):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {((ROOT / name).parent / f"{entry}.md") for entry in entries}
    pages = {path for path in PAGES if DOCS in path.parents}
    assert pages <= listed, sorted(path.name for path in pages - listed)


def test_every_folder_and_module_that_is_named_exists():
    folders = TEXT["docs/folders.md"]
    for path in sorted((ROOT / "flowgraph").iterdir()):
        if (path / "__init__.py").is_file():
            assert f"  {path.name}/" in folders, path.name
    for folder in re.findall(r"^(?:  )?(\w+)/", folders, re.MULTILINE):
        assert (ROOT / folder).is_dir() or (ROOT / "flowgraph" / folder).is_dir(), folder
    for name, text in TEXT.items():
        added = re.findall(r"^:caption: (\S+)$", text, re.MULTILINE)  # by following a recipe
        for module in re.findall(r"(?<![\w/.])(?:flowgraph|webapp|tests|docs|scripts)/[\w/.]+\.py\b", text):
            assert (ROOT / module).is_file() or module in added, f"{name} names {module}"
    for module in re.findall(r"\b(\w+\.py)\b", folders):
        assert any(any((ROOT / folder).rglob(module)) for folder in ("flowgraph", "webapp", "tests", "docs")), module


def test_every_family_is_named():
    (row,) = re.findall(r"^\| families \| (.*) \|$", TEXT["docs/concepts/models.md"], re.MULTILINE)
    named = {re.sub(r"\(.*\)|[^\w]", "", name).lower() for name in row.split(", ")}
    assert named == {name.replace("_", "") for name in flowgraph.FAMILIES}


def reference() -> dict[str, list[str]]:
    """Title of a page of the reference → the names that it describes."""
    named = r"^\.\. (?:autofunction|autoclass|autoexception|data|autodata):: (\w+)$"
    return {
        text.partition("\n")[0].removeprefix("# "): re.findall(named, text, re.MULTILINE)
        for name, text in TEXT.items()
        if name.startswith("docs/reference/") and not name.endswith("index.md")
    }


def test_every_public_name_is_in_the_reference_once():
    described = [name for names in reference().values() for name in names]
    assert sorted(described) == sorted(set(flowgraph.__all__) - {"__version__"})


def test_the_package_names_its_groups_as_the_reference_does():
    assert flowgraph.__doc__ is not None
    groups = re.findall(r"^(\w[\w ]*): [^\n]*\n((?:    .*\n)+)", flowgraph.__doc__, re.MULTILINE)
    named = {title: re.findall(r"\w+", names) for title, names in groups}
    assert named == reference()
    assert re.findall(r"^\| \[(.*?)\]\(\w+\.md\) \|", TEXT["docs/reference/index.md"], re.MULTILINE) == list(named)
    every = [name for names in named.values() for name in names]
    assert sorted(every) == sorted(set(flowgraph.__all__) - {"__version__"})


def glossary() -> dict[str, str]:
    """Term → its definition, with spaces for line breaks."""
    found = re.findall(r"^(\S.*)\n: (.*(?:\n  .*)*)", TEXT["docs/glossary.md"], re.MULTILINE)
    assert len({term for term, _ in found}) == len(found)
    return {term: " ".join(text.split()) for term, text in found}


def test_the_glossary_says_what_the_tooltips_say():
    from flowgraph_webapp.page.layout import words
    from flowgraph_webapp.panels.circuit_form import CIRCUITS, TASKS
    from flowgraph_webapp.panels.lens import FILL_HINTS

    terms = glossary()
    methods = {"attention": "attention (method)"}
    shows = {"flow": "flow (maximum)"}
    expected = {
        **words.TERMS,
        **{methods.get(name, name): hint for name, (_, hint) in words.METHODS.items()},
        **{shows.get(name, name): hint for name, hint in words.SHOWS.items()},
        **dict(words.TABS.values()),
        **dict(TASKS.values()),
        **dict(CIRCUITS.values()),
        **FILL_HINTS,
    }
    assert len(expected) >= 30
    for term, hint in expected.items():
        assert hint in terms[term], term
    for heading, choices in (
        ("Level", words.LEVELS),
        ("Edge width", words.WIDTHS),
        ("Tokens as", words.ORIENTATIONS),
    ):
        for choice, hint in choices.items():
            assert f"*{choice}*: {hint}" in terms[heading], (heading, choice)
    for unit, _ in words.METHODS.values():
        assert unit in terms, unit


def test_the_glossary_holds_the_words_on_the_screen():
    """Heads of columns, titles of controls, names in legends, scores and roles of heads."""
    from flowgraph.circuits.roles import THRESHOLDS
    from flowgraph.lenses import head_scores
    from flowgraph.render.scene import legend

    terms = glossary()
    known = {part.lower() for term in terms for part in (term, *term.split(", "))}
    known |= {word.lower() for text in terms.values() for word in re.findall(r"\*([^*]+)\*", text)}
    shown = {name: f"in {path.name}" for path in (ROOT / "webapp").rglob("*.py") for name in titles(path)}
    for names in (
        legend.EDGE_NAMES,
        legend.IN_CIRCUITS,
        legend.IN_PICTURES_OF_PARTS,
        legend.IN_ATTRIBUTION_GRAPHS,
        legend.SQUARES,
    ):
        shown |= dict.fromkeys(names.values(), "in a legend")
    shown |= dict.fromkeys((name.replace("_", " ") for name in (*THRESHOLDS, *head_scores._OF_ATTENTION)), "a score")
    assert len(shown) > 60
    missing = {name: where for name, where in shown.items() if name.lower() not in known}
    assert not missing
    for name, about in head_scores._OF_ATTENTION.items():
        assert about in terms[name.replace("_", " ")]
    for value in THRESHOLDS.values():
        assert f"above {value:g}".replace("0.", ".") in terms["role"]


def titles(path: Path) -> set[str]:
    """Heads of columns and titles of controls that a module of the app writes out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "Column",
            "group",
            "_field",
            "html.Label",
            "html.Summary",
        ):
            found |= {word.value for word in ast.walk(node.args[0]) if isinstance(word, ast.Constant)}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "test_button":
            found.add(ast.literal_eval(node.args[1]))
    return {word for word in found if isinstance(word, str) and word}


@pytest.mark.real_model
def test_what_is_said_of_the_layer(smollm2):
    page = TEXT["docs/how_to/semantic_graph.md"]
    assert "In layer 23 head 4 attends to “ Japan” with .92 and writes “ Japanese”: +2.68 logits" in page
    graph = flowgraph.semantic_graph(flowgraph.trace(smollm2, JAPAN), layers=23)
    readings = {str(node): reading for node, reading in zip(graph.nodes, graph.readings, strict=True)}
    assert readings["L23H4.value[3]@7"].activation == pytest.approx(0.92, abs=0.005)
    assert readings["L23H4@7"].top[0][0] == " Japanese"
    assert readings["L23H4@7"].contribution == pytest.approx(2.68, abs=0.005)


def test_the_limits_in_the_texts_are_those_of_the_code():
    from flowgraph_webapp import recipe
    from flowgraph_webapp.panels import attention_views, flow, lens, semantic
    from flowgraph_webapp.server import guard, messages, serving
    from flowgraph_webapp.session import archive

    from flowgraph import tracing
    from flowgraph.algorithms import routes
    from flowgraph.methods import build
    from flowgraph.render.print import MOST_EDGES as MOST_PRINTED
    from flowgraph.render.scene.elements import MOST_EDGES as MOST_DRAWN
    from flowgraph.semantic import MAX_NODES

    def holds(page: str, *said: str) -> None:
        text = " ".join(TEXT[f"docs/{page}.md"].split())
        for part in said:
            assert part in text, (page, part)

    mib = 2**20
    holds(
        "how_to/long_prompt",
        f"default {tracing.MAX_BYTES // 2**30} GiB",
        f"`max_edges={build.MAX_EDGES:_}`",
        f"| page (`.html`) | {MOST_DRAWN:,} edges",
        f"| picture for a paper | {MOST_PRINTED:,} edges",
        f"| app | {messages.MOST_TOKENS} tokens of a prompt, {flow.MOST_EDGES:,} edges",
        f"lens grid {lens.MOST_COLUMNS} tokens at once, attention {attention_views.MOST_TOKENS} queries",
        f"| semantic graph | {MAX_NODES:,} nodes, {semantic.MOST_NODES:,} in the app",
        f"from {routes.SMALLEST_SHARE} on".replace("0.", "."),
        f"more than {routes.MOST_ROUTES:,} edges the threshold is doubled, up to {routes.LARGEST_SHARE}".replace(
            "0.", "."
        ),
    )
    holds(
        "security",
        f"at most {archive.LARGEST_FILE // mib} MiB, {archive.LARGEST_TOTAL // mib} MiB unpacked, {archive.MOST_MEMBERS:,} members",
        f"{archive.MOST_VALUES_IN_ALL // 10**6} million values",
        f"at most {guard.MOST_VALUES:,} values in {serving.LARGEST_REQUEST // mib} MiB",
        f"at most {recipe.LONGEST_TEXT:,} characters and {messages.MOST_TOKENS} tokens",
    )
    holds("how_to/send_a_session", f"more than {recipe.LONGEST_QUERY:,} bytes")


@pytest.mark.real_model
def test_the_sizes_of_traces_are_those_in_the_table(smollm2):
    table = re.findall(r"^\| ([\d,]+) \| (.*?) \| (.*?) \| (.*?) \|$", TEXT["docs/how_to/long_prompt.md"], re.MULTILINE)
    assert len(table) == 5
    units = {"MiB": 2**20, "GiB": 2**30}
    sites = set(flowgraph.SITES)
    for tokens, *said in table:
        ids = [1] * int(tokens.replace(",", ""))
        for text, keep in zip(said, (sites, {"pattern"}, sites - {"pattern"}), strict=True):
            number, unit = text.split()
            digits = len(number.partition(".")[2])
            assert round(flowgraph.trace_size(smollm2, ids, keep=keep) / units[unit], digits) == float(number), (
                tokens,
                text,
            )


class _Ends(HTMLParser):
    """Addresses and anchors of a page of the site."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links |= {given[name] or "" for name in ("href", "src") if given.get(name)}
        if given.get("id"):
            self.anchors.add(given["id"] or "")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_its_links_lead_somewhere(tmp_path):
    site = tmp_path / "site"
    # What asks for a network gets none.
    environment = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "-q",
        "-b",
        "html",
        "-d",
        str(tmp_path / "read"),
        str(DOCS),
        str(site),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages: dict[Path, _Ends] = {}
    for path in site.rglob("*.html"):
        pages[path] = _Ends()
        pages[path].feed(path.read_text(encoding="utf-8"))
    assert len(pages) > 40
    for path, page in pages.items():
        if "_modules" in path.parts or path.name in ("genindex.html", "search.html"):
            continue
        for link in page.links:
            place, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:|//", place):
                continue
            target = (path.parent / place.partition("?")[0]).resolve() if place else path
            assert target.is_file(), f"{path.relative_to(site)} links to {link}"
            if anchor and target in pages:
                assert anchor in pages[target].anchors, f"{path.relative_to(site)} links to {link}"
    notebook = (site / "tutorials" / "2_flow_graphs.html").read_text(encoding="utf-8")
    assert "import flowgraph as fg" in re.sub(r"<[^>]*>", "", notebook)
    assert notebook.count("cell_output") > 5, "stored outputs are shown"
