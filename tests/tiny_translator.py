"""A T5 of two layers that has learned, in seconds, to put English words into German ones: an encoder–decoder whose answers are known."""

from __future__ import annotations

from functools import cache
from itertools import product

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

import flowgraph

WORDS = (
    {"the": "das", "a": "ein"}, {"house": "haus", "child": "kind", "book": "buch", "car": "auto"},
    {"is": "ist", "was": "war"}, {"small": "klein", "old": "alt", "new": "neu", "good": "gut"},
)  # fmt: skip
"""Place in a sentence → English word → German word."""
PAIRS = [
    (" ".join(words), " ".join(one[word] for one, word in zip(WORDS, words, strict=True))) for words in product(*WORDS)
]
"""Every sentence in both languages."""


def _tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for one in WORDS for pair in one.items() for word in pair)]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@cache
def translator() -> flowgraph.LoadedModel:
    """The model, trained on all sentences but those with *old car*."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2,
            dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    learned = [pair for pair in PAIRS if not ("old" in pair[0] and "car" in pair[0])]
    source, target = (tokenizer([pair[n] for pair in learned], return_tensors="pt").input_ids for n in (0, 1))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model(input_ids=source, labels=target).loss.backward()
        optimizer.step()
    return flowgraph.load_model((model.eval(), tokenizer))
