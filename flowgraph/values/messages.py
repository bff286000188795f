"""Turns of a chat, checked one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import PromptError
from ..models.vocabulary import valid_text
from .mixed import IMAGE_PART
from .row import Message
from .whole_numbers import is_list, shown_value


def is_message(value: Any) -> bool:
    """Whether a value looks like a turn of a chat."""
    return isinstance(value, Mapping) and "role" in value and ("content" in value or "tool_calls" in value)


def turns_of(chat: Any) -> tuple[Message, ...]:
    """The turns of one chat.

    Raises
    ------
    PromptError
        If there are none, or one of them is no turn of plain data.
    """
    if not is_list(chat) or not chat:
        raise PromptError(f"messages= holds {shown_value(chat)}; expected a list of dicts with 'role' and 'content'")
    for number, turn in enumerate(chat):
        if not is_message(turn) or not isinstance(turn["role"], str):
            raise PromptError(f"messages[{number}] is {shown_value(turn)}; expected a dict with 'role' and 'content'")
        content = turn.get("content")
        if content is None and turn.get("tool_calls"):
            content = []  # whether a turn may only call tools is for the chat template to say
        parts = [content] if isinstance(content, str) else content if is_list(content) else None
        fitting = parts is not None and all(isinstance(p, str) or _is_text_part(p) or p == IMAGE_PART for p in parts)
        if not fitting:
            raise PromptError(
                f"messages[{number}]['content'] is {shown_value(content)}; expected a text, None beside tool_calls, or a list of "
                "{'type': 'text', 'text': …} and {'type': 'image'}, with image= for the images themselves"
            )
        for part in parts or ():
            if part != IMAGE_PART:
                valid_text(part if isinstance(part, str) else part["text"])
        try:
            # A template may put any part of a turn into the prompt, and a file has to hold it.
            json.dumps(dict(turn))
        except (TypeError, ValueError) as error:
            raise PromptError(f"messages[{number}] holds what is no plain data: {error}") from error
    return tuple(dict(turn) for turn in chat)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
