"""How the model goes on: its best token, again and again."""

from __future__ import annotations

from flowgraph import LoadedModel, Trace
from flowgraph.errors import ArgumentError, PromptError, UnsupportedReadingError

from ..server.answers import Generation
from ..server.questions import GenerateQuestion
from ..server.traces import Check, Traces, prompt_ids


def generate(traces: Traces, question: GenerateQuestion, check: Check) -> Generation:
    """Continue a prompt, taking the best token each time, until there are enough or the model ends the text."""
    loaded = traces.model(question.run.model, check)
    trace = traces.trace(question.run, check)
    start = trace.token_ids
    _refuse(loaded, len(start), question.count)
    made = _tokens(loaded, trace, question.count, check)
    # What ends the text is no part of it, and nothing can be run behind it.
    ended = bool(made) and made[-1] in _ends(loaded)
    made = made[:-1] if ended else made
    prompts = tuple(_prompt(loaded, question, [*start, *made[:n]], made[:n]) for n in range(len(made)))
    text = _text(loaded, question, list(start), made)
    return Generation(loaded.vocabulary.strings(made), tuple(made), text, prompts, ended)


def _refuse(loaded: LoadedModel, length: int, count: int) -> None:
    loaded.require_head("a continuation")
    if not loaded.anatomy.causal:
        raise UnsupportedReadingError(
            f"{loaded.name!r} is a masked language model, which fills gaps and does not go on with a text"
        )
    if loaded.tokenizer is None:
        raise ArgumentError(f"{loaded.name!r} has no tokenizer, so its tokens are no text")
    context = loaded.anatomy.context
    if context is not None and length + count > context:
        raise PromptError(
            f"the prompt has {length} tokens and {count} are asked for; {loaded.name!r} takes at most {context} together"
        )


def _tokens(loaded: LoadedModel, trace: Trace, count: int, check: Check) -> list[int]:
    """The best tokens one after another; keys and values of what was read are kept."""
    import torch

    made: list[int] = []
    past = None
    given = torch.tensor([trace.token_ids], device=loaded.device)
    types = trace.inputs.token_types
    # What is written belongs to the text that was read last.
    beside = {} if types is None else {"token_type_ids": torch.tensor([types], device=loaded.device)}
    for n in range(count):
        check("generating", n / count)
        with torch.no_grad(), loaded.lock:
            result = loaded.model(input_ids=given, **beside, past_key_values=past, use_cache=True)
        past = result.past_key_values
        made.append(int(result.logits[0, -1].argmax()))
        if made[-1] in _ends(loaded):
            break
        given = torch.tensor([made[-1:]], device=loaded.device)
        beside = {name: value[:, -1:] for name, value in beside.items()}
    return made


def _ends(loaded: LoadedModel) -> frozenset[int]:
    """Tokens that end a text."""
    configured = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured, loaded.tokenizer.eos_token_id]
    return frozenset(int(i) for i in ids if i is not None)


def _text(loaded: LoadedModel, question: GenerateQuestion, start: list[int], made: list[int]) -> str:
    """The prompt and what was added, as one text."""
    if question.run.chat:
        return str(loaded.tokenizer.decode([*start, *made], clean_up_tokenization_spaces=False))
    # Decoded together with the prompt, since some tokenizers drop a space at the start of a text.
    before = str(loaded.tokenizer.decode(start, clean_up_tokenization_spaces=False))
    whole = str(loaded.tokenizer.decode([*start, *made], clean_up_tokenization_spaces=False))
    return question.run.text + whole[len(before) :] if whole.startswith(before) else whole


def _prompt(loaded: LoadedModel, question: GenerateQuestion, ids: list[int], made: list[int]) -> str | None:
    """A text that the tokenizer cuts into exactly these tokens; None where there is none."""
    text = _text(loaded, question, ids[: len(ids) - len(made)], made)
    return text if prompt_ids(loaded, text, False) == ids else None
