"""A sample of every type that transformers builds: each kind that once crashed, was opened as another model, or lost its head."""

from __future__ import annotations

import pytest
import transformers

from tests.every_type import classes, outcomes

SAMPLE = {
    "causal": {
        "afmoe", "bamba", "bart", "beam", "bert", "bert-generation", "bloom", "camembert", "ernie4_5_moe", "exaone", "exaone_moe",
        "flint", "gemma3n_text", "gemma4_text", "glm4_moe", "gpt_bigcode", "hy_v3", "laguna", "llama", "mamba", "mimo_v2_flash",
        "mixtral", "olmo", "rwkv", "sarvam_moe", "whisper",
    },
    "masked": {"albert", "camembert", "data2vec-text", "deberta-v2", "electra", "esmc", "roberta", "xmod"},
    "pretraining": {"bert", "colpali", "electra"},
    "sequences": {"blenderbot", "m2m_100", "marian", "pegasus", "t5"},
    "speech": {"whisper"},
    "images and text": {"got_ocr2", "idefics", "internvl", "llava", "mllama", "paligemma", "qwen2_vl"},
    "classifier": {"bert", "gpt2", "llama", "t5"},
    "base": {"clip", "roberta", "timesfm"},
    "images": {"vit"},
    "letters from sound": {"wav2vec2"},
}  # fmt: skip
"""Task → types, of :data:`tests.every_type.TASKS`; a type that a release does not have is passed over."""

_BUILT = 40
"""So many of them can be built with every release that is supported."""


@pytest.mark.slow
def test_a_sample_of_every_kind():
    """Each opens as itself, from memory and from a folder alike, or is refused in our own words."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        found = [outcome for outcome in outcomes(classes(SAMPLE)) if outcome.result not in ("not built", "not saved")]
    finally:
        transformers.logging.set_verbosity(verbosity)
    faults = [f"{one.kind} ({one.source}): {one.said}" for one in found if one.result == "fault"]
    assert not faults, "\n".join(faults)
    assert sum(one.source == "memory" for one in found) >= _BUILT
    assert {one.result for one in found} == {"opens", "opens, no head", "opens, head not read", "refused"}
    for one in found:
        if one.result == "refused":
            assert one.kind in one.said, one
