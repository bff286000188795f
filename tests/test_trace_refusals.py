"""What a trace that is refused says: advice that can be taken, and nothing in another library's words."""

from __future__ import annotations

import re

import pytest
import transformers

import flowgraph as fg
from flowgraph.errors import ArchitectureError, ArgumentError, PromptError
from tests.tiny_models import tiny_model

IDS = list(range(5, 45))


@pytest.mark.parametrize(
    ("keep", "part", "offers"),
    [
        (None, 0.9, 3),
        (None, 0.55, 2),
        (None, 0.3, 2),
        (None, 0.1, 1),
        (fg.TraceSites(layers=(1, 3)), 0.9, 3),
        ({"pattern", "z"}, 0.9, 2),
        ({"pattern"}, 0.9, 1),
        ({"z"}, 0.9, 1),
    ],
)
def test_what_is_advised_fits(tiny, keep, part, offers):
    """Each piece of advice is run as it stands; it keeps as many bytes as it says, which is no more than is allowed."""
    loaded = tiny("gemma3")
    most = int(fg.trace_size(loaded, IDS, keep=keep) * part)
    with pytest.raises(ArgumentError, match="; what fits: ") as error:
        fg.trace(loaded, IDS, keep=keep, max_bytes=most)
    advice = str(error.value).partition("what fits: ")[2].removesuffix("; or raise max_bytes").split("; ")
    assert len(advice) == offers
    for one in advice:
        code, kept = re.fullmatch(r"keep=(.*) \(([\d,]+) bytes\)", one).groups()
        advised = eval(code, {"TraceSites": fg.TraceSites, "fg": fg})
        assert fg.trace_size(loaded, IDS, keep=advised) == int(kept.replace(",", "")) <= most
        fg.trace(loaded, IDS, keep=advised, max_bytes=most)


def test_where_nothing_fits_a_length_is_advised(tiny):
    loaded = tiny("gemma3")
    layer = fg.TraceSites(frozenset({"pattern"}), layers=(0, 1))
    most = fg.trace_size(loaded, IDS, keep=layer) - 1
    with pytest.raises(ArgumentError, match=r"not even this fits: .* \(25,600 bytes\); .* to 39 tokens"):
        fg.trace(loaded, IDS, max_bytes=most)
    fg.trace(loaded, IDS[:39], keep=layer, max_bytes=most)
    with pytest.raises(ArgumentError):
        fg.trace(loaded, IDS, keep=layer, max_bytes=most)


def test_what_the_model_fails_with_is_told_as_ours(monkeypatch):
    """The user's own change breaks the pass, after the model was proved."""
    model, _ = tiny_model("llama")
    loaded = fg.load_model(model)

    def broken(*_arguments: object, **_options: object) -> None:
        raise IndexError("index 66 is out of bounds")

    with monkeypatch.context() as change:
        change.setattr(model.model.layers[0], "forward", broken)
        with pytest.raises(
            PromptError, match=r"'LlamaForCausalLM'.* fails on this prompt of 40 tokens with IndexError: in"
        ):
            fg.trace(loaded, IDS)
    handle = model.model.layers[0].register_forward_pre_hook(broken)
    with pytest.raises(ArchitectureError, match=r"hooks were added .*: index 66 is out of bounds. Remove the hook"):
        fg.trace(loaded, IDS)
    handle.remove()
    assert fg.trace(loaded, IDS).tokens


def test_a_prompt_beyond_the_learned_positions_is_refused_before_it_runs():
    config = transformers.CamembertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=60,
        max_position_embeddings=66, pad_token_id=1,
    )  # fmt: skip
    loaded = fg.load_model(transformers.CamembertForMaskedLM(config).eval())
    fg.trace(loaded, [5] * 64, position=0)
    with pytest.raises(PromptError, match="takes at most 64"):
        fg.trace(loaded, [5] * 65, position=0)
