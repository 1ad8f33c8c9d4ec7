"""Answers and prices in; tokens, time, GPU hours and dollars out, kept in `usage.json` over all starts of a stage."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.config import PriceConfig
from distill.records import Completion, JsonObject
from distill.run_dir import read_json, write_json

WRITE_EVERY_S = 5.0
MILLION = 1e6


@dataclass(slots=True)
class Tokens:
    """What a model read and wrote. `cached` counts prompt tokens out of the prefix cache; None until a server says any."""

    answers: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int | None = None

    def add(self, completions: tuple[Completion, ...], num_cached: int | None) -> None:
        """One answered request: its prompt was read once, whatever the number of samples."""
        self.answers += 1
        self.prompt += completions[0].num_prompt_tokens if completions else 0
        self.completion += sum(completion.num_completion_tokens for completion in completions)
        if num_cached is not None:
            self.cached = (self.cached or 0) + num_cached


@dataclass(slots=True)
class Usage:
    """What was used up before this start, by the file, and in this one. `began` counts GPU hours, `asked_since` the speed of answers."""

    path: Path
    price: PriceConfig
    earlier: list[dict[str, Any]]
    tokens: Tokens = field(default_factory=Tokens)
    began: float = field(default_factory=time.monotonic)
    began_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    asked_since: float = field(default_factory=time.monotonic)
    written: float = 0.0

    def start_asking(self) -> None:
        """The model is loaded; the first request goes out."""
        self.asked_since = time.monotonic()

    def add(self, completions: tuple[Completion, ...], num_cached: int | None) -> None:
        """A new answer. The file is at most `WRITE_EVERY_S` behind."""
        self.tokens.add(completions, num_cached)
        if time.monotonic() - self.written >= WRITE_EVERY_S:
            self.write()

    def note(self) -> str:
        """What stands behind a progress bar: tokens per second of this start, and what has been spent in all."""
        rate = self.tokens.completion / max(time.monotonic() - self.asked_since, 1e-6)
        usd = self.to_json()["usd"]
        return f"{rate:,.0f} tokens/s" + ("" if usd is None else f", ${usd:,.2f}")

    def projection(self, num_left: int) -> str:
        """What `num_left` more requests will take and cost if they are like those of this start, asked no faster."""
        if not self.tokens.answers:
            return ""
        share = num_left / self.tokens.answers
        seconds = (time.monotonic() - self.asked_since) * share
        ahead = Tokens(
            prompt=round(self.tokens.prompt * share),
            completion=round(self.tokens.completion * share),
            cached=None if self.tokens.cached is None else round(self.tokens.cached * share),
        )
        usd = usd_of(ahead, seconds, self.price)
        cost = "" if usd is None else f", at most about ${usd:,.2f}"
        return (
            f"{num_left} more: at most about {seconds / 60:,.0f} min, {ahead.prompt:,} prompt and {ahead.completion:,} "
            f"completion tokens{cost}"
        )

    def to_json(self) -> JsonObject:
        """All of it, and each start; GPU hours are those of `teacher.price.num_gpus`, from opening the teacher on."""
        starts = [*self.earlier, self._this_start()]
        cached = [start["cached_tokens"] for start in starts if start["cached_tokens"] is not None]
        tokens = Tokens(
            answers=sum(start["answers"] for start in starts),
            prompt=sum(start["prompt_tokens"] for start in starts),
            completion=sum(start["completion_tokens"] for start in starts),
            cached=sum(cached) if cached else None,
        )
        seconds = sum(start["seconds"] for start in starts)
        return {
            **_tokens_json(tokens),
            "seconds": round(seconds, 3),
            "gpu_hours": round(seconds / 3600 * self.price.num_gpus, 6),
            "usd": usd_of(tokens, seconds, self.price),
            "starts": [*starts],
        }

    def write(self) -> None:
        """Bring `usage.json` up to date, all or nothing."""
        self.written = time.monotonic()
        write_json(self.path, self.to_json())

    def _this_start(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self.began, 3)
        return {"began_at": self.began_at, "seconds": seconds, **_tokens_json(self.tokens)}


def open_usage(path: Path, price: PriceConfig) -> Usage:
    """Goes on counting where the file's last start stopped."""
    starts: Any = read_json(path)["starts"] if path.exists() else []
    return Usage(path, price, starts)


def _tokens_json(tokens: Tokens) -> JsonObject:
    return {
        "answers": tokens.answers,
        "prompt_tokens": tokens.prompt,
        "cached_tokens": tokens.cached,
        "completion_tokens": tokens.completion,
    }


def usd_of(tokens: Tokens, seconds: float, price: PriceConfig) -> float | None:
    """Dollars by the table; None if the table is empty. Cached tokens cost what the others do unless they have a price."""
    if price.usd_per_gpu_hour is None and not any(_token_prices(price)):
        return None
    read, cached, written = (value or 0.0 for value in _token_prices(price))
    num_cached = tokens.cached or 0 if price.usd_per_million_cached_tokens is not None else 0
    by_tokens = (tokens.prompt - num_cached) * read + num_cached * cached + tokens.completion * written
    by_hour = seconds / 3600 * price.num_gpus * (price.usd_per_gpu_hour or 0.0)
    return round(by_tokens / MILLION + by_hour, 6)


def _token_prices(price: PriceConfig) -> tuple[float | None, float | None, float | None]:
    return (
        price.usd_per_million_prompt_tokens,
        price.usd_per_million_cached_tokens,
        price.usd_per_million_completion_tokens,
    )
