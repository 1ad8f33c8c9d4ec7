"""A stub server, a real vLLM and made-up prompts in; what asking a teacher costs the client, how fast it is, and in how much memory, out.

The client's CPU time stands beside that of the bare openai client asking for the same, answered by a stub after a fixed delay. Requests per
second stand beside those of vLLM's own serving benchmark, on one server in turn. The memory is that of the whole `annotate` stage.

As a script: `stub` serves, `costs` measures the clients against a server.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, cast

import yaml
from openai import AsyncOpenAI

ROOT = Path(__file__).resolve().parents[1]
# Started as a file, a script finds no modules but those of its own folder.
sys.path[:0] = [str(ROOT)]

from distill.chat import prompt_ids  # noqa: E402
from distill.config import model_path  # noqa: E402
from distill.embedded.customer import SYSTEM  # noqa: E402
from distill.engines.protocol import Engine, Request  # noqa: E402
from distill.engines.request_log import open_log  # noqa: E402
from distill.engines.requests import prefix_order  # noqa: E402
from distill.engines.server import open_server  # noqa: E402
from distill.engines.tokenizer import load_tokenizer  # noqa: E402
from distill.engines.wire import completion_body  # noqa: E402
from distill.records import JsonObject, Message, Prompt, content_id  # noqa: E402
from distill.run_dir import finish_stage, start_stage, write_stage_rows  # noqa: E402
from distill.sources.bedrock_jsonl import read_bedrock_jsonl  # noqa: E402
from distill.sources.files import input_file, read_lines  # noqa: E402
from distill.sources.record import SourceRecord  # noqa: E402
from distill.sources.tools_in_text import find_tools  # noqa: E402
from scripts.bench_prompts import write_records  # noqa: E402
from tests.vllm_server import VLLM_ENVIRONMENT, VllmServer, vllm_servers  # noqa: E402

TEACHER = "embedded:teacher"
BFCL = ROOT.parent / "shared" / "data" / "bfcl"
STUB_MODEL = "stub"
NUM_ROUNDS = 5
NUM_WARMUP = 128
IN_FLIGHT = 64
STUB_DELAY_S = 0.05
STUB_CONTEXT = 131072
VOCABULARY = 128_000
STOP_IDS = (128_001, 128_008, 128_009)
PROMPT_TOKENS = 700
COMPLETION_TOKENS = 60
TOP_LOGPROBS = 20
SERVED_TOKENS = 32
SERVED_CONTEXT = 8192
STAGE_DELAY_S = 0.005
STAGE_IN_FLIGHT = 256
REQUEST_TIMEOUT_S = 300.0

VLLM_BENCHMARK = """
import json, sys
from vllm.benchmarks import serve
from vllm.benchmarks.datasets import SampleRequest
from vllm.utils.argparse_utils import FlexibleArgumentParser
prompts, num_tokens, out, *flags = sys.argv[1:]
with open(prompts) as handle:
    requests = [SampleRequest(ids, len(ids), int(num_tokens), request_id=str(n)) for n, ids in enumerate(json.load(handle))]
serve.get_samples = lambda args, tokenizer: requests
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
result = serve.main(parser.parse_args(flags))
with open(out, "w") as handle:
    json.dump({name: result[name] for name in ("completed", "failed", "duration", "total_output_tokens")}, handle)
"""
"""Runs where vLLM is installed: its serving benchmark, `vllm bench serve`, on requests of ours instead of one of its datasets."""

ANNOTATE = """
import json, sys, time
from pathlib import Path
from distill.cli import run_one
start = time.perf_counter()
run_one("annotate", Path(sys.argv[1]), [], redo=False)
seconds, status = time.perf_counter() - start, Path("/proc/self/status").read_text(encoding="ascii")
# As Linux counts it for this process alone; getrusage would add what the process that started this one held.
peak_bytes = int(status.partition("VmHWM:")[2].split()[0]) * 1024
print(json.dumps({"seconds": seconds, "cpu_s": time.process_time(), "peak_bytes": peak_bytes}))
"""
"""`distill annotate` with nothing else imported, and what it took."""


@dataclass(frozen=True, slots=True)
class ClientCost:
    """CPU seconds per 1,000 requests by who spent them, medians over rounds; `ratios` are the medians of `distill`'s over another's.

    `distill` logs durably. `openai` is the bare client as documented, which looks at each token id of a prompt in Python;
    `openai, extra_body` is spared that by getting the prompt as part of `extra_body`.
    """

    num_samples: int
    num_logprobs: int
    seconds: dict[str, float]
    ratios: dict[str, float]


@dataclass(frozen=True, slots=True)
class Rate:
    """What `who` (`distill`, or `vllm`: its serving benchmark) got out of a server, the median over rounds.

    `cached_share` of the prompts' tokens was in its prefix cache. `ratio` is distill's rate in prefix order over this one.
    """

    who: str
    in_prefix_order: bool
    requests_per_s: float
    cached_share: float
    ratio: float


@dataclass(frozen=True, slots=True)
class StageCost:
    """`distill annotate` in a process of its own. `peak_bytes` is its largest resident set; imports are in that and in `cpu_s`."""

    num_prompts: int
    seconds: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class ServedPrompt:
    """A prompt for a real server, and its tokens."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]


def measure_costs(*, num_requests: int = 500, num_rounds: int = NUM_ROUNDS) -> list[ClientCost]:
    """Both clients against the stub, for 1 and 4 samples with and without log-probabilities, a process for each."""
    costs = []
    with stub_server(STUB_DELAY_S) as base_url:
        for num_logprobs in (0, TOP_LOGPROBS):
            for num_samples in (1, 4):
                numbers = map(str, (num_samples, num_logprobs, num_requests, num_rounds))
                rounds = _last_line(__file__, "costs", base_url, *numbers)["rounds"]
                seconds = {who: median(1000 * found[who] / num_requests for found in rounds) for who in rounds[0]}
                ratios = {who: median(found["distill"] / found[who] for found in rounds) for who in rounds[0]}
                costs.append(ClientCost(num_samples, num_logprobs, seconds, ratios))
    return costs


def measure_rates(*, num_prompts: int = 2000, num_rounds: int = 2) -> list[Rate]:
    """vLLM's benchmark and our client on a server that holds the embedded teacher, in turn, its prefix cache emptied before each."""
    prompts = bfcl_prompts(num_prompts)
    in_order = sorted(prompts, key=lambda prompt: prefix_order(prompt.messages))
    flags = ("--max-model-len", str(SERVED_CONTEXT), "--enable-prompt-tokens-details")
    rounds: list[dict[tuple[str, bool], tuple[float, float]]] = []
    with TemporaryDirectory() as logs, _development_mode(), vllm_servers(Path(logs)) as start:
        server = start(Path(model_path(TEACHER)), *flags)
        _ask_by_engine(server, prompts[:IN_FLIGHT])
        works = {
            ("vllm", True): partial(_ask_by_vllm, server, in_order),
            ("distill", True): partial(_ask_by_engine, server, in_order),
            ("distill", False): partial(_ask_by_engine, server, prompts),
        }
        for _ in range(num_rounds):
            rounds.append({name: _measured(server, work) for name, work in works.items()})
    return [_rate(rounds, *name, num_prompts) for name in works]


def measure_stage(num_prompts: int) -> StageCost:
    """The whole stage on made-up prompts of about 3 kB, against the stub, 256 requests under way."""
    with TemporaryDirectory() as folder, stub_server(STAGE_DELAY_S) as base_url:
        config = prepare_stage(Path(folder), num_prompts, base_url)
        return StageCost(num_prompts, **_last_line("-c", ANNOTATE, str(config)))


@contextmanager
def stub_server(delay_s: float) -> Iterator[str]:
    """The address of a server in a process of its own that answers every prompt alike after `delay_s`."""
    command = [sys.executable, __file__, "stub", str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def bfcl_prompts(num_prompts: int) -> list[ServedPrompt]:
    """Single-turn questions of BFCL under the customer's system message, in random order; made-up ones where there is no BFCL."""
    tokenizer = load_tokenizer(TEACHER)
    texts = list(_bfcl_texts()) or list(_made_up_texts(num_prompts))
    Random(0).shuffle(texts)
    prompts: list[ServedPrompt] = []
    for messages in texts:
        ids = tuple(prompt_ids(messages, tokenizer))
        if len(ids) <= SERVED_CONTEXT - SERVED_TOKENS and len(prompts) < num_prompts:
            prompts.append(ServedPrompt(messages, ids))
    assert len(prompts) == num_prompts, f"there are {len(prompts)} prompts, {num_prompts} were asked for"
    return prompts


def prepare_stage(folder: Path, num_prompts: int, base_url: str) -> Path:
    """A run whose `prompts` stage is done; the path of its configuration."""
    records, path = folder / "records.jsonl", folder / "config.yaml"
    write_records(records, num_prompts, own_tools=False)
    run = folder / "run"
    start_stage(run, "prompts", {}, redo=False)
    write_stage_rows(run, "prompts", _prompts(records), [])
    finish_stage(run, "prompts", counts={}, files=["rows.jsonl", "rejects.jsonl"])
    teacher = {
        "engine": "server",
        "model": STUB_MODEL,
        "tokenizer": TEACHER,
        "base_url": base_url,
        "max_concurrency": STAGE_IN_FLIGHT,
    }
    values = {
        "run": {"dir": str(run)},
        "prompts": {"train": [str(records)]},
        "teacher": teacher,
        "annotate": {"max_new_tokens": COMPLETION_TOKENS, "min_usable": 0.0},
        "student": {"model": "embedded:student"},
        "train": {"max_steps": 1},
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def random_requests(num_requests: int, *, num_samples: int, num_logprobs: int) -> list[Request]:
    """Requests of `PROMPT_TOKENS` random tokens each."""
    random = Random(0)
    return [
        Request(
            key=content_id(number),
            prompt_id=f"prompt-{number}",
            prompt_ids=tuple(random.choices(range(VOCABULARY), k=PROMPT_TOKENS)),
            num_samples=num_samples,
            sampling_temperature=1.0,
            max_new_tokens=COMPLETION_TOKENS,
            seed=number,
            num_logprobs=num_logprobs,
        )
        for number in range(num_requests)
    ]


def completion_template(*, num_samples: int, num_logprobs: int | None, return_token_ids: bool) -> bytes:
    """vLLM's answer to a request for completions; `"@prompt"`, `"@prompt_tokens"` and `"@total_tokens"` stand for the request's own."""
    random = Random(0)
    choices = [
        _choice(index, random, num_logprobs=num_logprobs, return_token_ids=return_token_ids)
        for index in range(num_samples)
    ]
    answer = {
        "id": "cmpl-9f1c2b7d5e3a4f60",
        "object": "text_completion",
        "created": 1780000000,
        "model": STUB_MODEL,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": "@prompt_tokens",
            "total_tokens": "@total_tokens",
            "completion_tokens": num_samples * COMPLETION_TOKENS,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }
    return json.dumps(answer, separators=(",", ":")).encode()


class StubConnection(asyncio.Protocol):
    """One client's connection: HTTP/1.1 with `content-length`, one request at a time."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s, self.received = delay_s, b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not separator or len(body) < (int(length[1]) if length else 0):
            return
        self.received = b""
        if b"/completions" in head.partition(b"\r\n")[0]:
            asyncio.get_running_loop().call_later(self.delay_s, self.answer, _completions(body))
        else:
            self.answer(_models())

    def answer(self, body: bytes) -> None:
        assert self.transport is not None
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)


def main() -> None:
    """Run the one of the two that the command line names."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    stub = commands.add_parser("stub")
    stub.add_argument("delay_s", type=float)
    costs = commands.add_parser("costs")
    costs.add_argument("base_url")
    for name in ("num_samples", "num_logprobs", "num_requests", "num_rounds"):
        costs.add_argument(name, type=int)
    arguments = parser.parse_args()
    if arguments.command == "stub":
        asyncio.run(_serve(arguments.delay_s))
    else:
        requests = random_requests(
            arguments.num_requests, num_samples=arguments.num_samples, num_logprobs=arguments.num_logprobs
        )
        print(json.dumps({"rounds": cost_rounds(arguments.base_url, requests, num_rounds=arguments.num_rounds)}))


def cost_rounds(base_url: str, requests: Sequence[Request], *, num_rounds: int) -> list[dict[str, float]]:
    """CPU seconds of this process for all requests by each client in turn, all of them warm and connected."""
    loop = asyncio.new_event_loop()
    bare = AsyncOpenAI(base_url=base_url, api_key="EMPTY", timeout=REQUEST_TIMEOUT_S, max_retries=0)
    with closing(_engine(base_url, STUB_MODEL)) as engine, TemporaryDirectory() as folder:
        log_paths = (Path(folder) / f"{number}.jsonl" for number in count())
        clients: dict[str, Callable[[Sequence[Request]], None]] = {
            "distill": lambda asked: ask_durably(engine, asked, next(log_paths)),
            "openai": lambda asked: loop.run_until_complete(ask_openai(bare, asked, past_transform=False)),
            "openai, extra_body": lambda asked: loop.run_until_complete(ask_openai(bare, asked, past_transform=True)),
        }
        for ask in clients.values():
            ask(requests[:NUM_WARMUP])
        rounds = [
            {who: _cpu_seconds(partial(ask, requests)) for who, ask in clients.items()} for _ in range(num_rounds)
        ]
        loop.run_until_complete(bare.close())
    loop.close()
    return rounds


def ask_durably(engine: Engine, requests: Sequence[Request], log_path: Path) -> None:
    """Ask as the stages do: every answer is on disk before it is seen."""
    with open_log(log_path) as log:
        for answer in log.ask(engine, requests):
            assert answer.error is None, answer.error


async def ask_openai(client: AsyncOpenAI, requests: Sequence[Request], *, past_transform: bool) -> None:
    """Ask as the openai client's users do: a task for each request, a semaphore around it, answers parsed by the client and dropped."""
    semaphore = asyncio.Semaphore(IN_FLIGHT)

    async def ask(request: Request) -> None:
        async with semaphore:
            answer = await client.completions.create(**openai_arguments(request, past_transform=past_transform))
        assert len(answer.choices) == request.num_samples

    await asyncio.gather(*(ask(request) for request in requests))


def openai_arguments(request: Request, *, past_transform: bool) -> dict[str, Any]:
    """What our engine sends, as arguments of `completions.create`."""
    body = dict(completion_body(request, model=STUB_MODEL, stop_ids=STOP_IDS))
    known = ("model", "prompt", "n", "max_tokens", "temperature", "top_p", "seed", "logprobs")
    arguments: dict[str, Any] = {name: body.pop(name) for name in known if name in body}
    if past_transform:
        body["prompt"], arguments["prompt"] = arguments["prompt"], ""
    return {**arguments, "extra_body": body}


def _engine(base_url: str, model: str, stops: tuple[int, ...] = STOP_IDS) -> Engine:
    return open_server(
        base_urls=[base_url],
        model=model,
        api_key=None,
        max_concurrency=IN_FLIGHT,
        request_timeout_s=REQUEST_TIMEOUT_S,
        stop_ids=stops,
        max_attempts=1,
        wait_for_server_s=0.0,
    )


async def _serve(delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: StubConnection(delay_s), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def _models() -> bytes:
    entry = {"id": STUB_MODEL, "object": "model", "owned_by": "vllm", "max_model_len": STUB_CONTEXT}
    return json.dumps({"object": "list", "data": [entry]}).encode()


def _completions(body: bytes) -> bytes:
    asked = json.loads(body)
    template = _cached_template(asked.get("n", 1), asked.get("logprobs"), bool(asked.get("return_token_ids")))
    num_tokens = len(asked["prompt"])
    total = num_tokens + asked.get("n", 1) * COMPLETION_TOKENS
    start = body.index(b"[", body.index(b'"prompt"'))
    prompt = body[start : body.index(b"]", start) + 1]
    for name, value in (("prompt_tokens", b"%d" % num_tokens), ("total_tokens", b"%d" % total), ("prompt", prompt)):
        template = template.replace(b'"@%s"' % name.encode(), value)
    return template


@cache
def _cached_template(num_samples: int, num_logprobs: int | None, return_token_ids: bool) -> bytes:
    return completion_template(num_samples=num_samples, num_logprobs=num_logprobs, return_token_ids=return_token_ids)


def _choice(index: int, random: Random, *, num_logprobs: int | None, return_token_ids: bool) -> JsonObject:
    ids = random.choices(range(VOCABULARY), k=COMPLETION_TOKENS)
    choice: dict[str, Any] = {
        "index": index,
        "text": "[book_tickets(event='Jazz Night', seats=3)]".ljust(4 * COMPLETION_TOKENS, "."),
        "logprobs": None if num_logprobs is None else _logprobs(ids, num_logprobs, random),
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": ids if return_token_ids else None,
        "prompt_logprobs": None,
        "prompt_token_ids": "@prompt" if return_token_ids else None,
        "routed_experts": None,
    }
    return choice


def _logprobs(ids: Sequence[int], num_logprobs: int, random: Random) -> JsonObject:
    tops = []
    for token_id in ids:
        others = random.sample(range(VOCABULARY), num_logprobs - 1)
        # As many digits as a float32 of the model has when it is written as a Python float.
        values = sorted(array("f", (-random.expovariate(0.2) for _ in range(num_logprobs))), reverse=True)
        tops.append({f"token_id:{other}": value for other, value in zip((token_id, *others), values, strict=True)})
    logprobs: dict[str, Any] = {
        "text_offset": [4 * place for place in range(len(ids))],
        "token_logprobs": [top[f"token_id:{token_id}"] for top, token_id in zip(tops, ids, strict=True)],
        "tokens": [f"token_id:{token_id}" for token_id in ids],
        "top_logprobs": tops,
    }
    return logprobs


def _last_line(*arguments: str) -> dict[str, Any]:
    """The JSON that a Python of its own prints last."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _prompts(records: Path) -> Iterator[Prompt]:
    for record in read_bedrock_jsonl(read_lines(input_file(str(records))), name=records.name):
        assert isinstance(record, SourceRecord), record
        found = find_tools(record.messages)
        yield Prompt(
            id=content_id([message.content for message in record.messages]),
            messages=record.messages,
            tools=found.tools,
            tools_span=found.span,
            category="multiple",
            group=content_id([tool.name for tool in found.tools]),
            split="train",
            test_set=None,
            expected_calls=None,
            source=record.source,
        )


def _bfcl_texts() -> Iterator[tuple[Message, ...]]:
    for path in sorted(BFCL.glob("BFCL_v4_*.json")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            system = Message("system", SYSTEM + json.dumps(record["function"]))
            yield (system, *(Message(turn["role"], turn["content"]) for turn in record["question"][0]))


def _made_up_texts(num_prompts: int) -> Iterator[tuple[Message, ...]]:
    with TemporaryDirectory() as folder:
        records = Path(folder) / "records.jsonl"
        write_records(records, num_prompts, own_tools=False)
        yield from (prompt.messages for prompt in _prompts(records))


@contextmanager
def _development_mode() -> Iterator[None]:
    """vLLM servers started meanwhile have `/reset_prefix_cache`."""
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    try:
        yield
    finally:
        del os.environ["VLLM_SERVER_DEV_MODE"]


def _measured(server: VllmServer, work: Callable[[], float]) -> tuple[float, float]:
    """Seconds that `work` says it took, begun with an empty prefix cache, and the share of prompt tokens that came out of it."""
    root = server.base_url.removesuffix("/v1")
    with urllib.request.urlopen(urllib.request.Request(f"{root}/reset_prefix_cache", method="POST")) as response:
        assert json.load(response)["success"]
    before = _cache_counts(root)
    seconds = work()
    queried, found = (now - then for now, then in zip(_cache_counts(root), before, strict=True))
    return seconds, found / queried


def _rate(
    rounds: Sequence[dict[tuple[str, bool], tuple[float, float]]], who: str, in_prefix_order: bool, num_prompts: int
) -> Rate:
    seconds, shares = zip(*(found[who, in_prefix_order] for found in rounds), strict=True)
    best_s = [found["distill", True][0] for found in rounds]
    ratio = median(one / best for one, best in zip(seconds, best_s, strict=True))
    return Rate(who, in_prefix_order, num_prompts / median(seconds), median(shares), ratio)


def _cache_counts(root: str) -> tuple[float, float]:
    """Prompt tokens looked for in the prefix cache, and found there, since the server began."""
    with urllib.request.urlopen(f"{root}/metrics") as response:
        metrics = response.read().decode()
    queried, found = (
        sum(float(value) for value in re.findall(rf"(?m)^vllm:prefix_cache_{name}_total\{{.*\}} (\S+)$", metrics))
        for name in ("queries", "hits")
    )
    return queried, found


def _ask_by_engine(server: VllmServer, prompts: Sequence[ServedPrompt]) -> float:
    requests = [
        Request(
            key=content_id(number),
            prompt_id=f"prompt-{number}",
            prompt_ids=prompt.ids,
            num_samples=1,
            sampling_temperature=0.0,
            max_new_tokens=SERVED_TOKENS,
            seed=0,
            sampling_parameters={"ignore_eos": True},
        )
        for number, prompt in enumerate(prompts)
    ]
    with closing(_engine(server.base_url, server.model, stops=())) as engine, TemporaryDirectory() as folder:
        start, num_tokens = time.perf_counter(), 0
        with open_log(Path(folder) / "requests.jsonl") as log:
            for answer in log.ask(engine, requests):
                assert answer.error is None, answer.error
                num_tokens += answer.completions[0].num_completion_tokens
        seconds = time.perf_counter() - start
    assert num_tokens == SERVED_TOKENS * len(prompts), num_tokens
    return seconds


def _ask_by_vllm(server: VllmServer, prompts: Sequence[ServedPrompt]) -> float:
    root = server.base_url.removesuffix("/v1")
    with TemporaryDirectory() as folder:
        given, out = Path(folder) / "prompts.json", Path(folder) / "result.json"
        given.write_text(json.dumps([prompt.ids for prompt in prompts]))
        command = [
            str(VLLM_ENVIRONMENT / "bin/python"), "-c", VLLM_BENCHMARK, str(given), str(SERVED_TOKENS), str(out),
            "--backend", "vllm", "--base-url", root, "--endpoint", "/v1/completions", "--model", server.model,
            "--served-model-name", server.model, "--skip-tokenizer-init", "--dataset-name", "custom", "--disable-tqdm",
            "--max-concurrency", str(IN_FLIGHT), "--ignore-eos", "--temperature", "0",
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        result = json.loads(out.read_text())
    expected = (len(prompts), 0, SERVED_TOKENS * len(prompts))
    assert (result["completed"], result["failed"], result["total_output_tokens"]) == expected, result
    return float(result["duration"])


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Of all threads, the system's share included."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
