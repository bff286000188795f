"""What an address says: back to the same recipe, or a reason that names what is wrong."""

from __future__ import annotations

import string

import pytest
from flowgraph_webapp.node_key import parse_node_key
from flowgraph_webapp.panels.attention import AttentionQuestion
from flowgraph_webapp.panels.continuation import GenerateQuestion
from flowgraph_webapp.panels.flow import GraphQuestion
from flowgraph_webapp.panels.semantic import SemanticQuestion
from flowgraph_webapp.recipe import LONGEST_QUERY, Recipe, from_query, to_query
from flowgraph_webapp.server.run import RunQuestion
from hypothesis import given
from hypothesis import strategies as st

from flowgraph import Node, node_key, parse_node
from flowgraph.errors import ArgumentError, PromptError
from flowgraph.values.node import NODE_KINDS, WITH_HEAD, WITH_INDEX, WITHOUT_LAYER

INDEX = st.integers(0, 2**31 - 1)
WINDOW = st.tuples(st.integers(0, 50), st.integers(51, 99))


def nodes() -> st.SearchStrategy[Node]:
    def node(kind: str) -> st.SearchStrategy[Node]:
        return st.builds(
            Node,
            st.just(kind),
            layer=st.none() if kind in WITHOUT_LAYER else INDEX,
            head=INDEX if kind in WITH_HEAD else st.none(),
            position=st.none() if kind == "logit" else INDEX,
            index=INDEX if kind in WITH_INDEX else st.none(),
        )

    return st.sampled_from(NODE_KINDS).flatmap(node)


RECIPES = st.builds(
    Recipe,
    model=st.sampled_from(("smollm2", "./my folder/x", "org/name")),
    text=st.text(st.characters(codec="utf-8"), max_size=200),
    chat=st.booleans(),
    example=st.none() | st.text(string.ascii_letters + "-_", min_size=1, max_size=64),
    session=st.none() | st.text(string.ascii_letters + "-_", min_size=1, max_size=64),
    position=st.none() | INDEX,
    target=st.none() | INDEX,
    foil=st.none() | INDEX,
    method=st.sampled_from(("attention", "norms", "proximity", "logits", "ff")),
    show=st.sampled_from(("all", "routes", "rollout", "flow")),
    level=st.sampled_from(("token", "head")),
    threshold=st.floats(0, 1),
    layers=st.none() | WINDOW,
    start=st.none() | nodes().map(lambda node: node_key(node, short=True)),
    keep=st.none() | st.integers(0, 1000),
    width=st.sampled_from(("flow", "share")),
    orientation=st.sampled_from(("auto", "columns", "rows")),
    tab=st.sampled_from(("lens", "heads", "attention", "bars", "semantic")),
    layer=st.none() | INDEX,
    heads=st.lists(INDEX, max_size=5).map(tuple),
    selected=st.none()
    | nodes().map(node_key)
    | st.tuples(nodes(), nodes()).map(lambda ends: "~".join(["mlp_in", *map(node_key, ends)])),
    pins=st.lists(nodes().map(node_key), max_size=5).map(tuple),
    fill=st.sampled_from(("rank", "probability", "entropy")),
    score=st.sampled_from(("", "induction", "direct_logit")),
    semantic_layers=st.none() | WINDOW,
)


@given(RECIPES)
def test_a_recipe_comes_back_from_its_query(recipe):
    query = to_query(recipe)
    assert query.isascii()
    assert from_query(query) == recipe
    assert from_query(query.removeprefix("?")) == recipe


@given(nodes())
def test_a_node_comes_back_from_its_key_and_its_start(node):
    assert parse_node_key(node_key(node)) == node
    assert parse_node(node_key(node, short=True)) == node
    assert parse_node(node_key(node)) == node


def test_the_model_and_what_differs_is_in_the_query():
    assert to_query(Recipe()) == ""
    assert from_query("") == from_query("?") == Recipe()
    assert to_query(Recipe(text="a b", layers=(0, 6), heads=(1, 3))) == "?model=smollm2&text=a%20b&layers=0,6&heads=1,3"
    assert to_query(Recipe(start="resid_post.23.7")) == "?start=resid_post.23.7"
    assert from_query("?text=a+b&chat=1") == Recipe(text="a b", chat=True)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?colour=red", "says 'colour', which is not known"),
        ("?text=a&text=b", "says 'text' twice"),
        ("?text", "cannot be read"),
        ("?text=%ff", "cannot be read"),
        ("?method=magic", "method='magic' cannot be used; expected one of attention"),
        ("?show=None", "show='None'"),
        ("?score=zz", "score='zz' cannot be used; expected one of direct_logit, entropy"),
        ("?threshold=nan", "threshold=nan cannot be used"),
        ("?threshold=2", "expected a number from 0 to 1"),
        ("?threshold=x", "threshold='x'"),
        ("?threshold=inf", "threshold=inf"),
        ("?position=-1", "position='-1'"),
        ("?position=99999999999999999999", "position="),
        ("?position=2147483648", "position=2147483648"),
        ("?position=٣", "position="),
        ("?target=1.5", "target='1.5'"),
        ("?keep=1001", "keep=1001"),
        ("?layers=3", "layers='3' cannot be used; expected FIRST,STOP"),
        ("?layers=3,3", "the first layer below the one past the last"),
        ("?layers=5,3", "the first layer below"),
        ("?layers=1,2,3", "layers="),
        ("?heads=1,,2", "heads=''"),
        ("?heads=" + ",".join("1" * 1025), "heads="),
        ("?chat=yes", "chat='yes'"),
        ("?example=../../etc/passwd", "example="),
        ("?session=a%20b", "session="),
        ("?model=", "model=''"),
        ("?model=a%0Ab", "model="),
        ("?start=resid_post.23", r"start: .* is not a node; expected resid_post\.layer\.position"),
        ("?start=nothing.1.2", "start: kind='nothing'"),
        ("?start=" + "a" * 100, "start: "),
        ("?selected=head.1.2.3", "selected: .* is not a node key"),
        ("?selected=head.1.-.3.-", "selected: a node of kind 'head' needs head="),
        (
            "?selected=attention~mlp.1.-.3.-",
            "selected: .* is not an edge; expected its kind and the keys of its two ends",
        ),
        ("?selected=attention~mlp.1.-.3.-~x", "selected: kind='x'"),
        ("?selected=a b~mlp.1.-.3.-~mlp.1.-.3.-", "selected: .* is not an edge"),
        ("?selected=" + "~" * 5_000, "selected: .* is not an edge"),
        ("?pins=head.1.2.3.-,x", "pins: "),
        ("?pins=" + ",".join(["mlp.1.-.3.-"] * 201), "pins="),
        ("?text=" + "a" * 20_001, "text has 20,001 characters"),
        ("?text=" + "a" * LONGEST_QUERY, "longer than 60,000 bytes"),
        ("?" + "&".join(f"a{n}=1" for n in range(200)), "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(query, reason):
    with pytest.raises(ArgumentError, match=reason):
        from_query(query)


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": 5}, {"text": "\ud800"}, {"chat": 1}, {"layers": [0, 3]}, {"layers": (0, None)}, {"heads": [1]},
        {"heads": (None,)}, {"position": True}, {"position": 1.0}, {"threshold": "0"}, {"threshold": True}, {"pins": "ab"},
        {"selected": 5}, {"start": 5}, {"model": None}, {"method": None}, {"example": 5},
    ],
)  # fmt: skip
def test_wrong_types_are_refused(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_a_text_that_is_too_long_for_an_address_is_said():
    with pytest.raises(ArgumentError, match="save a session file instead"):
        to_query(Recipe(text="猫" * 10_000))


@pytest.mark.parametrize(
    "key",
    [
        "", "head", "head.1.2.3", "head.1.2.3.-.-", "head.a.2.3.-", "head.-1.2.3.-", "head.²…", "HEAD.1.2.3.-",
        "head.1.2.99999999999.-", "head.1.2.2147483648.-", "head.+1.2.3.-", "head. 1.2.3.-", "head.٣.2.3.-", "x" * 200, None, 5,
    ],
)  # fmt: skip
def test_keys_that_are_none(key):
    with pytest.raises(ArgumentError):
        parse_node_key(key)
    with pytest.raises(ArgumentError):
        parse_node(key if isinstance(key, str) and key != "head.1.2.3" else "head.1.2")


def test_questions_hold_what_their_answer_depends_on():
    recipe = Recipe(text="a", target=3, foil=4, position=0, keep=500, tab="bars", pins=("mlp.1.-.0.-",), fill="entropy")
    assert RunQuestion.of(recipe) == RunQuestion("smollm2", "a", False, 0, 3, 4)
    assert GraphQuestion.of(recipe) == GraphQuestion.of(Recipe(text="a", target=3, foil=4, position=0))
    # Thresholds say nothing about rollout and flow; targets nothing about attention and what is generated.
    assert GraphQuestion.of(Recipe(text="a", show="flow", threshold=0.5)) == GraphQuestion.of(
        Recipe(text="a", show="flow")
    )
    assert AttentionQuestion.of(recipe, 3).run == RunQuestion("smollm2", "a", position=0)
    assert GenerateQuestion.of(recipe).run == RunQuestion("smollm2", "a")
    assert SemanticQuestion.of(Recipe(text="a", layer=4)).layers == (4, 5)
    assert SemanticQuestion.of(Recipe(text="a")).layers is None
    assert GraphQuestion.of(Recipe(text="a", start="head.3.1.0", level="head")).start == Node("head", 3, 1, 0)
    assert len({GraphQuestion.of(recipe), GraphQuestion.of(recipe)}) == 1


def test_questions_are_checked():
    run = RunQuestion("smollm2", "a")
    with pytest.raises(PromptError):
        RunQuestion.of(Recipe())
    for wrong in ({"method": "x"}, {"show": "x"}, {"level": "x"}, {"threshold": 2}, {"layers": (3, 1)}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            GraphQuestion(run, **wrong)
    with pytest.raises(ArgumentError, match="1 to 64 tokens"):
        GenerateQuestion(run, 65)
    with pytest.raises(ArgumentError, match="positions= names 0"):
        SemanticQuestion(run, positions=())
