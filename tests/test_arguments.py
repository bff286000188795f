"""What is no trace, graph, model or file is refused by name, by every public function.

Tests run under a type checker that would refuse first, so the functions are called in a process of their own.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import flowgraph as fg
from flowgraph.errors import ArgumentError, FlowgraphError
from flowgraph.values.arguments import takes
from tests.tiny_models import tiny_model

WRONG = (None, object(), 3, 2.5, [], {}, b"", True, fg.Node("head", layer=0, head=0))


def _functions():
    for name in fg.__all__:
        value = getattr(fg, name)
        if inspect.isfunction(inspect.unwrap(value)):
            yield name, value


ODD = (None, object(), "no", "", b"no", 2.5, -7, float("nan"), True, [None], ["no"], {"no": 1}, {1}, iter([2]), np.array([[1, 2]]), np.float32(0.5),
       torch.tensor([1.0, 2.0]), torch.tensor(1), 3 + 1j, slice(1), fg.Node("head", layer=0, head=0))  # fmt: skip
"""What no later argument expects, or some do: it is taken, or refused by an error of ours."""


def _calls() -> dict[str, tuple[Callable[..., object], dict[str, Any]]]:
    """Calls that work, with all that has to be given."""
    model = fg.load_model(tiny_model("gpt2")[0], tokenizer=tiny_model("gpt2")[1])
    clean, corrupted = [5, 6, 7, 8], [5, 9, 7, 8]
    trace = fg.trace(model, clean)
    graph, attention = fg.build_graph(trace), {"attention_or_trace": trace, "source": 0, "target": 2}
    pair = {"model": model, "clean": clean, "corrupted": corrupted, "target": 8, "foil": 9}
    data = fg.TaskData("own", "", (fg.Example(tuple(clean), tuple(corrupted), 8, 9),))
    circuit = fg.discover(**pair, budget=10, shortlist=5)
    lens, scores = fg.logit_lens(trace), fg.head_scores(trace)
    given: list[tuple[Callable[..., object], dict[str, Any]]] = [
        *((f, {"trace": trace}) for f in (fg.alti_logit, fg.direct_logit_attribution, fg.head_scores, fg.logit_lens)),
        *((f, {"trace": trace}) for f in (fg.norm_map, fg.mixing_ratio, fg.trajectory, fg.edge_weights, fg.semantic_graph)),
        *((f, {"graph": graph}) for f in (fg.influence, fg.prune, fg.keep_strongest, fg.mass, fg.strongest_paths, fg.render_picture)),
        *((f, attention) for f in (fg.attention_flow, fg.flow_edges, fg.minimum_cut)),
        *((f, {"weights_or_trace": trace}) for f in (fg.flow_graph, fg.rollout_graph)),
        *((f, pair) for f in (fg.edge_scores, fg.head_effects)),
        *((f, pair | {"what": circuit}) for f in (fg.patch,)),
        *((f, pair | {"method": "eap"}) for f in (fg.discover,)),
        (fg.ablate, {"model": model, "prompts": clean, "what": circuit, "target": 8, "foil": 9}),
        (fg.trace, {"model": model, "text_or_ids": clean}),
        (fg.build_graph, {"trace_or_weights": trace}),
        (fg.routes, {"weights": fg.edge_weights(trace), "threshold": 0.1}),
        (fg.attention_rollout, {"attention_or_trace": trace}),
        (fg.edge_tokens, {"trace": trace, "graph": graph, "edge": 3}),
        (fg.head_circuit, {"trace": trace, "layer": 0, "head": 0}),
        (fg.norm_filter, {"trace": trace, "layer": 0}),
        (fg.visit_graph, {"trace": fg.trace(fg.load_model(tiny_model("llama")[0]), clean)}),
        (fg.read, {"trace": trace, "vectors": trace.site("resid_post")[-1]}),
        (fg.unembed, {"trace": trace, "vectors": trace.site("resid_post")[-1]}),
        (fg.lens_figure, {"reading": lens}),
        (fg.trajectory_figure, {"found": fg.trajectory(trace)}),
        (fg.head_scores_figure, {"scores": scores}),
        (scores.strongest, {"name": "entropy"}),
        (fg.head_view, {"attention": trace}),
        (fg.model_view, {"attention": trace}),
        (fg.load_model, {"name_or_path_or_model": model.model, "tokenizer": model.tokenizer}),
        (fg.faithfulness, {"model": model, "data": data, "graph": circuit, "sizes": (0.5,), "bootstrap": 2}),
        (fg.completeness, {"model": model, "data": data, "graph": circuit, "random": 1, "greedy": 1, "candidates": 1, "bootstrap": 2}),
        (fg.minimality, {"model": model, "data": data, "graph": circuit, "random": 1, "bootstrap": 2}),
        (fg.head_roles, {"model": model, "sequences": 1}),
        (graph.measured_into, {"start": None}),
        (graph.with_readings, {"readings": [None] * len(graph.nodes)}),
    ]  # fmt: skip
    return {function.__name__: (function, named) for function, named in given}


def later_faults() -> dict[str, list[str]]:
    """Every later argument of calls that work, replaced by something odd."""
    tried, faults = [], []
    for name, (function, named) in _calls().items():
        function(**named)
        for place in list(inspect.signature(function).parameters.values())[not inspect.ismethod(function) :]:
            # A progress or metric of the user's own raises what it likes; options belong to the method.
            if place.kind is place.VAR_KEYWORD:
                continue
            for odd in ODD:
                tried.append(f"{name}({place.name}={odd!r})")
                said = _said(tried[-1], lambda f=function, given={**named, place.name: odd}: f(**given))
                if said is not None and " gave " not in said:
                    faults.append(said)
    return {"tried": tried, "faults": faults}


def _called(function, first):
    """Call with one wrong argument first, and None for whatever else has to be given."""
    required = [
        one
        for one in list(inspect.signature(function).parameters.values())[1:]
        if one.default is inspect.Parameter.empty
    ]
    named = {one.name: None for one in required if one.kind is one.KEYWORD_ONLY}
    return function(first, *[None for one in required if one.kind is one.POSITIONAL_OR_KEYWORD], **named)


def _said(name, call):
    """What is wrong with how a wrong argument was taken; None if it was refused by an error of ours."""
    try:
        given = call()
    except FlowgraphError:
        return None
    except Exception as error:  # every other kind is the fault that is looked for
        return f"{name}: {type(error).__name__}: {error}"
    return f"{name} gave {given!r}"


def faults() -> dict[str, list[str]]:
    """What was tried, and what is wrong with it."""
    tried = []
    for name, function in _functions():
        for wrong in WRONG:
            # An empty list of ids is found to be empty when it is held against a model.
            if (name, wrong) not in (("inputs", []), ("node_key", WRONG[-1])):
                tried.append((f"{name}({wrong!r})", lambda f=function, wrong=wrong: _called(f, wrong)))
    trace = fg.trace(fg.load_model(tiny_model("llama")[0]), [5, 6, 7])
    graph = fg.build_graph(trace, method="norms")
    files = {
        "FlowGraph.load": fg.FlowGraph.load, "Trace.load": fg.Trace.load, "FlowGraph.save": graph.save, "Trace.save": trace.save,
        "Reading.save": fg.logit_lens(trace).save, "TokenMatrix.save": fg.norm_map(trace).save, "TaskData.load": fg.TaskData.load,
    }  # fmt: skip
    tried += [
        (f"{name}({wrong!r})", lambda f=f, w=wrong: f(w)) for name, f in files.items() for wrong in (None, 3, [], 2.5)
    ]
    return {"tried": [name for name, _ in tried], "faults": list(filter(None, (_said(*one) for one in tried)))}


@pytest.fixture(scope="module")
def without_checks():
    """What the functions of this module find in a process in which types are not checked at run time."""
    code = (
        "import json; from tests.test_arguments import faults, later_faults, messages; "
        "print(json.dumps({one.__name__: one() for one in (faults, later_faults, messages)}))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("which", "least"), [("faults", 400), ("later_faults", 4000), ("messages", 8)])
def test_no_public_function_takes_what_it_is_not_about(without_checks, which, least):
    found = without_checks[which]
    assert len(found["tried"]) > least
    assert not found["faults"], "\n".join(found["faults"])


def test_a_batch_says_how_one_of_it_is_taken(tiny):
    both = fg.trace(tiny("llama"), [[5, 6, 7], [8, 9]])
    with pytest.raises(ArgumentError, match=r"batch of 2 prompts; take one of them: logit_lens\(traces\[0\]\)"):
        takes(fg.Trace)(fg.logit_lens.__wrapped__)(both)


def test_what_is_missing_is_told_by_python():
    @takes(int, (str, bytes))
    def about(number, name, *, more=0):
        return number, name, more

    assert about(1, name="a", more=2) == (1, "a", 2)
    assert about.__name__ == "about"
    assert list(inspect.signature(about).parameters) == ["number", "name", "more"]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
        about(1)
    with pytest.raises(ArgumentError, match=r"about\(name=…\) expects a str or a bytes, and got None"):
        about(1, None)
    with pytest.raises(ArgumentError, match=r"about\(number=…\) expects an int, and got a str"):
        about(number="1", name="a")


def messages() -> dict[str, list[str]]:
    """What is said of later arguments, where that differs from what is expected."""
    trace = fg.trace(fg.load_model(tiny_model("llama")[0]), [5, 6, 7])
    model, lens = trace.model, fg.logit_lens(trace)
    calls: list[tuple[str, Callable[..., object]]] = [
        ("head_scores(position=…) expects a whole number or None, and got 'last'", lambda: fg.head_scores(trace, position="last")),
        ("logits='al' is not known; expected 'last' or 'all'", lambda: fg.trace(model, [5, 6], logits="al")),
        ("trace(max_bytes=…) expects a number, and got nan", lambda: fg.trace(model, [5, 6], max_bytes=float("nan"))),
        ("(readings=…) expects True or False or 'auto', and got 'yes'", lambda: fg.build_graph(trace, readings="yes")),
        ("expects (a whole number, a whole number) or None, and got a tuple", lambda: fg.build_graph(trace, layers=(0, "2"))),
        ("and got a range", lambda: fg.build_graph(trace, layers=range(2))),
        ("theme='pink' is not known; expected 'light' or 'dark'", lambda: fg.lens_figure(lens, theme="pink")),
        ("expects a list (each a whole number), and got a list that holds 'x'", lambda: fg.build_graph(trace, heads_in=[0, "x"])),
        ("target= is a set; give one token, or a list", lambda: fg.head_effects(model, [[5, 6], [7, 8]], how="zero", target={5, 6}, foil=9)),
    ]  # fmt: skip
    faults = []
    for expected, call in calls:
        try:
            faults.append(f"{expected}: gave {call()!r}")
        except ArgumentError as error:
            if expected not in str(error):
                faults.append(f"{expected}: {error}")
    graph = fg.build_graph(trace, top_k=np.int64(2), mass=np.float32(0.5), layers=[0, np.int64(2)], max_edges=1e5)
    if graph.info.layers != (0, 2) or type(graph.info.filters["top_k"]) is not int:
        faults.append(f"numbers of NumPy stay what they were: {graph.info}")
    return {"tried": [expected for expected, _ in calls], "faults": faults}
