"""What is no trace, graph, model or file is refused by name, by every public function.

Tests run under a type checker that would refuse first, so the functions are called in a process of their own.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

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


@pytest.mark.slow
def test_no_public_function_takes_what_it_is_not_about():
    code = "import json; from tests.test_arguments import faults; print(json.dumps(faults()))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["tried"]) > 400
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
