"""What an engine is: requests in, completions out, in whatever order they are ready."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from distill.records import Completion, JsonObject, Message, Tool


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that the server renders itself; `tools` are those to be sent in a field of their own."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be completed `num_samples` times, or, with `scored_ids`, one whose continuation is scored and nothing written.

    `key` is a content hash of everything that determines the answer (model, prompt, sampling); the request log finds paid-for
    answers by it. `prompt_id` says for which prompt it is. `seed` is per request; sample `k` of an engine uses `seed + k`.
    `num_logprobs` is K, the likeliest tokens to be told at each place. The prompt is `prompt_ids`, or `chat` where the server renders.
    """

    key: str
    prompt_id: str
    prompt_ids: tuple[int, ...]
    num_samples: int
    sampling_temperature: float
    max_new_tokens: int
    seed: int
    num_logprobs: int = 0
    scored_ids: tuple[int, ...] | None = None
    sampling_parameters: JsonObject = field(default_factory=dict)
    chat: Chat | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: `num_samples` completions (one of the scored text), or the reason why there are none.

    `num_cached_tokens` of the prompt came out of the server's prefix cache; None where nobody says.
    """

    request: Request
    completions: tuple[Completion, ...]
    error: str | None
    num_cached_tokens: int | None = None


class Engine(Protocol):
    """Anything that turns prompts into completions."""

    @property
    def model(self) -> str:
        """The model's name, as recorded beside each annotation."""
        ...

    def complete(self, requests: Iterable[Request]) -> Iterator[Sequence[Answer]]:
        """Answer every request exactly once, in any order, in groups of what became ready at once. One bad request never stops the rest.

        Requests are taken as they are needed: an iterator over a million of them is not read ahead by more than what is under way.
        """
        ...

    def close(self) -> None:
        """Let go of the model or the connection."""
        ...
