"""Attention views: every form of the same attention draws the same, wrong ones are refused with a word on what to do."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch

import flowgraph
from flowgraph import ArgumentError, head_view, model_view
from flowgraph.charts.text import visible
from flowgraph.render.scene import attention_codes
from tests.conftest import IDS
from tests.synthetic_graphs import HOSTILE
from tests.tiny_models import tiny_model

LAYERS, HEADS, LENGTH = 3, 4, 6
TOKENS = ["Ġthe", "Ġcat", "Ġthe", "▁mat", "</w>", "Ċ"]


@pytest.fixture(autouse=True)
def _as_users_call_it():
    """Without the run-time type checks of the tests, which users do not have: wrong types must get our own words."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def attention(layers=LAYERS, heads=HEADS, queries=LENGTH, keys=None, causal=False, seed=0):
    keys = queries if keys is None else keys
    made = np.random.default_rng(seed).gamma(0.5, size=(layers, heads, queries, keys))
    made = np.tril(made) if causal else made
    return (made / made.sum(-1, keepdims=True)).astype(np.float32)


def head(*arguments, **options):
    return head_view(*arguments, html_action="return", **options)


def data_of(view):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', view.html, re.S)
    return json.loads(found[1])


def weights_of(panel):
    """The weights that a page holds, read by a loop over its bytes."""
    codes = np.frombuffer(base64.b64decode(panel["codes"]), dtype=f"<u{panel['bits'] // 8}").astype(float)
    shape = (len(panel["layers"]), len(panel["heads"]), len(panel["queries"]), len(panel["keys"]))
    made, n = np.zeros(shape), 0
    for layer, h, query in np.ndindex(*shape[:3]):
        for key in range(query + 1 if panel["causal"] else shape[3]):
            made[layer, h, query, key] = codes[n]
            n += 1
    assert n == len(codes)
    return made / (2 ** panel["bits"] - 1) * panel["scale"]


FORMS = {
    "array": lambda a: a,
    "tensor": torch.tensor,
    "tensor that needs a gradient": lambda a: torch.tensor(a, requires_grad=True),
    "double": lambda a: a.astype(np.float64),
    "nested lists": lambda a: a.tolist(),
    "list of [1, head, query, key] tensors": lambda a: [torch.tensor(layer)[None] for layer in a],
    "tuple of [1, head, query, key] arrays": lambda a: tuple(layer[None] for layer in a),
    "list of [head, query, key] arrays": list,
    "stacked with its batch axis": lambda a: a[:, None],
    "nested lists with a batch axis": lambda a: a[:, None].tolist(),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("view", [head_view, model_view])
def test_every_form_draws_the_same(view, form, causal):
    weights = attention(causal=causal)
    found = view(FORMS[form](weights), TOKENS, html_action="return")
    assert found.html == view(weights, TOKENS, html_action="return").html
    (panel,) = data_of(found)["panels"]
    assert panel["causal"] is causal
    assert panel["error"] < 8e-6
    assert np.abs(weights_of(panel) - weights).max() <= panel["error"] + 1e-12


@pytest.mark.parametrize(
    "form", [lambda a: a, torch.tensor, lambda a: a.tolist(), list, lambda a: [torch.tensor(h) for h in a]]
)
def test_one_layer(form):
    weights = attention()[0]
    assert head(form(weights), TOKENS).html == head(weights[None], TOKENS).html


def test_half_precision():
    weights = torch.tensor(attention()).bfloat16()
    (panel,) = data_of(head(weights, TOKENS))["panels"]
    assert np.abs(weights_of(panel) - weights.float().numpy()).max() <= panel["error"]


def test_a_trace_brings_its_tokens_and_layer_numbers(traces, tiny):
    trace = traces("llama")
    data = data_of(head(trace))
    (panel,) = data["panels"]
    assert panel["keys"] == [visible(token) for token in trace.tokens]
    assert panel["layers"] == list(range(trace.n_layers))
    assert np.abs(weights_of(panel) - trace.pattern.numpy()).max() <= panel["error"]
    window = flowgraph.trace(tiny("llama"), IDS, keep=flowgraph.TraceSites(layers=(1, 2)))
    assert data_of(head(window))["panels"][0]["layers"] == [1]
    assert data_of(head(window, layer=1))["layer"] == 1
    with pytest.raises(ArgumentError, match=r"layer= asks for layer 0; attention= has 1 "):
        head(window, layer=0)
    named = [f"t{n}" for n in range(len(IDS))]
    assert data_of(head(trace, named))["panels"][0]["keys"] == named


def test_numbers_beyond_one_are_kept():
    weights = attention() * 7
    (panel,) = data_of(head(weights, TOKENS))["panels"]
    assert panel["scale"] == pytest.approx(weights.max())
    assert np.abs(weights_of(panel) - weights).max() <= panel["error"] + 1e-9


def test_arguments_arrive():
    data = data_of(head(attention(), TOKENS, 3, layer=2, heads=[3, 1], include_layers=[2, 0]))
    assert (data["split"], data["layer"], data["heads"]) == (3, 2, [1, 3])
    assert data["panels"][0]["layers"] == [0, 2]
    assert np.allclose(weights_of(data["panels"][0]), attention()[[0, 2]], atol=1e-5)
    assert data["panels"][0]["keys"] == ["␣the", "␣cat", "␣the", "␣mat", "", "⏎"]
    assert data_of(head(attention(), TOKENS, prettify_tokens=False))["panels"][0]["keys"] == TOKENS
    data = data_of(model_view(attention(), TOKENS, display_mode="dark", include_heads=[2], html_action="return"))
    assert (data["theme"], data["panels"][0]["heads"]) == ("dark", [2])
    assert np.allclose(weights_of(data["panels"][0]), attention()[:, [2]], atol=1e-5)


def test_layers_left_out_are_not_looked_at():
    weights = list(attention())
    weights[1] = np.full_like(weights[1], np.nan)
    assert data_of(head(weights, TOKENS, include_layers=[0, 2]))["panels"][0]["layers"] == [0, 2]


def test_encoder_and_decoder():
    views = {
        "encoder_attention": attention(2, 3, 5),
        "decoder_attention": attention(4, 2, 3, causal=True),
        "cross_attention": [torch.tensor(layer)[None] for layer in attention(4, 2, 3, 5)],
        "encoder_tokens": list("abcde"),
        "decoder_tokens": list("xyz"),
    }
    panels = data_of(head(**views))["panels"]
    assert [panel["name"] for panel in panels] == ["encoder", "decoder", "cross"]
    assert [(panel["queries"], panel["keys"]) for panel in panels] == [
        (list("abcde"), list("abcde")), (list("xyz"), list("xyz")), (list("xyz"), list("abcde")),
    ]  # fmt: skip
    assert np.allclose(weights_of(panels[2]), attention(4, 2, 3, 5), atol=1e-5)
    only = {name: views[name] for name in ("cross_attention", "encoder_tokens", "decoder_tokens")}
    assert [panel["name"] for panel in data_of(model_view(**only, html_action="return"))["panels"]] == ["cross"]


def changed(place, value):
    weights = attention()
    weights[place] = value
    return weights


CROSS = {"cross_attention": attention(2, 2, 3, 5), "encoder_tokens": list("abcde"), "decoder_tokens": list("xyz")}
WRONG = {
    "nothing": ((), {}, r"attention= is None; make sure you set output_attentions=True.*attn_implementation=\"eager\""),
    "empty": (((), TOKENS), {}, "attention= is empty; make sure you set output_attentions=True.*eager"),
    "sdpa": (((None, None), TOKENS), {}, r'attention\[0\] is None.*attn_implementation="eager"'),
    "output": ((SimpleNamespace(attentions=()), TOKENS), {}, "is a SimpleNamespace; pass its field, outputs.attentions"),
    "dict": (({"attentions": ()}, TOKENS), {}, "is a dict; pass its field, outputs.attentions"),
    "text": (("abc", TOKENS), {}, "attention= is a str; expected"),
    "number": ((3.5, TOKENS), {}, "attention= is a float; expected"),
    "generate": ((((torch.zeros(1, 2, 3, 3),),), TOKENS), {}, r"attention\[0\] is a tuple of tensors, as model.generate"),
    "strings": (([["a"]], TOKENS), {}, "a list that is no regular block of numbers"),
    "ragged": (([[[[1.0], [1.0, 2.0]]]], TOKENS), {}, "a list that is no regular block of numbers"),
    "two axes": ((np.eye(6), TOKENS), {}, r"attention= has the shape \[6, 6\]; expected \[layer, head, query, key\]"),
    "six axes": ((np.zeros((1,) * 6), TOKENS), {}, r"has the shape \[1, 1, 1, 1, 1, 1\]; expected"),
    "no layer": ((np.zeros((0, 2, 6, 6)), TOKENS), {}, "no layer at all"),
    "no head": ((np.zeros((2, 0, 6, 6)), TOKENS), {}, "hold nothing"),
    "batch": (([np.zeros((3, 2, 6, 6))], TOKENS), {}, r"attention\[0\] has the shape \[3, 2, 6, 6\], a batch of 3; expected one"),
    "odd layer": (([np.eye(6)[None], np.eye(6)], TOKENS), {}, r"attention\[1\] has the shape \[6, 6\]; expected \[head"),
    "heads differ": (([attention()[0], attention(heads=2)[0]], TOKENS), {}, r"layer 0 is \[4, 6, 6\], layer 1 is \[2, 6, 6\]"),
    "complex": ((torch.zeros(2, 2, 6, 6, dtype=torch.cfloat), TOKENS), {}, "has complex numbers; expected attention weights"),
    "complex array": ((np.zeros((2, 2, 6, 6), complex), TOKENS), {}, "has complex128 entries"),
    "not square": ((attention(queries=1, keys=6), TOKENS), {}, "1 queries and 6 keys.*square.*cross_attention="),
    "too few tokens": ((attention(), TOKENS[:5]), {}, "6 queries and 6 keys, but there are 5 tokens.*special tokens too"),
    "no tokens": ((attention(),), {}, r"tokens= is missing; pass the list tokenizer.convert_ids_to_tokens"),
    "tokens a text": ((attention(), "abcdef"), {}, r"tokens=…\) expects a list \(each a str\) or None, and got 'abcdef'"),
    "tokens are ids": ((attention(), range(6)), {}, r"tokens=…\) expects a list \(each a str\) or None, and got a range that holds 0"),
    "NaN": ((changed((2, 1, 5, 0), np.nan), TOKENS), {}, "not a finite number at layer 2, head 1, query 5, key 0: nan"),
    "infinite": ((changed((0, 3, 1, 1), np.inf), TOKENS), {}, "not a finite number at layer 0, head 3.*: inf"),
    "scores": ((changed((0, 0, 1, 1), -3), TOKENS), {}, "negative at layer 0, head 0, query 1, key 1: -3.*softmax"),
    "layer": ((attention(), TOKENS), {"layer": 3}, r"layer= asks for layer 3; attention= has 0, 1, 2"),
    "layer left out": ((attention(), TOKENS), {"layer": 1, "include_layers": [0, 2]}, "layer= asks for layer 1;.* has 0, 2"),
    "negative layer": ((attention(), TOKENS), {"layer": -1}, "layer= asks for layer -1"),
    "half a layer": ((attention(), TOKENS), {"layer": 1.5}, r"layer=…\) expects a whole number or None, and got 1\.5"),
    "head": ((attention(), TOKENS), {"heads": [0, 4]}, "heads= asks for head 4; attention= has 0 to 3"),
    "no heads": ((attention(), TOKENS), {"heads": []}, "heads= is empty; name at least one head"),
    "one head": ((attention(), TOKENS), {"heads": 1}, r"heads=…\) expects a list \(each a whole number\) or None, and got 1"),
    "include": ((attention(), TOKENS), {"include_layers": [7]}, "include_layers= asks for layer 7; attention= has 0 to 2"),
    "include nothing": ((attention(), TOKENS), {"include_layers": []}, "include_layers= is empty"),
    "sentence 0": ((attention(), TOKENS, 0), {}, "sentence_b_start= asks for position 0; tokens= has 1 to 5"),
    "sentence 6": ((attention(), TOKENS, 6), {}, "sentence_b_start= asks for position 6"),
    "one token": ((attention(queries=1), ["a"], 1), {}, "there is 1 token, which cannot be two sentences"),
    "action": ((attention(), TOKENS), {"html_action": "print"}, "html_action='print'; expected \"view\" or \"return\""),
    "both": ((attention(), TOKENS), CROSS, "attention= and cross_attention= were both given"),
    "misplaced tokens": ((attention(), TOKENS), {"encoder_tokens": TOKENS}, "encoder_tokens= goes with encoder_attention="),
    "tokens of one stack": ((), CROSS | {"tokens": TOKENS}, "tokens= goes with attention="),
    "decoder tokens": ((), CROSS | {"decoder_tokens": None}, "decoder_tokens= is missing"),
    "cross turned": ((), CROSS | {"cross_attention": attention(2, 2, 5, 3)}, "3 decoder_tokens= and 5 encoder_tokens="),
    "sentences of two": ((), CROSS | {"sentence_b_start": 2}, "sentence_b_start= goes with attention="),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_in_words(case):
    arguments, options, message = WRONG[case]
    with pytest.raises(ArgumentError, match=message):
        head_view(*arguments, **options)
    if not {"layer", "heads"} & set(options):
        with pytest.raises(ArgumentError, match=message):
            model_view(*arguments, **options)


def test_wrong_input_of_the_model_view_alone():
    with pytest.raises(ArgumentError, match="display_mode='blue'"):
        model_view(attention(), TOKENS, display_mode="blue")
    with pytest.raises(ArgumentError, match="include_heads= asks for head 4"):
        model_view(attention(), TOKENS, include_heads=[4])


def test_a_trace_goes_first(traces):
    with pytest.raises(ArgumentError, match="encoder_attention= is a Trace; a Trace goes first"):
        head(encoder_attention=traces("llama"), encoder_tokens=[str(n) for n in IDS])
    with pytest.raises(ArgumentError, match="there are 2 tokens"):
        head(traces("llama"), ["a", "b"])


@pytest.mark.slow
def test_long_texts_are_rounded_more_and_then_refused(monkeypatch):
    weights = np.full((2, 2, 512, 512), 1 / 512, np.float32)
    tokens = [f"t{n}" for n in range(512)]
    assert data_of(head(weights, tokens))["panels"][0]["bits"] == 16
    exact = len(head(weights, tokens).html)
    monkeypatch.setattr(attention_codes, "MOST_CHARACTERS", 2 * 2**20)
    view = head(weights, tokens)
    panel = data_of(view)["panels"][0]
    assert panel["bits"] == 8
    assert np.abs(weights_of(panel) - weights).max() <= panel["error"] == pytest.approx(1 / 510)
    assert exact - len(view.html) == pytest.approx(2 * 2 * 512 * 512 * 4 / 3, rel=0.001)
    monkeypatch.setattr(attention_codes, "MOST_CHARACTERS", 2**20)
    message = r"1,048,576 attention weights would make a page of 1 MB at 8 bits; the limit is 1 MB. Show fewer layers: include_layers= with 1 of"
    with pytest.raises(ArgumentError, match=message):
        head(weights, tokens)
    assert data_of(head(weights, tokens, include_layers=[1]))["panels"][0]["bits"] == 8
    assert data_of(head(np.tril(weights), tokens))["panels"][0]["causal"]
    monkeypatch.setattr(attention_codes, "MOST_CHARACTERS", 2**18)
    with pytest.raises(ArgumentError, match="One layer alone is too much: show a part of the text"):
        head(weights, tokens)


def test_hostile_tokens_stay_text():
    tokens = [*HOSTILE, "$policy ${data}", "]]>", "`${alert(1)}`"]
    view = head(attention(queries=len(tokens)), tokens)
    assert data_of(view)["panels"][0]["keys"] == [visible(token) for token in tokens]
    assert view.html.count("</script>") == 2
    assert not re.search(r"<img|<!--|\u202e|\u2028", view.html)


def test_the_frame_is_isolated_and_fetches_nothing():
    view = head(attention(), ["\"><script>alert('x')</script>", *TOKENS[1:]])
    frame = view._repr_html_()
    assert frame.count("<") == 2
    assert frame.startswith("<iframe ")
    assert 'sandbox="allow-scripts"' in frame
    assert unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == view.html == view.data
    assert "default-src 'none'; script-src 'sha256-" in view.html
    assert not re.search(r"https?://|src=|@import|url\(", view.html)
    assert repr(view) == "AttentionView(head view of attention, 3 layers × 4 heads, 6 tokens)"


def test_saving(tmp_path):
    view = head(attention(), TOKENS)
    assert view.save(tmp_path / "view.html") == tmp_path / "view.html"
    assert (tmp_path / "view.html").read_text(encoding="utf-8") == view.html
    with pytest.raises(ArgumentError, match=r"does not end in \.html"):
        view.save(tmp_path / "view.png")
    with pytest.raises(ArgumentError, match="could not be written: No such file"):
        view.save(tmp_path / "nowhere" / "view.html")


@pytest.mark.slow
def test_without_a_notebook_it_is_returned_and_show_says_so():
    code = (
        "import flowgraph, numpy\n"
        "view = flowgraph.head_view(numpy.eye(2)[None], ['a', 'b'])\n"
        "print(view)\n"
        "try: view.show()\n"
        "except flowgraph.FlowgraphError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "AttentionView(head view of attention, 1 layers × 1 heads, 2 tokens)",
        'no notebook is running here; use view.save("attention.html") and open that file',
    ]


@pytest.mark.slow
def test_a_notebook_draws_it_once():
    pytest.importorskip("IPython")
    code = """
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
shell, last_lines = InteractiveShell.instance(), []
shell.displayhook.write_format_data = lambda data, metadata=None: last_lines.append(data)
def run(cell):
    last_lines.clear()
    with capture_output() as found:
        shell.run_cell(cell, store_history=True)
    drawn = ["text/html" in data for data in [output.data for output in found.outputs] + last_lines]
    print(sum(drawn), len(drawn), found.stdout.count("Error"))
run("import flowgraph as f, numpy as n; a = n.eye(2)[None], ['a', 'b']")
run("f.head_view(*a)")
run("f.model_view(*a); 5")
run("view = f.head_view(*a)")
run("view")
run("view = f.head_view(*a, html_action='return')")
run("f.head_view(*a, html_action='return')")
run("view.show(); view.show()")
run("for _ in range(2): f.head_view(*a)")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    drawn = [tuple(map(int, line.split())) for line in done.stdout.splitlines() if re.fullmatch(r"\d \d \d", line)]
    assert [html for html, _, _ in drawn] == [0, 1, 1, 1, 1, 0, 1, 2, 2]
    assert [every for _, every, _ in drawn] == [0, 2, 2, 1, 1, 0, 1, 2, 2]
    assert all(errors == 0 for _, _, errors in drawn)


def test_what_transformers_returns(tiny):
    model, _ = tiny_model("llama")
    ids, tokens = torch.tensor([IDS]), [str(n) for n in IDS]
    model.set_attn_implementation("eager")
    outputs = model(ids, output_attentions=True)
    panel = data_of(head(outputs.attentions, tokens))["panels"][0]
    traced = flowgraph.trace(tiny("llama"), IDS).pattern.numpy()
    assert np.abs(weights_of(panel) - traced).max() <= panel["error"] + 1e-6
    with pytest.raises(ArgumentError, match=r"pass its field, outputs\.attentions"):
        head(outputs, tokens)
    model.set_attn_implementation("sdpa")
    with pytest.raises(ArgumentError, match=r'attention= is empty.*attn_implementation="eager"'):
        head(model(ids, output_attentions=True).attentions, tokens)


def test_a_trace_without_patterns_says_so(traces):
    trace = traces("llama")
    sites = {name: value for name, value in trace.sites.items() if name != "pattern"}
    with pytest.raises(flowgraph.NotRecordedError, match="'pattern'"):
        head(replace(trace, sites=sites))
