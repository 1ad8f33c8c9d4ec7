"""Servers of one model in, a place for the next request out: at the one with the least to do, none at one that is gone.

A server that does not answer is asked every second whether it is back, and started again if it is ours. What waits for a place waits
with it; `ServerGoneError` ends the wait.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import openai
from openai import AsyncOpenAI

from distill.engines.pace import Pace
from distill.engines.serving import Serving
from distill.records import DataError

PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_S = 10.0


class ServerGoneError(DataError):
    """No server is left that answers."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One server: its client, its pace, whether it answers, until when it wants to be left alone, and its process if we started it."""

    base_url: str
    client: AsyncOpenAI = field(repr=False)
    pace: Pace
    serving: Serving | None = None
    is_up: bool = True
    is_lost: bool = False
    not_before: float = 0.0
    checking: asyncio.Task[bool] | None = None


Place = tuple[Endpoint, int]


class Endpoints:
    """All servers. `await take()` gives one that has room and the number of the request on it; `give_back` ends the request.

    Places are handed over in turn, first to requests that are tried again, so that none of them waits behind all new ones.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, wait_for_server_s: float) -> None:
        self.all = tuple(endpoints)
        self.wait_for_server_s = wait_for_server_s
        self.again: deque[asyncio.Future[Place]] = deque()
        self.waiting: deque[asyncio.Future[Place]] = deque()
        self.failure: Exception | None = None

    async def take(self, *, again: bool = False) -> Place:
        """Waits until one has room. Raises `ServerGoneError` once all are lost."""
        turn: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        (self.again if again else self.waiting).append(turn)
        self._hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(turn.result()[0])
            raise

    def give_back(self, endpoint: Endpoint) -> None:
        """The request is over; its place is free."""
        endpoint.pace.end()
        self._hand_out()

    def leave_alone(self, endpoint: Endpoint, seconds: float) -> None:
        """The server asked for a pause: nothing new goes there until it is over."""
        loop = asyncio.get_running_loop()
        endpoint.not_before = max(endpoint.not_before, loop.time() + seconds)
        loop.call_later(seconds, self._hand_out)

    async def is_back(self, endpoint: Endpoint) -> bool:
        """Whether the server answers at once after a lost connection. If not, nothing goes there until it does.

        Requests that lose their connections together share one check.
        """
        if endpoint.checking is None:
            endpoint.is_up = False
            endpoint.checking = asyncio.create_task(self._revive(endpoint))
        return await asyncio.shield(endpoint.checking)

    async def _revive(self, endpoint: Endpoint) -> bool:
        try:
            if await _answers(endpoint):
                return True
            try:
                await self._wait_for(endpoint)
            except DataError as error:
                self._lose(endpoint, error)
            return False
        finally:
            endpoint.is_up = not endpoint.is_lost
            endpoint.checking = None
            self._hand_out()

    async def _wait_for(self, endpoint: Endpoint) -> None:
        print(f"teacher: {endpoint.base_url} does not answer; waiting for it", file=sys.stderr, flush=True)
        started = time.monotonic()
        while not await _answers(endpoint):
            if endpoint.serving is not None and endpoint.serving.has_ended():
                await asyncio.to_thread(endpoint.serving.restart)
                started = time.monotonic()
            elif time.monotonic() - started > self.wait_for_server_s:
                raise ServerGoneError(
                    f"{endpoint.base_url}: no server has answered there for {self.wait_for_server_s:g} s "
                    "(teacher.wait_for_server_s). What it answered before is kept; start it and go on with the same command"
                )
            else:
                await asyncio.sleep(PROBE_EVERY_S)

    def _lose(self, endpoint: Endpoint, error: DataError) -> None:
        endpoint.is_lost = True
        if all(other.is_lost for other in self.all):
            self.failure = error
        else:
            print(f"teacher: goes on without {endpoint.base_url}: {error}", file=sys.stderr, flush=True)

    def _hand_out(self) -> None:
        """Give every place that is free to the next in turn."""
        for turns in (self.again, self.waiting):
            while turns:
                if turns[0].done():
                    turns.popleft()
                elif self.failure is not None:
                    turns.popleft().set_exception(self.failure)
                elif (endpoint := self._freest()) is not None:
                    turns.popleft().set_result((endpoint, endpoint.pace.start()))
                else:
                    return

    def _freest(self) -> Endpoint | None:
        now = asyncio.get_running_loop().time()
        free = [e for e in self.all if e.is_up and e.not_before <= now and e.pace.has_room()]
        return min(free, key=lambda endpoint: endpoint.pace.outstanding) if free else None


async def _answers(endpoint: Endpoint) -> bool:
    try:
        await endpoint.client.with_options(timeout=PROBE_TIMEOUT_S, max_retries=0).models.list()
    except openai.APIStatusError as error:
        return error.status_code < 500
    except openai.OpenAIError:
        return False
    return True
