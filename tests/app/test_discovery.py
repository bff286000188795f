"""Circuits in the app: searched in the background, cancelled, shared, shown, kept, and refused with the reason."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import flowgraph_webapp.server.dispatch as dispatch
import numpy as np
import pytest
from flowgraph_webapp.panels import circuit_details as shown
from flowgraph_webapp.panels.circuit import Circuit, CircuitQuestion, Pair
from flowgraph_webapp.panels.circuit_effect import CircuitTestQuestion, circuit_effect
from flowgraph_webapp.panels.circuit_form import CIRCUITS
from flowgraph_webapp.panels.circuit_form import TASKS as TASK_WORDS
from flowgraph_webapp.panels.circuit_search import CorruptQuestion, TokenQuestion
from flowgraph_webapp.panels.effects import AblateQuestion, FaithfulQuestion
from flowgraph_webapp.panels.lens import LensQuestion
from flowgraph_webapp.recipe import CHOICES, Recipe, from_query, to_query
from flowgraph_webapp.server.dispatch import PAUSING, Stage
from flowgraph_webapp.server.errors import Cancelled, TimedOut
from flowgraph_webapp.server.messages import Answered, Begun, Settings, Staged, Stopped
from flowgraph_webapp.server.run import RunQuestion, refuse_unfit
from flowgraph_webapp.server.traces import Traces
from flowgraph_webapp.server.worker import Worker
from flowgraph_webapp.session import read_session, write_session

import flowgraph as fg
from flowgraph.errors import ArgumentError, FileFormatError, PromptError, TargetError
from flowgraph.render import shown_graph
from flowgraph.tasks import TASKS
from tests.app.conftest import PATIENCE, TEXT, Held, alive, open_question, question_of, until
from tests.app.fake_service import FakeService
from tests.app.test_app import Page

OTHER = "The mat sat on the cat"
METHODS = ("backward", "eap", "eap-qk", "eap-ig")


def unheard(_stage, _part=None):
    pass


@pytest.fixture(scope="module")
def traces(folder) -> Traces:
    return Traces([folder], 2**30, 512)


@pytest.fixture(scope="module")
def run(folder) -> RunQuestion:
    return RunQuestion(folder, TEXT)


@pytest.fixture(scope="module")
def found(traces, run) -> Circuit:
    return ask(traces, CircuitQuestion(run, "backward", OTHER))


def ask(traces, question, check=unheard):
    return question.answer(traces, check)


# The search


@pytest.mark.parametrize("method", METHODS)
def test_a_circuit_is_the_librarys_own(traces, run, method):
    trace = traces.trace(run, unheard)
    answer = ask(traces, CircuitQuestion(run, method, OTHER))
    expected = fg.discover(trace.model, clean=trace, corrupted=OTHER, method=method)
    assert answer.graph.nodes == expected.nodes
    assert answer.graph.weight.tolist() == expected.weight.tolist()
    assert answer.graph.info == expected.info
    assert answer.pairs == (Pair(TEXT, OTHER, trace.target_token, None),)


def test_target_foil_and_position_are_those_of_the_run(traces, folder):
    aimed = RunQuestion(folder, TEXT, position=5, target=20, foil=30)
    trace = traces.trace(aimed, unheard)
    answer = ask(traces, CircuitQuestion(aimed, "eap", OTHER))
    other = fg.trace(trace.model, OTHER, position=5).logits.double()
    gap = (trace.logits.double()[20] - trace.logits.double()[30]) - (other[20] - other[30])
    assert answer.graph.info.options["gap"] == pytest.approx(float(gap), rel=1e-4)
    assert answer.pairs[0].foil == trace.foil_token
    assert answer.about == "this prompt at position 5"


@pytest.mark.parametrize(
    ("corrupted", "options", "error", "message"),
    [
        ("The dog", {}, PromptError, r"has \d tokens and the prompt 9, .* make them equally long.* The corrupted one: <s> \|  The"),
        (TEXT, {}, ArgumentError, "the corrupted prompts change nothing"),
        (OTHER, {"budget": 2}, ArgumentError, "budget=2 is too small"),
        (OTHER, {"budget": 3}, ArgumentError, "the circuit is empty"),
        ("", {"task": "induction"}, TargetError, "this task cannot be made for it"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_says_why(traces, run, corrupted, options, error, message):
    with pytest.raises(error, match=message):
        ask(traces, CircuitQuestion(run, "backward", corrupted, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "none", "corrupted": "x"}, "circuit='none' cannot be used"),
        ({"method": "backward"}, "the corrupted prompt is empty"),
        ({"method": "eap", "task": "chess"}, "task='chess' cannot be used"),
        ({"method": "eap", "task": "ioi", "prompts": 0}, "prompts=0 cannot be used"),
        ({"method": "eap", "task": "ioi", "prompts": 65}, "expected 1 to 64 examples"),
        ({"method": "eap", "corrupted": "x", "budget": 0}, "budget=0 cannot be used"),
        ({"method": "eap", "corrupted": "x" * 20_001}, "corrupted has 20,001 characters"),
        ({"method": "eap", "corrupted": "\ud800"}, "corrupted: character 0 is half"),
    ],
)
def test_a_question_that_makes_no_sense_is_not_asked(run, options, message):
    with pytest.raises(ArgumentError, match=message):
        CircuitQuestion(run, **options)


def test_an_answer_of_several_tokens_is_refused(traces, run):
    with pytest.raises(TargetError, match=r"foil=' mat' is 3 tokens"):
        ask(traces, TokenQuestion(run, " mat", "foil"))
    token = ask(traces, TokenQuestion(run, " cat", "target"))
    assert traces.trace(run, unheard).token_ids[2] == token.token_id
    assert token.text == " cat"


def test_a_proposal_has_as_many_tokens_or_says_that_there_is_none(traces, folder, run):
    made = ask(traces, CorruptQuestion(run))
    loaded = traces.model(folder, unheard)
    if made.text:
        assert len(fg.trace(loaded, made.text).tokens) == len(fg.trace(loaded, TEXT).tokens)
        assert "every word became a random other" in made.note
    else:
        assert "No text of as many tokens" in made.note
    assert ask(traces, CorruptQuestion(RunQuestion(folder, "???"))).text == ""


@pytest.mark.real_model
def test_a_proposal_exchanges_names():
    traces = Traces(["smollm2"], 2**28, 512)
    prompt = "When Mary and John went to the store, John gave a drink to"
    made = ask(traces, CorruptQuestion(RunQuestion("smollm2", prompt)))
    assert "Mary" not in made.text
    assert "went to the store" in made.text


@pytest.mark.real_model
def test_the_circuit_of_a_task_is_the_same_on_every_prompt():
    traces = Traces(["smollm2"], 2**30, 512)
    first = ask(traces, CircuitQuestion(RunQuestion("smollm2", "one"), "eap", task="capitals", prompts=1))
    assert ask(traces, CircuitQuestion(RunQuestion("smollm2", "two"), "eap", task="capitals", prompts=1)) is first
    assert first.about.startswith("capitals: the capital of a country")
    assert len(first.pairs) == first.graph.info.options["prompts"] == 1


def test_stages_are_told_and_a_check_that_raises_stops_the_search(traces, run):
    stages = []
    ask(traces, CircuitQuestion(run, "backward", OTHER, budget=40), lambda *said: stages.append(said))
    assert any(name.startswith("cutting edges") and 0 < part <= 1 for name, part in stages if part is not None)

    def stop(stage, _part=None):
        if stage.startswith("cutting edges"):
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        ask(traces, CircuitQuestion(run, "backward", OTHER, budget=41), stop)
    assert traces.stands_still()


@pytest.mark.parametrize("question", [lambda run: AblateQuestion(run, fg.Node("mlp", 0, position=2)), FaithfulQuestion])
def test_tests_tell_how_far_they_are_and_stop(traces, run, question):
    stages = []
    ask(traces, question(run), lambda *said: stages.append(said))
    assert [part for name, part in stages if name == "measuring the change"][-1] == 1

    def stop(stage, part=None):
        if stage == "measuring the change" and part:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        ask(traces, question(run), stop)
    assert traces.stands_still()


@pytest.mark.parametrize("keep", [1000, 300])
def test_a_circuit_is_tested_as_flowgraph_does(traces, folder, keep):
    aimed = RunQuestion(folder, TEXT, target=20, foil=30)
    asked = CircuitQuestion(aimed, "eap", OTHER)
    graph = shown_graph(ask(traces, asked).graph, keep)
    answer = ask(traces, CircuitTestQuestion(aimed, "eap", OTHER, keep=keep))
    loaded = traces.model(folder, unheard)
    ids = [fg.trace(loaded, text).token_ids for text in (TEXT, OTHER)]
    expected = fg.faithfulness(loaded, [fg.Example(*ids, 20, 30)], graph, sizes=(1.0,), bootstrap=0)
    assert answer.edges == len(graph)
    assert answer.full == pytest.approx(expected.full.mean(), abs=1e-5)
    assert answer.empty == pytest.approx(expected.by_prompt[0].mean(), abs=1e-5)
    assert answer.kept == pytest.approx(expected.by_prompt[-1].mean(), abs=1e-5)
    part = (answer.kept - answer.empty) / (answer.full - answer.empty)
    assert part == pytest.approx(expected.value, rel=1e-3)
    assert f"{100 * part:.1f} %".replace("-", "−") in str(circuit_effect(answer))


@pytest.mark.real_model
def test_the_circuit_of_a_task_is_tested_on_its_prompts():
    traces = Traces(["smollm2"], 2**30, 512)
    run = RunQuestion("smollm2", "one")
    answer = ask(traces, CircuitTestQuestion(run, "eap", task="capitals", prompts=2, keep=1000))
    options = ask(traces, CircuitQuestion(run, "eap", task="capitals", prompts=2)).graph.info.options
    assert answer.full - answer.empty == pytest.approx(options["gap"], rel=1e-3)
    assert answer.prompts == 2
    assert min(answer.full, answer.empty) < answer.kept


# The queue


@pytest.mark.slow
def test_others_are_answered_between_the_steps_of_a_search_and_nothing_changes_by_it(folder, run, found, traces):
    worker = Worker(Settings((folder,), 2**28, 512))
    lens = LensQuestion(run)
    try:
        worker.ask(1, CircuitQuestion(run, "backward", OTHER))
        worker.ask(2, lens)
        messages = []
        while len([one for one in messages if isinstance(one, Answered)]) < 2:
            messages.append(worker.receive(PATIENCE))
            assert messages[-1] is not None
    finally:
        worker.stop()
    told = [one for one in messages if not isinstance(one, Staged)]
    assert [(type(one), one.number) for one in told] == [(Begun, 2), (Answered, 2), (Answered, 1)]
    # Two processes need not add up in the same order.
    np.testing.assert_allclose(told[2].answer.graph.weight, found.graph.weight, rtol=1e-5, atol=1e-6)
    reading = ask(traces, lens).top_probabilities
    np.testing.assert_allclose(told[1].answer.top_probabilities, reading, rtol=1e-5, atol=1e-6)


def test_nobody_is_answered_in_the_middle_of_a_pass(traces, run):
    model = traces.model(run.model, unheard).model
    assert traces.stands_still()
    handle = next(model.modules()).register_forward_pre_hook(lambda *_: None)
    assert not traces.stands_still()
    handle.remove()
    assert traces.stands_still()


@pytest.mark.slow
def test_a_search_is_taken_back_and_not_what_is_answered_in_between(folder, run):
    worker = Worker(Settings((folder,), 2**28, 512))
    try:
        worker.ask(1, CircuitQuestion(run, "backward", OTHER))
        worker.ask(2, LensQuestion(run))
        worker.cancel(1, True)
        ends = []
        while len(ends) < 2:
            message = worker.receive(PATIENCE)
            assert message is not None
            if isinstance(message, Answered | Stopped):
                ends.append((type(message), message.number))
        assert sorted(ends, key=str) == sorted([(Stopped, 1), (Answered, 2)], key=str)
    finally:
        worker.stop()


@pytest.mark.slow
def test_two_tabs_share_a_search(service, folder, asking):
    question = CircuitQuestion.of(Recipe(model=folder, text=TEXT, circuit="eap", corrupted=OTHER))
    with Held(service):
        waiting = [asking(service, question, f"tab {n}") for n in range(2)]
        for n in range(2):
            open_question(service, f"tab {n}")
    one, two = [answer.result(PATIENCE) for answer in waiting]
    assert one is two
    assert service.ask(question) is one


@pytest.mark.slow
def test_a_page_hears_that_it_waits_for_a_search_and_gets_its_answer(service, folder, asking):
    searches = [CircuitQuestion(RunQuestion(folder, TEXT), "backward", OTHER, budget=n) for n in (30, 31)]
    with Held(service):
        first = asking(service, searches[0], "first")
        open_question(service, "first")
        until(lambda: service.progress("first").name != "waiting", "the search to be handed over")
        second = asking(service, searches[1], "second")
        open_question(service, "second")
        assert service.progress("second") == Stage("waiting", None, 1)
        short = asking(service, question_of(folder, 3), "short")
        open_question(service, "short")
        until(lambda: service.progress("short").name != "waiting", "the question to be handed over")
        assert service.progress("short") == Stage(PAUSING, None, 0)
        another = asking(service, question_of(folder, 4), "another")
        open_question(service, "another")
        assert service.progress("another") == Stage("waiting", None, 1)
    assert (short.result(PATIENCE).target, another.result(PATIENCE).target) == (13, 14)
    assert [one.result(PATIENCE).graph.info.options["budget"] for one in (first, second)] == [30, 31]


@pytest.mark.slow
def test_a_cancelled_search_leaves_the_worker_and_can_be_run_again(service, folder, asking):
    pid = service.worker_pid
    question = CircuitQuestion(RunQuestion(folder, TEXT), "backward", OTHER, budget=35)
    with Held(service):
        asked = asking(service, question, "cancelled")
        open_question(service, "cancelled")
        until(lambda: service.progress("cancelled").name != "waiting", "the search to be handed over")
        assert service.cancel("cancelled")
        with pytest.raises(Cancelled):
            asked.result(PATIENCE)
    assert service.ask(question).graph.info.options["budget"] == 35
    assert service.worker_pid == pid


@pytest.mark.slow
def test_a_worker_that_dies_under_a_search_is_replaced_and_both_are_asked_again(service, folder, asking):
    with Held(service) as held:
        search = asking(service, CircuitQuestion(RunQuestion(folder, TEXT), "eap", OTHER, budget=36), "search")
        open_question(service, "search")
        until(lambda: service.progress("search").name != "waiting", "the search to be handed over")
        short = asking(service, question_of(folder, 7), "short")
        open_question(service, "short")
        until(lambda: service.progress("short").name != "waiting", "the question to be handed over")
        service._dispatcher._worker._process.kill()
        assert short.result(PATIENCE).target == 17
        assert len(search.result(PATIENCE).graph)
    assert service.worker_pid != held.pid


@pytest.mark.slow
def test_a_search_may_be_long_but_not_silent(service, folder, monkeypatch):
    monkeypatch.setattr(service._dispatcher, "_timeout", 0.0)
    question = CircuitQuestion(RunQuestion(folder, TEXT), "backward", OTHER, budget=37)
    assert len(service.ask(question).graph)
    monkeypatch.setattr(dispatch, "LONGEST_STEP", 0.2)
    monkeypatch.setattr(dispatch, "PATIENCE", 0.2)
    with Held(service) as held, pytest.raises(TimedOut, match=r"no answer after 0\.2 seconds"):
        service.ask(replace(question, budget=38))
    assert not alive(held.pid)


@pytest.mark.slow
def test_a_search_that_nobody_asks_about_is_given_up(service, folder, asking, monkeypatch):
    monkeypatch.setattr(dispatch, "ABANDONED", 0.3)
    question = CircuitQuestion(RunQuestion(folder, TEXT), "backward", OTHER, budget=39)
    service.ask(question_of(folder, 20))
    with Held(service):
        left = asking(service, question, "left")
        with pytest.raises(TimedOut, match=r"no answer after 0\.3 seconds"):
            left.result(PATIENCE)
    # Without a ticket there is nobody to ask how far it is.
    assert len(service.ask(question).graph)


# The address and the file


def test_a_circuit_is_a_recipe():
    recipe = Recipe(text="a", circuit="eap-ig", corrupted="b & <c>", budget=40)
    assert from_query(to_query(recipe)) == recipe
    assert CircuitQuestion.of(recipe) == CircuitQuestion(RunQuestion("smollm2", "a"), "eap-ig", "b & <c>", budget=40)
    of_task = replace(recipe, task="ioi", prompts=4)
    assert from_query(to_query(of_task)) == of_task
    # A task has no corrupted prompt of its own, and a pair is one: what does not matter makes no other question.
    assert CircuitQuestion.of(of_task) == CircuitQuestion.of(replace(of_task, corrupted=""))
    assert CircuitQuestion.of(recipe) == CircuitQuestion.of(replace(recipe, prompts=3))
    for query, words_ in (
        ("circuit=best", "circuit='best'"),
        ("prompts=x", "prompts='x'"),
        ("budget=0", "budget=0"),
        ("task=go", "task='go'"),
    ):
        with pytest.raises(ArgumentError, match=words_):
            from_query(f"?text=a&{query}")


def test_the_page_offers_what_a_recipe_takes():
    assert tuple(TASK_WORDS) == CHOICES["task"]
    assert tuple(dict.fromkeys(name.removesuffix("-flip") for name in TASK_WORDS)) == ("none", *TASKS)
    assert tuple(CIRCUITS) == CHOICES["circuit"][1:]


def test_a_session_keeps_a_circuit(traces, run, found):
    recipe = Recipe(model=run.model, text=TEXT, circuit="backward", corrupted=OTHER)
    questions = {
        run: ask(traces, run),
        CircuitQuestion.of(recipe): found,
        CorruptQuestion(run): ask(traces, CorruptQuestion(run)),
    }
    session = read_session(write_session(recipe, questions))
    again = session.answers[CircuitQuestion.of(session.recipe)]
    assert again.graph.weight.tolist() == found.graph.weight.tolist()
    assert again.graph.info.options == found.graph.info.options
    assert again.pairs == found.pairs


def test_a_session_from_before_circuits_opens(traces, run):
    data = write_session(Recipe(model=run.model, text=TEXT), {run: ask(traces, run)})
    old = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(old, "w") as written:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "session.json":
                manifest = json.loads(content)
                for field in ("circuit", "corrupted", "task", "prompts", "budget"):
                    del manifest["recipe"][field]
                content = json.dumps(manifest).encode()
            written.writestr(name, content)
    assert read_session(old.getvalue()).recipe == Recipe(model=run.model, text=TEXT)


def test_a_circuit_of_another_model_does_not_fit(traces, run, found):
    answer, question = ask(traces, run), CircuitQuestion(run, "eap", OTHER)
    refuse_unfit(answer, question, found)
    with pytest.raises(FileFormatError, match="number of layers"):
        refuse_unfit(replace(answer, n_layers=9, layers=(0, 9)), question, found)
    with pytest.raises(FileFormatError, match="has head="):
        refuse_unfit(replace(answer, n_heads=1), question, found)


# What is shown


def test_the_search_says_everything_of_itself(found):
    edges, options = fg.circuit_edges(found.graph), found.graph.info.options
    said = {name: value for name, value, _ in edges.facts()}
    assert said["method"] == edges.method == "backward"
    assert said["a cut edge brings"] == "the corrupted prompt’s"
    assert said["gap, clean less corrupted"] == edges.gap == options["gap"]
    assert (said["prompts"], said["edges"]) == (1, len(found.graph))
    assert (said["forwards run"], said["left untested"]) == (options["forwards"], 0)
    drawn = json.dumps(shown.panel(found).chart, ensure_ascii=False)
    assert f"{edges.gap:+.2f}" in drawn
    assert f'"{options["forwards"]:,}"' in drawn
    assert "cut by itself" in drawn
    estimated = replace(found, graph=replace(found.graph, info=replace(found.graph.info, method="circuit: eap")))
    assert "estimates; no edge was cut" in str(shown.panel(estimated))


def test_the_table_has_every_edge_the_strongest_first(found):
    graph, edges = found.graph, fg.circuit_edges(found.graph)
    rows = [one for one in shown.effect_table(edges, range(len(graph)), "Edges").walk() if one.tag == "tr"][1:]
    shown_effects = [float(row.children[-1].attributes["data-sort"]) for row in rows]
    assert shown_effects == list(edges.table().columns["effect"])[: len(rows)]
    assert [abs(x) for x in shown_effects] == sorted(np.abs(graph.weight).tolist(), reverse=True)[: len(rows)]
    picked = [one.attributes["data-pick"] for one in rows[0].walk() if "data-pick" in one.attributes]
    strongest = int(np.argmax(np.abs(graph.weight)))
    assert picked == [f"edge.{strongest}"]
    assert shown.effect_table(edges, [], "none") is None


def test_untested_edges_are_said(found):
    info = found.graph.info
    left = replace(found.graph, info=replace(info, options={**info.options, "untested": 7}))
    assert "7 edges that may be large enough could not be tested" in str(shown.panel(replace(found, graph=left)))


def test_prompts_are_text_and_no_markup(found):
    evil = replace(found, pairs=(Pair("<script>x</script>", "<b>", " a", None),))
    data = json.dumps(shown.panel(evil).chart)
    assert "<script>x</script>" in data
    assert "the mean logit" in data


# Over HTTP


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page(FakeService([folder]))


def search_for(page, folder, **form):
    asked = {
        "task": "none",
        "corrupted": OTHER,
        "answer": "",
        "against": "",
        "prompts": 8,
        "circuit": "eap",
        "budget": None,
    } | form
    value = {
        "id": form.pop("id", "f-1"),
        "previous": None,
        "search": to_query(Recipe(model=folder, text=TEXT, keep=300)),
        "form": asked,
    }
    status, answer = page.call("find-ticket.data", value=value)
    assert status == 200
    return answer["response"]


def test_a_search_gives_the_address_of_its_circuit(page, folder):
    response = search_for(page, folder, against="␣cat", budget=50)
    assert "Circuit found: " in json.dumps(response["found"])
    recipe = from_query(response["found"]["data-found"])
    assert (recipe.circuit, recipe.corrupted, recipe.budget, recipe.keep) == ("eap", OTHER, 50, None)
    assert recipe.foil == page.service.ask(TokenQuestion(RunQuestion(folder, TEXT), " cat", "foil")).token_id
    kept = page.service._kept[CircuitQuestion.of(recipe)]
    ticket = {"id": "t-1", "previous": None, "search": to_query(recipe), "run": "r"}
    status, answer = page.call("ticket.data", "picture.data", value=ticket)
    assert status == 200
    drawn = answer["response"]
    assert len(drawn["picture"]["data"]["edges"]) == len(kept.graph)
    assert "circuit: eap in logits, this prompt at position 8" in json.dumps(drawn["caption"])
    assert "back to the flow graph" in json.dumps(drawn["start"])
    assert page.service._kept[CircuitQuestion.of(recipe)] is kept


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"corrupted": "The"}, "make them equally long"),
        ({"corrupted": ""}, "the corrupted prompt is empty"),
        ({"corrupted": TEXT}, "change nothing"),
        ({"answer": " mat"}, "is 3 tokens of this model"),
        ({"circuit": "backward", "budget": 2}, "too small"),
        ({"circuit": "backward", "budget": 3}, "the circuit is empty"),
        ({"circuit": "magic"}, "circuit='magic' cannot be used"),
        ({"task": "ioi"}, "only 2 are one token"),
        ({"task": "ioi", "prompts": 0}, "prompts=0 cannot be used"),
        ({"budget": 1.5}, "budget=1.5 cannot be used"),
    ],
)
def test_why_there_is_no_circuit_stands_in_its_place(page, folder, form, message):
    response = search_for(page, folder, **form)
    said = json.dumps(response["found"])
    assert message in said
    assert "No circuit was found:" in said
    assert "data-found" not in response["found"]


def test_a_cancelled_search_says_so_and_gives_no_address(page, folder):
    page.service.failure = Cancelled("the question was cancelled")
    response = search_for(page, folder, circuit="eap-ig")
    assert "The search was cancelled." in json.dumps(response["found"])
    assert "data-found" not in response["found"]
    form = {
        "task": "none",
        "corrupted": "",
        "answer": "",
        "against": "",
        "prompts": 8,
        "circuit": "eap",
        "budget": None,
    }
    ticket = {"id": "f-9", "previous": None, "search": "", "form": form}
    assert page.call("find-cancel.n_clicks", state={"find-ticket.data": ticket})[0] in (200, 204)
    assert "f-9" in page.service.cancelled


def test_details_of_a_circuit(page, folder):
    query = to_query(Recipe(model=folder, text=TEXT, circuit="eap", corrupted=OTHER))
    graph = page.service.ask(CircuitQuestion.of(from_query(query))).graph

    def told(key):
        state = {"run.data": {"key": "r", "search": query}, "picture.pins": []}
        status, answer = page.call("picture.selected", "details.children", value=key, state=state)
        assert status == 200
        return json.dumps(answer["response"], ensure_ascii=False)

    assert "gap, clean less corrupted" in told(None)
    edge = told("edge.0")
    assert "First-order" in edge or "first-order" in edge
    assert str(graph.nodes[graph.source[0]]) in edge
    assert "What reads it" in told("embed.-.-.-.-")
    assert "Not in this circuit" in told("head.1.3.5.-")
    assert "is not an edge" in told("edge.99999")


def test_a_circuit_is_tested_beside_its_details(page, folder):
    query = to_query(Recipe(model=folder, text=TEXT, circuit="eap", corrupted=OTHER, keep=1000))

    def said(what):
        value = {"id": "c-1", "previous": None, "search": query, "what": what, "corrupted": []}
        return json.dumps(page.call("picture.test", "effect.children", value=value)[1]["response"], ensure_ascii=False)

    assert "this circuit alone" in said("graph")
    assert "Only a circuit as a whole is tested" in said("edge.0")
    value = {"id": None, "previous": "c-1", "search": "", "what": None, "corrupted": []}
    assert page.call("picture.test", "effect.children", value=value)[1]["response"]["effect"]["children"] == []
    assert "c-1" in page.service.cancelled
    page.call(
        "test-cancel.n_clicks",
        state={"picture.test": {"id": "c-2", "previous": None, "search": "", "what": None, "corrupted": []}},
    )
    assert "c-2" in page.service.cancelled


def test_a_circuit_is_taken_away_and_kept(page, folder):
    recipe = Recipe(model=folder, text=TEXT, circuit="eap", corrupted=OTHER)
    graph = page.service.ask(CircuitQuestion.of(recipe)).graph
    for ending in (".json", ".svg", ".csv"):
        response = page.client.get(f"/export/graph{ending}{to_query(recipe)}")
        assert response.status_code == 200
        assert "eap-circuit" in response.headers["Content-Disposition"]
    found = json.loads(page.client.get(f"/export/graph.json{to_query(recipe)}&keep=1000").data)
    assert len(found["edges"]["weight"] if isinstance(found["edges"], dict) else found["edges"]) == len(graph)
    session = read_session(page.client.get(f"/export/session.flowgraph{to_query(recipe)}").data)
    assert len(session.answers[CircuitQuestion.of(session.recipe)].graph) == len(graph)


def test_a_proposal_is_offered_and_an_error_beside_it(page, folder):
    search = to_query(Recipe(model=folder, text=TEXT))
    status, answer = page.call("picture.proposal", value={"search": search})
    assert status == 200
    made = page.service.ask(CorruptQuestion(RunQuestion(folder, TEXT)))
    assert answer["response"]["corrupted"]["value"] == made.text
    status, answer = page.call("picture.proposal", value={"search": "?nonsense=1"})
    assert "which is not known" in json.dumps(answer["response"]["proposed"])
    assert "corrupted" not in answer["response"]
