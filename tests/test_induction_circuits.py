"""The constructed models do what they were constructed for, and only by the heads they name."""

from __future__ import annotations

import pytest
import torch

import flowgraph
from tests.induction_circuits import VARIANTS, gpt2_circuit, llama_circuit, repeated

MODELS = {name: (lambda name=name, **options: gpt2_circuit(name, **options)) for name in VARIANTS} | {
    "llama": llama_circuit
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_repetition_goes_on(name, dtype):
    circuit = MODELS[name](dtype=dtype)
    ids, expected = repeated(circuit.model.config.vocab_size)
    with torch.no_grad():
        logits = circuit.model(ids).logits[:, -1]
    assert (logits.argmax(-1) == expected).all()
    assert logits.gather(1, expected[:, None]).min() > (12 if name == "negative" else 18)


@pytest.mark.parametrize("name", MODELS)
def test_heads_look_where_they_should(name):
    circuit = MODELS[name]()
    ids, _ = repeated(circuit.model.config.vocab_size, count=1)
    trace = flowgraph.trace(flowgraph.load_model(circuit.model), ids[0], target=1)
    length, period = ids.shape[1], 8
    layer, head = circuit.heads["previous"]
    for t in range(1, length):
        assert trace.pattern[layer, head, t, t - 1] > 0.99
    sources = {"induction": length - period, "negative": length - period, "mover": length - period}
    for role, (layer, head) in circuit.heads.items():
        if role != "previous":
            assert trace.pattern[layer, head, -1, sources[role]] > 0.99, role


def test_soft_attention_still_decides():
    circuit = gpt2_circuit(beta=4.0)
    ids, expected = repeated(circuit.model.config.vocab_size)
    with torch.no_grad():
        assert (circuit.model(ids).logits[:, -1].argmax(-1) == expected).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_foundation_proves_them(name):
    model = flowgraph.load_model(MODELS[name]().model)
    # The library's RMSNorm and Llama's softmax compute in float32 whatever the model's type.
    assert max(model.proof.values()) < (1e-6 if name == "llama" else 1e-9)
