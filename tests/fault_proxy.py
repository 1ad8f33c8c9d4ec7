"""A server's address in, a proxy before it out that spoils answers at given rates and logs every request; a process of its own.

`running_proxy` starts it. The log has a JSON line for each request, written when it ends, `LoggedRequest` says what stands in it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, TextIO

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict

STATUS_FAULTS = {"429": 429, "429_retry_after": 429, "500": 500, "503": 503}
LOST_FAULTS = ("dropped_before", "dropped_in_body", "drip", "hang", "truncated")
FAULTS = (*STATUS_FAULTS, *LOST_FAULTS)
UNHARMED = ("/health", "/v1/models")
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}
DRIP_EVERY_S = 0.5  # no single read waits long enough for a deadline of its own
LONGEST_S = 120.0  # of a hang or drip, were a client to wait for ever
MAX_BODY_BYTES = 64 << 20


@dataclass
class LoggedRequest:
    """What the log says of a request; times are of the machine's monotonic clock, which processes share.

    `body` and `prompt` are `json_hash` of the request's body and of its `prompt` (or `messages`), None where it has none.
    `handed_over_at` is None unless the client was given the whole answer of the server. `status` is what the client was told.
    """

    received_at: float
    method: str
    path: str
    body: str | None = None
    prompt: str | None = None
    fault: str | None = None
    status: int | None = None
    handed_over_at: float | None = None


@dataclass(frozen=True, slots=True)
class FaultProxy:
    """A running proxy: the address to give as `base_url`, and its log."""

    base_url: str
    log: Path

    def requests(self) -> list[LoggedRequest]:
        """Every request that has ended so far, in the order of their ends."""
        return [LoggedRequest(**json.loads(line)) for line in self.log.read_text().splitlines()]


@contextmanager
def running_proxy(upstream: str, log: Path, *, rates: Mapping[str, float], seed: int = 0) -> Iterator[FaultProxy]:
    """A proxy before `upstream`, such as `http://127.0.0.1:8000`; `rates` gives a fault's share of the requests."""
    command = [sys.executable, __file__, upstream, str(log), "--rates", json.dumps(dict(rates)), "--seed", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        assert port, f"the proxy did not start, exit code {process.wait()}"
        yield FaultProxy(f"http://127.0.0.1:{port}/v1", log)
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


def json_hash(value: Any) -> str:
    """SHA-256 of a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _Proxy:
    """Holds the connections to the server, the log, and how often each request was seen, from which its fault follows."""

    def __init__(self, upstream: str, log: TextIO, rates: Mapping[str, float], seed: int) -> None:
        unknown = set(rates) - set(FAULTS)
        assert not unknown and sum(rates.values()) <= 1, f"{unknown or rates}; the faults are {FAULTS}"
        self.upstream, self.log, self.rates, self.seed = upstream, log, rates, seed
        self.seen: Counter[str] = Counter()
        self.session = ClientSession(
            connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None), auto_decompress=False
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        entry = LoggedRequest(received_at=time.monotonic(), method=request.method, path=request.path)
        try:
            body = await request.read()
            self._identify(entry, body)
            return await self._answer(request, body, entry)
        finally:  # also when the client has gone, which cancels this
            self.log.write(json.dumps(asdict(entry)) + "\n")
            self.log.flush()

    def _identify(self, entry: LoggedRequest, body: bytes) -> None:
        with suppress(ValueError, AttributeError):  # no JSON, or no object
            value = json.loads(body)
            entry.body = json_hash(value)
            entry.prompt = json_hash(value.get("prompt", value.get("messages")))
        if entry.path not in UNHARMED:
            identity = f"{self.seed} {entry.path} {entry.body}"
            self.seen[identity] += 1
            entry.fault = _draw_fault(Random(f"{identity} {self.seen[identity]}"), self.rates)

    async def _answer(self, request: web.Request, body: bytes, entry: LoggedRequest) -> web.StreamResponse:
        if entry.fault in STATUS_FAULTS:
            return _refusal(entry)
        if entry.fault == "hang":
            await asyncio.sleep(LONGEST_S)
        if entry.fault in ("hang", "dropped_before"):
            return _drop(request)
        try:
            status, headers, answer = await self._ask(request, body)
        except (ClientError, OSError):
            return _drop(request)  # as where nobody listens
        entry.status = status
        if entry.fault is None:
            return await _hand_over(request, web.Response(status=status, headers=headers, body=answer), entry)
        if entry.fault == "truncated":
            return web.Response(status=status, headers=headers, body=answer[: len(answer) // 2])
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(answer)
        await response.prepare(request)
        if entry.fault == "drip":
            await _drip(response, answer)
        else:
            await response.write(answer[: len(answer) // 2])
        return _drop(request, response)

    async def _ask(self, request: web.Request, body: bytes) -> tuple[int, CIMultiDict[str], bytes]:
        async with self.session.request(
            request.method,
            self.upstream + request.raw_path,
            headers=_end_to_end(request.headers),
            data=body,
            skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
            allow_redirects=False,
        ) as answer:
            return answer.status, _end_to_end(answer.headers), await answer.read()


def _draw_fault(random: Random, rates: Mapping[str, float]) -> str | None:
    point = random.random()
    for fault, rate in rates.items():
        if point < rate:
            return fault
        point -= rate
    return None


def _refusal(entry: LoggedRequest) -> web.Response:
    entry.status = STATUS_FAULTS[str(entry.fault)]
    headers = {"Retry-After": "1"} if entry.fault == "429_retry_after" else {}
    message = {"error": {"message": "injected by the proxy", "type": "fault", "code": entry.status}}
    return web.json_response(message, status=entry.status, headers=headers)


async def _hand_over(request: web.Request, response: web.Response, entry: LoggedRequest) -> web.Response:
    await response.prepare(request)
    await response.write_eof()
    entry.handed_over_at = time.monotonic()
    return response


async def _drip(response: web.StreamResponse, answer: bytes) -> None:
    """The last byte never comes."""
    for index in range(min(len(answer) - 1, int(LONGEST_S / DRIP_EVERY_S))):
        await response.write(answer[index : index + 1])
        await asyncio.sleep(DRIP_EVERY_S)


def _drop(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Close the connection after what was written; the response is for the web server, which finds nobody to send it to."""
    if request.transport is not None:
        request.transport.close()
    return response or web.Response()


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


async def _serve(arguments: argparse.Namespace) -> None:
    with Path(arguments.log).open("a", encoding="utf-8") as log:
        proxy = _Proxy(arguments.upstream, log, json.loads(arguments.rates), arguments.seed)
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()
        await runner.cleanup()
        await proxy.session.close()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("upstream", help="such as http://127.0.0.1:8000")
    parser.add_argument("log", help="appended to")
    parser.add_argument("--rates", default="{}", help=f"JSON, shares of {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_serve(_parse_arguments()))
