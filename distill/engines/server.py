"""Token ids in, completions out, by an OpenAI-compatible server such as vLLM: the engine of teachers that run elsewhere.

All samples of a prompt travel in one request. Requests are sent in the order of their token ids, so that those which begin
alike (system message and tools) find that beginning in the server's prefix cache. Every sampling parameter that a server
would otherwise take from the model's `generation_config.json` is sent with its neutral value: what is sampled from is the
model's own distribution, as in the in-process engine.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, cast
from urllib.parse import urlsplit

import openai
from openai import AsyncOpenAI

from distill.config import ConfigError
from distill.engines.protocol import Answer, Request
from distill.records import Completion, FinishReason

MAX_RETRIES = 5  # by the openai client, on 408, 409, 429, 5xx and lost connections, 0.5 s, 1 s, ... 8 s apart
CHECK_TIMEOUT_S = 30.0
MAX_REASON_LENGTH = 500
PLACEHOLDER_KEY = "EMPTY"  # the client insists on a key, a server without one ignores it
KEY_VARIABLE = "the environment variable named by teacher.api_key_env"
FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}  # any other, such as abort, is a failure


def open_server(
    *,
    base_url: str,
    model: str,
    api_key: str | None,
    max_concurrency: int,
    request_timeout_s: float,
    stop_ids: tuple[int, ...],
) -> ServerEngine:
    """Connect to the server at `base_url` (ending in `/v1`, as a rule) and make sure that it serves `model`.

    At most `max_concurrency` requests are under way at once; `request_timeout_s` bounds each attempt. A completion ends at
    the model's own end of sequence or at any of `stop_ids`. Raises `ConfigError` if nobody answers there, the key is
    refused, or the model is not served.
    """
    _check_address(base_url)
    _check_key(api_key)
    client = AsyncOpenAI(
        base_url=base_url, api_key=api_key or PLACEHOLDER_KEY, timeout=request_timeout_s, max_retries=MAX_RETRIES
    )
    background = _Background()
    try:
        context_length = background.run(_served_context_length(client, base_url, model, has_key=bool(api_key)))
    except BaseException:
        _close(client, background)
        raise
    return ServerEngine(
        model=model,
        base_url=base_url,
        context_length=context_length,
        max_concurrency=max_concurrency,
        request_timeout_s=request_timeout_s,
        stop_ids=stop_ids,
        client=client,
        background=background,
    )


@dataclass(frozen=True, slots=True)
class ServerEngine:
    """An `Engine` over a server. `context_length` in tokens is the server's word, None if it says nothing."""

    model: str
    base_url: str
    context_length: int | None
    max_concurrency: int
    request_timeout_s: float
    stop_ids: tuple[int, ...]
    client: AsyncOpenAI = field(repr=False)
    background: _Background = field(repr=False)

    def complete(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answers as they arrive. What the server refuses or cannot answer becomes an `Answer` with `error`.

        An iterator that is dropped half-way cancels the requests that are still under way.
        """
        answers: SimpleQueue[Answer | None] = SimpleQueue()
        ordered = sorted(requests, key=lambda request: request.prompt_ids)
        work = asyncio.run_coroutine_threadsafe(self._answer_all(ordered, answers.put), self.background.loop)
        work.add_done_callback(lambda _: answers.put(None))
        try:
            while (answer := answers.get()) is not None:
                yield answer
            work.result()
        finally:
            work.cancel()

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        _close(self.client, self.background)

    async def _answer_all(self, requests: Sequence[Request], put: Callable[[Answer], None]) -> None:
        waiting = iter(requests)

        async def work() -> None:
            for request in waiting:
                put(await self._answer(request))

        await asyncio.gather(*(work() for _ in range(min(self.max_concurrency, len(requests)))))

    async def _answer(self, request: Request) -> Answer:
        needed = len(request.prompt_ids) + request.max_new_tokens
        if self.context_length is not None and needed > self.context_length:
            # vLLM would answer, with fewer tokens than were asked for and no word about it.
            error = f"needs {needed} tokens, the served context is {self.context_length}"
            return Answer(request=request, completions=(), error=error)
        try:
            return Answer(request=request, completions=await self._completions(request), error=None)
        except (openai.OpenAIError, ValueError) as error:
            return Answer(request=request, completions=(), error=self._reason(error))

    async def _completions(self, request: Request) -> tuple[Completion, ...]:
        # The usage block counts the tokens of all samples together; only the ids tell them apart.
        needs_ids = request.num_samples > 1
        response = await self.client.completions.with_raw_response.create(
            model=self.model,
            prompt=request.prompt_ids,
            n=request.num_samples,
            max_tokens=request.max_new_tokens,
            temperature=request.sampling_temperature,
            top_p=1.0,
            seed=request.seed,
            extra_body={
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "stop_token_ids": list(self.stop_ids),
                "skip_special_tokens": True,
                **({"return_token_ids": True} if needs_ids else {}),
            },
        )
        return _parse_completions(response.content, request)

    def _reason(self, error: Exception) -> str:
        if isinstance(error, openai.APITimeoutError):
            reason = f"no answer within {self.request_timeout_s:g} s, tried {MAX_RETRIES + 1} times"
        elif isinstance(error, openai.APIConnectionError):
            reason = f"no connection to {self.base_url} ({error.__cause__ or error}), tried {MAX_RETRIES + 1} times"
        elif isinstance(error, openai.APIStatusError):
            reason = f"HTTP {error.status_code}: {_server_message(error)}"
        else:
            reason = f"unusable answer from the server: {error}"
        return _without_key(reason, self.client.api_key)[:MAX_REASON_LENGTH]


class _Background:
    """An event loop in a thread of its own, so that requests go on while whoever asked is busy with an answer."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="distill-server-engine", daemon=True)
        self.thread.start()

    def run(self, coroutine: Any) -> Any:
        """The coroutine's result, computed on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def stop(self) -> None:
        """Cancel all tasks and end the thread."""
        self.run(_cancel_others())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _close(client: AsyncOpenAI, background: _Background) -> None:
    if background.loop.is_closed():
        return
    background.run(client.close())
    background.stop()


async def _served_context_length(client: AsyncOpenAI, base_url: str, model: str, *, has_key: bool) -> int | None:
    """The context length the server gives for `model`; `ConfigError` if the server cannot be used for it."""
    try:
        response = await client.with_options(timeout=CHECK_TIMEOUT_S, max_retries=1).models.with_raw_response.list()
        lengths = _parse_models(response.content)
    except (openai.OpenAIError, ValueError) as error:
        why = _why_no_models(error, has_key=has_key)
        raise ConfigError(_without_key(f"teacher.base_url {base_url}: {why}", client.api_key)) from None
    if model not in lengths:
        raise ConfigError(
            f"teacher.model {model!r}: the server at {base_url} serves {', '.join(map(repr, lengths)) or 'nothing'}; "
            f"set teacher.model to a served name (and teacher.tokenizer to the folder), or start vLLM with "
            f"--served-model-name {model}"
        )
    return lengths[model]


def _parse_models(body: bytes) -> dict[str, int | None]:
    """Served names and their context lengths (vLLM's `max_model_len`). `ValueError` if it is no list of models."""
    try:
        return {entry["id"]: entry.get("max_model_len") for entry in json.loads(body)["data"]}
    except (KeyError, TypeError, AttributeError):
        raise ValueError("not a list of models") from None


def _why_no_models(error: Exception, *, has_key: bool) -> str:
    if isinstance(error, openai.APIConnectionError):
        return (
            f"no server answers there ({error.__cause__ or error}); start it (`vllm serve MODEL`), "
            f"wait until it is ready, or correct the address"
        )
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        found = "refuses the API key" if has_key else "wants an API key and none was given"
        return f"the server {found} (HTTP {error.status_code}); put its key into {KEY_VARIABLE}"
    if isinstance(error, openai.InternalServerError):
        return f"the server answers with HTTP {error.status_code}; wait until it is ready, or see its log"
    found = f"HTTP {error.status_code}" if isinstance(error, openai.APIStatusError) else str(error)
    return (
        f"no list of models at /models there ({found}); give an OpenAI-compatible server's address, which ends in /v1"
    )


def _parse_completions(body: bytes, request: Request) -> tuple[Completion, ...]:
    """One `Completion` per sample, in the samples' order. `ValueError` says what is wrong with the body."""
    try:
        reply = json.loads(body)
        choices = sorted(reply["choices"], key=lambda choice: int(choice["index"]))
        total = int(reply["usage"]["completion_tokens"])
        unfinished = [choice["finish_reason"] for choice in choices if choice["finish_reason"] not in FINISH_REASONS]
        if unfinished:
            raise ValueError(f"a sample ended with {unfinished[0]!r}")
        completions = tuple(
            Completion(
                text=str(choice["text"]),
                finish_reason=FINISH_REASONS[choice["finish_reason"]],
                num_prompt_tokens=len(request.prompt_ids),
                num_completion_tokens=total if len(choices) == 1 else len(choice["token_ids"]),
            )
            for choice in choices
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"missing or of the wrong type: {error}; use vLLM 0.11 or newer, or what answers alike"
        ) from None
    if len(completions) != request.num_samples:
        raise ValueError(f"{len(completions)} completions where {request.num_samples} were asked for")
    return completions


def _server_message(error: openai.APIStatusError) -> str:
    body = error.body
    return str(body["message"]) if isinstance(body, dict) and "message" in body else error.message


def _without_key(text: str, key: str) -> str:
    """A server may repeat the key it refuses."""
    return text if key == PLACEHOLDER_KEY else text.replace(key, "[key]")


def _check_address(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"teacher.base_url {base_url!r}: not an address; write it like http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"teacher.base_url: holds a user name or password; take it out, a key goes into {KEY_VARIABLE}"
        )


def _check_key(api_key: str | None) -> None:
    # The HTTP library refuses such a header with a message that repeats it.
    if api_key and not all("!" <= character <= "~" for character in api_key):
        raise ConfigError(f"the API key holds white space or characters outside ASCII; check {KEY_VARIABLE}")
