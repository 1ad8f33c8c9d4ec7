"""A fifth of all requests spoiled, the stage killed ten times and the server twice: every prompt is answered once, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distill.chat import prompt_ids
from distill.records import Annotation, Reject
from distill.run_dir import read_rows
from tests.customer_world import customer_prompts
from tests.fault_proxy import FAULTS, FaultProxy, json_hash, running_proxy
from tests.stages.test_annotate import make_prompt, prepare
from tests.vllm_server import VLLM_ENVIRONMENT, KillableServer

ROOT = Path(__file__).parents[2]
KEY = "sk-test-1618033988749894"
NUM_PROMPTS = 600
NUM_SAMPLES = 4
NUM_KILLS = 10
SERVER_DIES_BEFORE_KILL = (3, 7)
MAX_CONCURRENCY = 16
FAULT_SHARE = 0.2
KILL_DEADLINE_S = 240.0

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(1200)]

PROMPTS = [
    make_prompt(f"{index}: {prompt.request.text}") for index, prompt in enumerate(customer_prompts(NUM_PROMPTS, seed=5))
]
TOO_LONG = make_prompt("so long " * 1500)


@pytest.fixture
def server(llama_folder: Path, tmp_path: Path) -> Iterator[KillableServer]:
    if not (VLLM_ENVIRONMENT / ".ready").exists():
        pytest.skip("no vLLM in .venv-vllm; `make vllm` installs it, or says why there is none for this machine")
    # On the CPU, a prompt with a seed whose prefill is split ends vLLM 0.32 ("CPU Generator does not use offset").
    flags = ("--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill", "--api-key", KEY)
    killable = KillableServer(llama_folder, *flags, log=tmp_path / "server.log")
    try:
        killable.start()
        killable.wait_until_ready()
        yield killable
    finally:
        killable.stop()


class SeenOnDisk:
    """When each line of the request log was first seen whole: from then on nobody may ask for its prompt."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self.at: dict[str, float] = {}

    def look(self) -> int:
        """How many prompts are answered on disk."""
        if self.path.exists():
            with self.path.open("rb") as handle:
                handle.seek(self.offset)
                new = handle.read()
            now = time.monotonic()
            whole = new[: new.rfind(b"\n") + 1]
            self.offset += len(whole)
            for line in whole.splitlines():
                assert self.at.setdefault(json.loads(line)["prompt_id"], now) == now, "logged twice"
        return len(self.at)


def test_faults_and_kills_leave_every_prompt_answered_exactly_once(
    server: KillableServer, llama_folder: Path, llama_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "faults"
    folder.mkdir()
    rates = dict.fromkeys(FAULTS, FAULT_SHARE / len(FAULTS))
    with running_proxy(f"http://127.0.0.1:{server.port}", folder / "proxy.jsonl", rates=rates) as proxy:
        config = prepare(folder, llama_folder, [*PROMPTS, TOO_LONG], **sections(proxy.base_url, server, llama_folder))
        seen = SeenOnDisk(folder / "run" / "annotate" / "requests.jsonl")
        random = Random(0)
        for kill in range(NUM_KILLS):
            with annotating(config, folder / "annotate.log") as process:
                before = seen.look()
                if kill in SERVER_DIES_BEFORE_KILL:
                    wait_for_answers(before + 1, seen, process, folder)
                    server.kill()
                    server.start()
                wait_for_answers(before + random.randint(5, 40), seen, process, folder)
            assert process.returncode == -signal.SIGKILL
        assert 0 < seen.look() < NUM_PROMPTS, "killed in the middle"
        with annotating(config, folder / "annotate.log") as process:
            while process.poll() is None:
                seen.look()
                time.sleep(0.01)
            assert process.returncode == 0, tail(folder)
        seen.look()

    check_answers(folder / "run" / "annotate")
    check_requests(proxy, seen, llama_tokenizer)
    text = (folder / "annotate.log").read_text()
    assert "Traceback" not in text and text.count("annotate: done") == 1
    holding_key = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not holding_key


def check_answers(folder: Path) -> None:
    """Each prompt has its samples or a reject, in the log and in the rows."""
    entries = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    assert len({entry["key"] for entry in entries}) == len(entries) == NUM_PROMPTS
    assert all(len(entry["completions"]) == NUM_SAMPLES for entry in entries)
    logged = {entry["prompt_id"]: [completion["text"] for completion in entry["completions"]] for entry in entries}
    rows = list(read_rows(folder / "rows.jsonl", Annotation))
    assert [(row.prompt_id, row.sample_index) for row in rows] == [
        (prompt.id, index) for prompt in PROMPTS for index in range(NUM_SAMPLES)
    ]
    assert all(row.completion.text == logged[row.prompt_id][row.sample_index] for row in rows)
    assert {row.completion.finish_reason for row in rows} == {"stop", "length"}
    (reject,) = read_rows(folder / "rejects.jsonl", Reject)
    assert (reject.id, reject.reason) == (TOO_LONG.id, "teacher_error") and "2048" in reject.detail


def check_requests(proxy: FaultProxy, seen: SeenOnDisk, tokenizer: PreTrainedTokenizerFast) -> None:
    """The proxy's word: faults of every kind in the share wanted, and no request for what was on disk already."""
    logged = [request for request in proxy.requests() if request.path == "/v1/completions"]
    asked = [request for request in logged if request.prompt]
    assert all(request.status is None for request in logged if not request.prompt), "only a kill cuts a request off"
    faults = Counter(request.fault for request in asked if request.fault)
    assert set(faults) == set(FAULTS) and 0.15 < faults.total() / len(asked) < 0.25
    prompt_of = {json_hash(prompt_ids(prompt.messages, tokenizer)): prompt.id for prompt in PROMPTS}
    assert {request.prompt for request in asked} == set(prompt_of)
    again = [request for request in asked if request.received_at > seen.at[prompt_of[str(request.prompt)]]]
    assert not again
    handed_over = sum(request.handed_over_at is not None for request in asked)
    # A kill may lose what was on its way to the disk: no more than was under way.
    assert NUM_PROMPTS <= handed_over <= NUM_PROMPTS + NUM_KILLS * MAX_CONCURRENCY
    print(f"{len(asked)} requests, {handed_over} answered in full, faults {dict(faults)}")


def sections(base_url: str, server: KillableServer, llama_folder: Path) -> dict[str, Any]:
    return {
        "teacher": {
            "engine": "server",
            "base_url": base_url,
            "model": server.server.model,
            "tokenizer": str(llama_folder),
            "request_timeout_s": 4.0,
            "max_concurrency": MAX_CONCURRENCY,
        },
        "annotate": {
            "num_samples": NUM_SAMPLES,
            "sampling_temperature": 1.0,
            "max_new_tokens": 16,
            "min_usable": 0.0,
        },
    }


@contextmanager
def annotating(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The stage in a process of its own, killed with -9 on leaving if it runs still."""
    with log.open("ab") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "distill.cli", "annotate", str(config)],
            cwd=ROOT,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": KEY},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_answers(count: int, seen: SeenOnDisk, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + KILL_DEADLINE_S
    while seen.look() < count:
        assert process.poll() is None, f"ended with {process.returncode}: {tail(folder)}"
        assert time.monotonic() < deadline, f"nothing more is answered: {tail(folder)}"
        time.sleep(0.01)


def tail(folder: Path) -> str:
    return (folder / "annotate.log").read_text()[-3000:]
