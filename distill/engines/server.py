"""Requests in, completions out, by OpenAI-compatible servers such as vLLM: the engine of teachers that run elsewhere, or beside us.

All samples of a prompt travel in one request. Requests go out in the order given, so that those which begin alike can find that
beginning in the server's prefix cache. How many are under way follows from what a server takes (`pace`), which server gets the next
from what each has to do (`endpoints`). What may succeed when asked again is asked again.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, cast
from urllib.parse import urlsplit

import openai
from openai import AsyncOpenAI

from distill.config import ConfigError
from distill.engines.chat_wire import chat_body, parse_chat
from distill.engines.endpoints import Endpoint, Endpoints
from distill.engines.pace import Pace
from distill.engines.protocol import Answer, Request
from distill.engines.serving import Serving
from distill.engines.wire import Parsed, TornBody, completion_body, parse_completions

CHECK_TIMEOUT_S = 30.0
MAX_REASON_LENGTH = 500
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 16.0
MOST_LOSSES = 3
AHEAD = 2  # answers that may wait to be written, as a multiple of the requests that may be under way
BUSY = (429, 503)
GONE = (502, 504)  # a gateway says that nobody is behind it
WORTH_RETRYING = (408, 409, 500, *GONE)
LONGEST_RETRY_AFTER_S = 60.0
PLACEHOLDER_KEY = "EMPTY"  # the client insists on a key, a server without one ignores it
KEY_VARIABLE = "the environment variable named by teacher.api_key_env"


def open_server(
    *,
    base_urls: Sequence[str],
    model: str,
    api_key: str | None,
    max_concurrency: int,
    request_timeout_s: float,
    stop_ids: tuple[int, ...],
    max_attempts: int,
    wait_for_server_s: float,
    serving: Serving | None = None,
) -> ServerEngine:
    """Connect to the servers at `base_urls` (each ending in `/v1`, as a rule) and make sure that all serve `model`.

    At most `max_concurrency` requests are under way at each at once; `request_timeout_s` bounds each attempt, `max_attempts` what
    is tried of one request, and a server that is gone is waited for `wait_for_server_s`. A completion ends at the model's own end of
    sequence or at any of `stop_ids`. `serving` is the process behind the address if we started it; `close` stops it. Raises
    `ConfigError` if nobody answers there, the key is refused, or the model is not served.
    """
    _check_key(api_key)
    endpoints: list[Endpoint] = []
    background = _Background()
    try:
        lengths: list[int | None] = []
        for base_url in base_urls:
            _check_address(base_url)
            client = AsyncOpenAI(
                base_url=base_url,
                api_key=api_key or PLACEHOLDER_KEY,
                timeout=request_timeout_s,
                max_retries=0,
                # A server of our own is on this machine, where no HTTP_PROXY leads.
                http_client=None if serving is None else openai.DefaultAsyncHttpxClient(trust_env=False),
            )
            endpoints.append(Endpoint(base_url, client, Pace(max_concurrency), serving))
            lengths.append(background.run(_served_context_length(client, base_url, model, has_key=bool(api_key))))
    except BaseException:
        _close(endpoints, background)
        raise
    known = [length for length in lengths if length is not None]
    return ServerEngine(
        model=model,
        context_length=min(known) if known else None,
        request_timeout_s=request_timeout_s,
        stop_ids=stop_ids,
        max_attempts=max_attempts,
        endpoints=Endpoints(endpoints, wait_for_server_s=wait_for_server_s),
        background=background,
        serving=serving,
    )


@dataclass(frozen=True, slots=True)
class ServerEngine:
    """An `Engine` over servers. `context_length` in tokens is the servers' word, None if they say nothing."""

    model: str
    context_length: int | None
    request_timeout_s: float
    stop_ids: tuple[int, ...]
    max_attempts: int
    endpoints: Endpoints = field(repr=False)
    background: _Background = field(repr=False)
    serving: Serving | None = field(repr=False)

    def complete(self, requests: Iterable[Request]) -> Iterator[Sequence[Answer]]:
        """Answers as they arrive, all that came while the last were handled as one group.

        What a server refuses or cannot answer becomes an `Answer` with `error`; `DataError` if no server is left, after all answers
        that arrived. An iterator that is dropped half-way cancels the requests that are still under way.
        """
        answers: SimpleQueue[Answer | None] = SimpleQueue()
        room = asyncio.Semaphore(AHEAD * self._num_workers())
        loop = self.background.loop
        work = asyncio.run_coroutine_threadsafe(self._answer_all(iter(requests), answers.put, room), loop)
        work.add_done_callback(lambda _: answers.put(None))
        try:
            is_open = True
            while is_open:
                group, is_open = _next_group(answers)
                if group:
                    yield group
                    loop.call_soon_threadsafe(_release, room, len(group))
            work.result()
        finally:
            work.cancel()

    def close(self) -> None:
        """Cancel what is under way, close the connections, and stop the server that was started for this."""
        _close(self.endpoints.all, self.background)
        if self.serving is not None:
            self.serving.stop()

    def _num_workers(self) -> int:
        return sum(endpoint.pace.max_limit for endpoint in self.endpoints.all)

    async def _answer_all(
        self, waiting: Iterator[Request], put: Callable[[Answer], None], room: asyncio.Semaphore
    ) -> None:
        async def work() -> None:
            while True:
                await room.acquire()
                place = await self.endpoints.take()
                try:
                    # Taken only now, so that nothing is read, rendered and held that cannot be sent.
                    request = next(waiting, None)
                except BaseException:
                    self.endpoints.give_back(place[0])
                    raise
                if request is None:
                    self.endpoints.give_back(place[0])
                    room.release()
                    return
                put(await self._answer(request, *place))

        tasks = [asyncio.create_task(work()) for _ in range(self._num_workers())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, request: Request, endpoint: Endpoint, number: int) -> Answer:
        """Attempts until one succeeds, one fails for good, or too many failed; the first on a place that is taken already."""
        too_long = self._why_too_long(request)
        if too_long is not None:
            self.endpoints.give_back(endpoint)
            return _failed(request, too_long)
        tries = _Tries()
        while True:
            try:
                completions, cached = await self._attempt(request, endpoint)
                endpoint.pace.succeed()
                return Answer(request=request, completions=completions, error=None, num_cached_tokens=cached)
            except (openai.OpenAIError, ValueError, asyncio.TimeoutError) as error:
                problem: Exception = error
                if _is_pushed_back(error):
                    endpoint.pace.push_back(number)
                if _is_busy(error):
                    self.endpoints.leave_alone(endpoint, _retry_after_s(error))
            finally:
                self.endpoints.give_back(endpoint)
            is_gone = _is_lost(problem) and not await self.endpoints.is_back(endpoint)
            why = tries.why_end(problem, is_gone=is_gone, engine=self)
            if why is not None:
                return _failed(request, f"{self._reason(problem, endpoint)}{why}")
            await asyncio.sleep(tries.pause_s())
            endpoint, number = await self.endpoints.take(again=True)

    def _why_too_long(self, request: Request) -> str | None:
        """vLLM would answer, with fewer tokens than were asked for and no word about it."""
        written = request.max_new_tokens if request.scored_ids is None else len(request.scored_ids) + 1
        needed = len(request.prompt_ids) + written
        if self.context_length is None or needed <= self.context_length or request.chat is not None:
            return None
        return f"needs {needed} tokens, the served context is {self.context_length}"

    async def _attempt(self, request: Request, endpoint: Endpoint) -> Parsed:
        is_chat = request.chat is not None
        body = (
            chat_body(request, model=self.model)
            if is_chat
            else completion_body(request, model=self.model, stop_ids=self.stop_ids)
        )
        sent = endpoint.client.post(
            "/chat/completions" if is_chat else "/completions", body=body, cast_to=openai.HttpxBinaryResponseContent
        )
        # The client's own limit bounds each read, and a slow drip never ends.
        response = await asyncio.wait_for(sent, self.request_timeout_s)
        return parse_chat(response.content, request) if is_chat else parse_completions(response.content, request)

    def _reason(self, error: Exception, endpoint: Endpoint) -> str:
        if isinstance(error, asyncio.TimeoutError | openai.APITimeoutError):
            reason = f"no answer within {self.request_timeout_s:g} s"
        elif isinstance(error, openai.APIConnectionError):
            reason = f"no connection to {endpoint.base_url} ({error.__cause__ or error})"
        elif isinstance(error, openai.APIStatusError):
            reason = f"HTTP {error.status_code}: {_server_message(error)}"
        else:
            reason = f"unusable answer from the server: {error}"
        return _without_key(reason, endpoint.client.api_key)[:MAX_REASON_LENGTH]


def _failed(request: Request, reason: str) -> Answer:
    return Answer(request=request, completions=(), error=reason)


def _next_group(answers: SimpleQueue[Answer | None]) -> tuple[list[Answer], bool]:
    """All that is ready, at least one, and whether more may come."""
    group: list[Answer] = []
    answer = answers.get()
    while answer is not None:
        group.append(answer)
        try:
            answer = answers.get_nowait()
        except Empty:
            return group, True
    return group, False


@dataclass(slots=True)
class _Tries:
    """What was tried of one request. Only attempts that say something about the request are counted against it."""

    attempts: int = 0
    num_busy: int = 0
    num_losses: int = 0
    busy_since: float | None = None

    def why_end(self, error: Exception, *, is_gone: bool, engine: ServerEngine) -> str | None:
        """None if another attempt may succeed, else how often was tried."""
        now = time.monotonic()
        if _is_busy(error):
            self.num_busy += 1
            self.busy_since = now if self.busy_since is None else self.busy_since
            waited_s = now - self.busy_since
            return f", tried for {waited_s:.0f} s" if waited_s > engine.endpoints.wait_for_server_s else None
        self.num_busy, self.busy_since = 0, None
        if is_gone:
            self.num_losses += 1
            return f", lost {MOST_LOSSES} times while it was answered" if self.num_losses == MOST_LOSSES else None
        self.attempts += 1
        if not _is_passing(error):
            return ""
        return f", tried {self.attempts} times" if self.attempts >= engine.max_attempts else None

    def pause_s(self) -> float:
        """Longer after each failure, and never the same for two requests."""
        failures = max(self.attempts, self.num_busy, self.num_losses, 1)
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


def _is_busy(error: Exception) -> bool:
    return isinstance(error, openai.APIStatusError) and error.status_code in BUSY


def _is_pushed_back(error: Exception) -> bool:
    return _is_busy(error) or isinstance(error, asyncio.TimeoutError | openai.APITimeoutError)


def _is_lost(error: Exception) -> bool:
    """Whether the server may be gone."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in GONE
    return isinstance(error, openai.APIConnectionError)


def _is_passing(error: Exception) -> bool:
    """Whether another attempt may end otherwise."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in WORTH_RETRYING or error.status_code > 504
    return isinstance(error, openai.APIConnectionError | asyncio.TimeoutError | TornBody)


def _retry_after_s(error: Exception) -> float:
    """What the server asks for, in seconds, a minute at most; 0 if nothing, or a date, which is seldom near."""
    assert isinstance(error, openai.APIStatusError)
    try:
        return min(LONGEST_RETRY_AFTER_S, max(0.0, float(error.response.headers.get("retry-after", "0"))))
    except ValueError:
        return 0.0


def _release(room: asyncio.Semaphore, count: int) -> None:
    for _ in range(count):
        room.release()


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


def _close(endpoints: Sequence[Endpoint], background: _Background) -> None:
    if background.loop.is_closed():
        return
    for endpoint in endpoints:
        background.run(endpoint.client.close())
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
