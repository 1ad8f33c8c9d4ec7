"""Prompts with a user's own answers in; which of them are shown to the teacher before another prompt's request, out.

Only answers for the same tools are shown, and for one list of tools always the same few, so that what stands before a request stays a
shared prefix. A prompt never sees its own answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distill.records import Message, Prompt, content_id


@dataclass(frozen=True, slots=True)
class GoldenExamples:
    """`shown` holds, for each list of tools, one more than are shown: exchanges by the id of their prompt, in the order of showing."""

    shown: dict[str, tuple[tuple[str, Message, Message], ...]]
    num_shown: int

    def before(self, prompt: Prompt) -> tuple[Message, ...]:
        """The prompt's messages with the golden exchanges behind its system text; unchanged if there are none for its tools."""
        found = [
            exchange
            for exchange in self.shown.get(_tools_key(prompt), ())
            if exchange[0] != prompt.id and exchange[1].content not in {message.content for message in prompt.messages}
        ]
        turns = [turn for _, request, reply in found[: self.num_shown] for turn in (request, reply)]
        first = num_system(prompt.messages)
        return (*prompt.messages[:first], *turns, *prompt.messages[first:])


def choose_golden(prompts: Iterable[Prompt], *, num_shown: int, seed: int) -> GoldenExamples:
    """The examples to show: of the training prompts with a user's own answer and one request, for each list of tools."""
    kept: dict[str, list[tuple[str, str, Message, Message]]] = {}
    for prompt in prompts:
        given = prompt.given_reply
        if given is None or given.model is not None or prompt.split != "train" or not _is_one_request(prompt.messages):
            continue
        rank = content_id(seed, "golden", prompt.id)
        exchanges = kept.setdefault(_tools_key(prompt), [])
        exchanges.append((rank, prompt.id, prompt.messages[-1], Message("assistant", given.text)))
        exchanges.sort(key=lambda exchange: exchange[0])
        del exchanges[num_shown + 1 :]
    return GoldenExamples({key: tuple(exchange[1:] for exchange in found) for key, found in kept.items()}, num_shown)


def num_system(messages: Sequence[Message]) -> int:
    """How many system messages a conversation begins with."""
    return next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))


def _is_one_request(messages: Sequence[Message]) -> bool:
    return [message.role for message in messages if message.role != "system"] == ["user"]


def _tools_key(prompt: Prompt) -> str:
    return content_id([[tool.name, tool.description, tool.parameters] for tool in prompt.tools])
