"""What an engine is: requests in, completions out, in whatever order they are ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from distill.records import Completion


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be completed `num_samples` times.

    `key` is a content hash of everything that determines the answer (model, token ids, sampling); the request log finds paid-for
    answers by it. `prompt_id` says for which prompt it is. `seed` is per request; sample `k` of an engine uses `seed + k`.
    """

    key: str
    prompt_id: str
    prompt_ids: tuple[int, ...]
    num_samples: int
    sampling_temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: `num_samples` completions, or the reason why there are none."""

    request: Request
    completions: tuple[Completion, ...]
    error: str | None


class Engine(Protocol):
    """Anything that turns prompts into completions."""

    @property
    def model(self) -> str:
        """The model's name, as recorded beside each annotation."""
        ...

    def complete(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answer every request exactly once, in any order, as soon as each is ready. One bad request never stops the rest."""
        ...

    def close(self) -> None:
        """Let go of the model or the connection."""
        ...
