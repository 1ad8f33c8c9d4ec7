"""Whatever ends `distill annotate`: one message, the right exit code, no key anywhere, and a later start goes on from what is on disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from distill.records import Annotation
from distill.run_dir import read_json, read_rows
from tests.fault_proxy import running_proxy
from tests.stages.test_annotate import NUM_PROMPTS, PROMPTS, TESTED, annotate, logged, prepare
from tests.vllm_server import StartVllm, VllmServer, free_port
from tests.web_server import QuietHandler, running_web_server

ROOT = Path(__file__).parents[2]
KEY = "sk-test-1414213562373095"
OTHER_KEY = "sk-test-1732050807568877"
HUB_TOKEN = "hf_test2236067977499789"
GATED, MISSING = "gated-lab/llama-405b", "nobody/nothing"
SLOWLY, QUICKLY = "teacher.max_concurrency=1", "teacher.max_concurrency=32"
FILE_SIZE_LIMIT = 8 << 10  # bytes: enough for any file but the log of all answers
TMPFS_SIZE = 4 << 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]


@pytest.fixture(scope="module")
def server(start_vllm: StartVllm, llama_folder: Path) -> VllmServer:
    return start_vllm(llama_folder, "--dtype", "float32", "--enforce-eager", "--api-key", KEY)


@pytest.fixture(scope="module")
def uninterrupted(server: VllmServer, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage's folder where nothing went wrong."""
    config = make_run(tmp_path_factory.mktemp("uninterrupted"), server.base_url, server.model, llama_folder)
    end = run_to_end(config, QUICKLY)
    assert end.code == 0, end.stderr
    return config.parent / "run" / "annotate"


@pytest.fixture
def config(server: VllmServer, llama_folder: Path, tmp_path: Path) -> Path:
    """A run with everything right whose `annotate` stage was not begun."""
    return make_run(tmp_path, server.base_url, server.model, llama_folder)


@pytest.fixture
def half_done(config: Path, uninterrupted: Path) -> Path:
    leave_half(config, uninterrupted)
    return config


@dataclass(frozen=True, slots=True)
class End:
    """How the command ended and what it printed."""

    code: int
    stdout: str
    stderr: str


def make_run(folder: Path, base_url: str, model: str, tokenizer: Path) -> Path:
    teacher = {
        "engine": "server",
        "base_url": base_url,
        "model": model,
        "tokenizer": str(tokenizer),
        "request_timeout_s": 60.0,
        "wait_for_server_s": 2.0,
    }
    return prepare(
        folder, tokenizer, [*PROMPTS, TESTED], teacher=teacher, annotate={"max_new_tokens": 64, "min_usable": 0.0}
    )


def leave_half(config: Path, uninterrupted: Path) -> None:
    """What a kill in the middle of a line of the log leaves."""
    folder = config.parent / "run" / "annotate"
    folder.mkdir()
    (folder / "inputs.json").write_bytes((uninterrupted / "inputs.json").read_bytes())
    whole = (uninterrupted / "requests.jsonl").read_bytes()
    (folder / "requests.jsonl").write_bytes(whole[: len(whole) // 2])


def default_signals() -> None:
    """A shell lets its background jobs ignore Ctrl-C, and whoever they start as well."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def as_nohup_does() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def start(
    config: Path,
    *overrides: str,
    key: str | None = KEY,
    prepare_process: Callable[[], None] = default_signals,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[str]:
    without_keys = {name: value for name, value in os.environ.items() if name not in ("OPENAI_API_KEY", "HF_TOKEN")}
    return subprocess.Popen(
        [sys.executable, "-m", "distill.cli", "annotate", str(config), *overrides],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare_process,
        env={**without_keys, "OMP_NUM_THREADS": "1", **({"OPENAI_API_KEY": key} if key else {}), **environment},
    )


def wait_for_end(process: subprocess.Popen[str], config: Path) -> End:
    """The end of the command, after a look for keys in everything that it wrote."""
    try:
        stdout, stderr = process.communicate(timeout=200)
    finally:
        process.kill()
    written = [path.read_bytes() for path in config.parent.rglob("*") if path.is_file() and path.name != "ballast"]
    for secret in (KEY, OTHER_KEY, HUB_TOKEN):
        assert secret not in stdout + stderr
        assert not any(secret.encode() in content for content in written)
    return End(process.returncode, stdout, stderr)


def run_to_end(config: Path, *overrides: str, **how: Any) -> End:
    return wait_for_end(start(config, *overrides, **how), config)


def wait_for_answers(count: int, process: subprocess.Popen[str], config: Path) -> Path:
    """The log, once it holds so many answers."""
    log = config.parent / "run" / "annotate" / "requests.jsonl"
    deadline = time.monotonic() + 100
    while not (log.exists() and log.read_bytes().count(b"\n") >= count):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no {count} answers: {process.communicate()[1]}")
        time.sleep(0.01)
    return log


def check_refused(end: End) -> str:
    """The one message with which the command stopped."""
    assert end.code == 2, end.stderr
    _, separator, message = end.stderr.partition("error: ")
    assert separator and "error: " not in message and "Traceback" not in end.stderr and end.stdout == ""
    return message


def check_goes_on(config: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start keeps every whole line of the log, asks for the rest, and ends as if nothing had happened."""
    folder = config.parent / "run" / "annotate"
    log = folder / "requests.jsonl"
    before = log.read_bytes() if log.exists() else b""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    annotate(config, QUICKLY)
    assert log.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    entries = logged(folder)
    assert len({entry["key"] for entry in entries}) == NUM_PROMPTS
    assert sorted(entry["prompt_id"] for entry in entries) == sorted(prompt.id for prompt in PROMPTS)
    assert (folder / "rows.jsonl").read_bytes() == (uninterrupted / "rows.jsonl").read_bytes()
    assert len(list(read_rows(folder / "rows.jsonl", Annotation))) == NUM_PROMPTS


def state(config: Path) -> str:
    status = read_json(config.parent / "run" / "status.json")
    return str(status["stages"]["annotate"]["state"])  # type: ignore[index,call-overload]  # JSON


@pytest.mark.vllm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_stage_at_once(
    number: signal.Signals, config: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(config, SLOWLY)
    log = wait_for_answers(3, process, config)
    process.send_signal(number)
    sent = time.monotonic()
    end = wait_for_end(process, config)
    assert time.monotonic() - sent < 30
    assert (end.code, state(config)) == (130, "Stopped"), end.stderr
    assert "stopped; the same command goes on from here" in end.stderr and "Traceback" not in end.stderr
    assert 3 <= len(logged(log.parent)) < NUM_PROMPTS, "stopped in the middle"
    check_goes_on(config, uninterrupted, monkeypatch)


@pytest.mark.vllm
def test_nohup_keeps_the_stage_running(config: Path, uninterrupted: Path) -> None:
    process = start(config, SLOWLY, prepare_process=as_nohup_does)
    wait_for_answers(3, process, config)
    process.send_signal(signal.SIGHUP)
    end = wait_for_end(process, config)
    assert end.code == 0, end.stderr
    assert (config.parent / "run/annotate/rows.jsonl").read_bytes() == (uninterrupted / "rows.jsonl").read_bytes()


@pytest.mark.vllm
def test_a_log_that_cannot_grow_stops_the_stage(
    config: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE_LIMIT, resource.RLIM_INFINITY))

    message = check_refused(run_to_end(config, prepare_process=limit))
    log = config.parent / "run" / "annotate" / "requests.jsonl"
    assert f"{log}: " in message and "File too large" in message and "kept" in message
    assert state(config) == "Failed"
    assert 0 < log.read_bytes().count(b"\n") < NUM_PROMPTS
    check_goes_on(config, uninterrupted, monkeypatch)


@pytest.mark.vllm
@pytest.mark.parametrize("room_bytes", [0, 16 << 10, 32 << 10])
def test_a_full_disk_stops_the_stage(
    room_bytes: int,
    server: VllmServer,
    llama_folder: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        config = make_run(disk, server.base_url, server.model, llama_folder)
        leave_half(config, uninterrupted)
        (disk / "ballast").write_bytes(bytes(free_bytes(disk) - room_bytes))
        assert free_bytes(disk) == room_bytes
        message = check_refused(run_to_end(config))
        assert f"{disk}/run" in message and "No space left on device" in message
        (disk / "ballast").unlink()
        check_goes_on(config, uninterrupted, monkeypatch)


@contextmanager
def tmpfs(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_bsize


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("key", "what"),
    [(OTHER_KEY, "refuses the API key"), (None, "wants an API key and none was given"), (f"{KEY} ", "white space")],
)
def test_a_wrong_key_costs_nothing_that_was_paid_for(
    key: str | None, what: str, half_done: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = check_refused(run_to_end(half_done, key=key))
    assert what in message and "api_key_env" in message
    assert state(half_done) == "Failed"
    check_goes_on(half_done, uninterrupted, monkeypatch)


@pytest.mark.vllm
def test_no_server_costs_nothing_that_was_paid_for(
    half_done: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    assert f"{nowhere}: no server answers there" in check_refused(run_to_end(half_done, f"teacher.base_url={nowhere}"))
    check_goes_on(half_done, uninterrupted, monkeypatch)


@pytest.mark.vllm
def test_a_server_that_does_not_come_back_costs_nothing_that_was_paid_for(
    config: Path, server: VllmServer, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_proxy(server.base_url.removesuffix("/v1"), tmp_path / "proxy.jsonl", rates={}) as proxy:
        process = start(config, SLOWLY, f"teacher.base_url={proxy.base_url}")
        log = wait_for_answers(3, process, config)
    end = wait_for_end(process, config)
    assert f"{proxy.base_url}: no server has answered there for 2 s" in check_refused(end)
    assert 3 <= len(logged(log.parent)) < NUM_PROMPTS, "gone in the middle"
    check_goes_on(config, uninterrupted, monkeypatch)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("teacher.model=llama-405b", "'llama-405b': the server at {address} serves '{model}'"),
        ("teacher.tokenizer={folder}/nothing", "'{folder}/nothing': cannot load its tokenizer"),
    ],
)
def test_a_wrong_name_can_be_mended(
    override: str,
    what: str,
    config: Path,
    server: VllmServer,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill = partial(str.format, address=server.base_url, model=server.model, folder=tmp_path)
    assert fill(what) in check_refused(run_to_end(config, fill(override)))
    check_goes_on(config, uninterrupted, monkeypatch)


@pytest.mark.parametrize(("name", "what"), [(GATED, "gated"), (MISSING, "not a valid model identifier")])
@pytest.mark.parametrize("engine", ["server", "transformers"])
def test_a_gated_or_missing_model_on_the_hub(
    engine: str, name: str, what: str, llama_folder: Path, tmp_path: Path
) -> None:
    config = make_run(tmp_path, f"http://127.0.0.1:{free_port()}/v1", name, llama_folder)
    overrides = ["teacher.base_url=null", "teacher.engine=transformers"] if engine == "transformers" else []
    with hub() as address:
        environment = {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hub"),
            "HF_TOKEN": HUB_TOKEN,
        }
        end = run_to_end(config, f"teacher.tokenizer={name}", *overrides, environment=environment)
    message = check_refused(end)
    assert name in message and what in message
    assert state(config) == "Failed" and not (tmp_path / "run" / "annotate" / "rows.jsonl").exists()


@contextmanager
def hub() -> Iterator[str]:
    """Answers as the Hugging Face hub does about a model whose licence was not accepted, and about one that is not there."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            is_gated = GATED in self.path
            self.send_response(403 if is_gated else 404)
            self.send_header("X-Error-Code", "GatedRepo" if is_gated else "RepoNotFound")
            self.send_header("X-Error-Message", "Access to this model is restricted" if is_gated else "Not found")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

    with running_web_server(Handler) as address:
        yield address
