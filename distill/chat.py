"""Conversations in, token ids (and the loss mask) out: the one rendering for teacher prompts, training, evaluation and serving.

Llama 3's wire format, written with the tokenizer's own special tokens. A header opens each turn, `<|eot_id|>` closes it, contents
are stripped of outer white space as in Meta's reference encoder and in the models' chat templates. A date line is
added only where one is given. Text inside a message that looks like a special token stays text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from distill.records import DataError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Tokenizer: TypeAlias = "PreTrainedTokenizerFast"

BEGIN_OF_TEXT = "<|begin_of_text|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_TURN = "<|eot_id|>"
END_OF_MESSAGE = "<|eom_id|>"
END_OF_TEXT = "<|end_of_text|>"
SPECIAL_TOKENS = (BEGIN_OF_TEXT, END_OF_TEXT, START_HEADER, END_HEADER, END_OF_TURN, END_OF_MESSAGE)

HEADERS = {"system": "system", "user": "user", "assistant": "assistant", "tool": "ipython"}


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """`input_ids` of a whole conversation and `loss_mask` of equal length: 1 on the reply's tokens and its end of turn, else 0."""

    input_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]


def prompt_ids(messages: Sequence[Message], tokenizer: Tokenizer, *, date_line: str | None = None) -> list[int]:
    """Token ids of a conversation up to and including the assistant's header: what a model continues.

    With `date_line`, such as `26 Jul 2024`, the system text begins as Llama 3.1's own chat template has it begin.
    """
    special = _special_ids(tokenizer)
    ids = [special[BEGIN_OF_TEXT]]
    for name, text in _turns(messages, date_line):
        ids += _header_ids(name, special, tokenizer)
        ids += _text_ids("\n\n" + text, tokenizer)
        ids.append(special[END_OF_TURN])
    return ids + _header_ids("assistant", special, tokenizer) + _text_ids("\n\n", tokenizer)


def example_ids(messages: Sequence[Message], reply: str, tokenizer: Tokenizer) -> TokenizedExample:
    """Token ids of a prompt and its reply. `prompt_ids` of the same messages is a prefix; the mask covers exactly the rest."""
    before = prompt_ids(messages, tokenizer)
    after = reply_ids(reply, tokenizer)
    return TokenizedExample(input_ids=(*before, *after), loss_mask=(*(0 for _ in before), *(1 for _ in after)))


def reply_ids(reply: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of what a model writes behind a prompt: the reply and its end of turn."""
    return (*_text_ids(reply.strip(), tokenizer), _special_ids(tokenizer)[END_OF_TURN])


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids that end an assistant's turn."""
    special = _special_ids(tokenizer)
    return (special[END_OF_TURN], special[END_OF_MESSAGE], special[END_OF_TEXT])


def why_unusable(tokenizer: Tokenizer) -> str | None:
    """None if the tokenizer has Llama 3's special tokens, else a sentence naming the missing ones."""
    missing = [token for token in SPECIAL_TOKENS if _special_id(token, tokenizer) is None]
    if not missing:
        return None
    return f"the tokenizer lacks {', '.join(missing)}; use a model with Llama 3's tokenizer and chat format"


def _special_id(token: str, tokenizer: Tokenizer) -> int | None:
    found = tokenizer.convert_tokens_to_ids(token)
    # A tokenizer with an unknown token gives that one's id, and may encode the whole text to it as well.
    if not isinstance(found, int) or tokenizer.convert_ids_to_tokens(found) != token:
        return None
    if tokenizer.encode(token, add_special_tokens=False, split_special_tokens=False) != [found]:
        return None
    return found


def _special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    key = id(tokenizer)
    cached = _SPECIAL_IDS.get(key)
    if cached is not None and cached[0] is tokenizer:
        return cached[1]
    why = why_unusable(tokenizer)
    if why is not None:
        raise DataError(why)
    found = {token: found for token in SPECIAL_TOKENS if (found := _special_id(token, tokenizer)) is not None}
    _SPECIAL_IDS[key] = (tokenizer, found)
    return found


_SPECIAL_IDS: dict[int, tuple[Tokenizer, dict[str, int]]] = {}


def _turns(messages: Sequence[Message], date_line: str | None) -> list[tuple[str, str]]:
    turns = [(HEADERS[message.role], message.content.strip()) for message in messages]
    if date_line is not None:
        said = turns.pop(0)[1] if turns and turns[0][0] == "system" else ""
        turns.insert(0, ("system", f"Cutting Knowledge Date: December 2023\nToday Date: {date_line}\n\n{said}"))
    return turns


def _header_ids(name: str, special: dict[str, int], tokenizer: Tokenizer) -> list[int]:
    return [special[START_HEADER], *_text_ids(name, tokenizer), special[END_HEADER]]


def _text_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids
