"""A started vLLM answers, comes back after a crash, is gone when we are, and says what is wrong where it does not start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from distill.config import ConfigError, ServeConfig
from distill.engines.serving import Serving, _members, start_serving
from distill.records import DataError
from tests.vllm_server import VLLM_ENVIRONMENT

ROOT = Path(__file__).parents[2]
NANO = str(ROOT / "configs/serve/nano-cpu.yaml")
KEY = "sk-test-2718281828459045"
PROGRAM = """
import http.server, os, pathlib, subprocess, sys, time
if sys.argv[1] == "-c":
    sys.exit(0)
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[3:] if "=" in argument)
print("the key is", os.environ.get("VLLM_API_KEY"), flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
if "exit-code" in flags:
    print("RuntimeError: no such thing as a GPU", flush=True)
    sys.exit(int(flags["exit-code"]))
if "hang" in flags:
    time.sleep(600)

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer((flags["host"], int(flags["port"])), Health).serve_forever()
"""
"""What takes vLLM's flags, starts a process below it and then answers, hangs or ends: for all that does not depend on vLLM itself."""
PARENT = """
import sys, time
from pathlib import Path
from distill.config import ServeConfig
from distill.engines.serving import start_serving
serving = start_serving(ServeConfig.model_validate_json(sys.argv[1]), model="embedded:teacher", api_key=None, log=Path(sys.argv[2]))
print("up", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(PROGRAM)}", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def flags_file(tmp_path: Path) -> str:
    path = tmp_path / "serve.yaml"
    path.write_text("max-model-len: 2048\n", encoding="utf-8")
    return str(path)


@contextmanager
def started(serve: ServeConfig, log: Path, *, api_key: str | None = KEY) -> Iterator[Serving]:
    serving = start_serving(serve, model="embedded:teacher", api_key=api_key, log=log)
    try:
        yield serving
    finally:
        serving.stop()


def session_of(log: Path) -> int:
    return int(log.with_name(f"{log.name}.pid").read_text().split()[0])


def wait_until(is_so: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def kill_server(serving: Serving, log: Path) -> int:
    """`kill -9` its front process; the session it led."""
    session = session_of(log)
    os.kill(session, signal.SIGKILL)
    wait_until(serving.has_ended, timeout_s=60)
    return session


@contextmanager
def parent_process(serve: ServeConfig, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that has started a server."""
    command = [sys.executable, "-c", PARENT, serve.model_dump_json(), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "up\n"
            yield parent
        finally:
            parent.kill()


def models(base_url: str, key: str) -> list[str]:
    request = urllib.request.Request(f"{base_url}/models", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return [model["id"] for model in json.load(response)["data"]]


@pytest.fixture
def nano() -> ServeConfig:
    if not (VLLM_ENVIRONMENT / ".ready").exists():
        pytest.skip("no vLLM in .venv-vllm; `make vllm` installs it, or says why there is none for this machine")
    return ServeConfig(
        config=NANO,
        python=str(VLLM_ENVIRONMENT / "bin/python"),
        arguments={"model": str(ROOT / "distill/embedded/teacher")},
        environment={"HF_HUB_OFFLINE": "1"},
        max_restarts=1,
    )


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_vllm_serves_with_the_key_and_comes_back_after_a_crash(
    nano: ServeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run" / "vllm.log"
    with started(nano, log) as serving:
        assert models(serving.base_url, KEY) == ["embedded:teacher"]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            models(serving.base_url, "another")
        assert not serving.has_ended()
        assert len(_members(session_of(log))) > 1, "the engine is a process of its own"
        command_lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in _members(session_of(log))]

        session, base_url = kill_server(serving, log), serving.base_url
        assert _members(session) == []
        serving.restart()
        assert serving.base_url == base_url
        assert models(base_url, KEY) == ["embedded:teacher"]
        session = session_of(log)
    assert serving.has_ended() and _members(session) == []
    with pytest.raises(DataError, match="stopped"):
        serving.restart()
    everything = [log.read_text(errors="replace"), *command_lines, *capfd.readouterr()]
    assert not any(KEY in text for text in everything)
    assert "vLLM is starting" in everything[-1]


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_no_process_of_vllm_outlives_a_parent_that_is_killed(nano: ServeConfig, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    with parent_process(nano, log) as parent:
        session = session_of(log)
        assert len(_members(session)) > 1
        parent.kill()
    wait_until(lambda: _members(session) == [], timeout_s=60)


def test_what_an_earlier_process_left_behind_is_ended_first(program: str, flags_file: str, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    serve = ServeConfig(config=flags_file, python=program)
    with parent_process(serve, log) as parent:
        session = session_of(log)
        keeper = int(Path(f"/proc/{session}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(keeper, signal.SIGKILL)
        parent.kill()
    assert len(_members(session)) == 2, "nobody was left to end it"
    with started(serve, log):
        assert _members(session) == []
        assert session_of(log) != session


def test_the_server_ends_with_its_parent(program: str, flags_file: str, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    with parent_process(ServeConfig(config=flags_file, python=program), log) as parent:
        session = session_of(log)
        parent.kill()
    wait_until(lambda: _members(session) == [], timeout_s=20)


def test_restarts_end_with_the_budget(program: str, flags_file: str, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    serve = ServeConfig(config=flags_file, python=program, max_restarts=2)
    with started(serve, log) as serving:
        for _ in range(2):
            session = kill_server(serving, log)
            assert _members(session) == [], "what the server started has ended with it"
            serving.restart()
            serving.restart()  # of a server that runs: costs nothing
        kill_server(serving, log)
        with pytest.raises(DataError, match=r"(?s)exit code 137 \(SIGKILL.*started again 2 time") as error:
            serving.restart()
        assert "the key is [key]" in str(error.value) and KEY not in str(error.value)


def test_a_failed_restart_counts(program: str, flags_file: str, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    with started(ServeConfig(config=flags_file, python=program, max_restarts=3), log) as serving:
        kill_server(serving, log)
        Path(program).write_text("#!/bin/sh\necho broken by now; exit 7\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"(?s)exit code 7.*broken by now.*started again 3 time"):
            serving.restart()
    assert log.read_text().count("broken by now") == 3


def test_a_stop_interrupts_a_restart(program: str, flags_file: str, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    with started(ServeConfig(config=flags_file, python=program), log) as serving, ThreadPoolExecutor(1) as thread:
        kill_server(serving, log)
        Path(program).write_text("#!/bin/sh\necho hanging; sleep 600\n", encoding="utf-8")
        restarting = thread.submit(serving.restart)
        wait_until(lambda: "hanging" in log.read_text(), timeout_s=20)
        session = session_of(log)
        serving.stop()
        assert _members(session) == []
        with pytest.raises(DataError, match="stopped"):
            restarting.result(timeout=20)


@pytest.mark.parametrize(
    ("argument", "timeout_s", "told"),
    [
        ("exit-code=3", 60, "ended with exit code 3"),
        ("hang=forever", 3, "did not answer within teacher.serve.start_timeout_s = 3 s"),
    ],
)
def test_a_server_that_ends_or_never_answers_is_told_with_its_last_lines(
    program: str, flags_file: str, tmp_path: Path, argument: str, timeout_s: float, told: str
) -> None:
    log = tmp_path / "vllm.log"
    name, _, value = argument.partition("=")
    serve = ServeConfig(config=flags_file, python=program, arguments={name: value}, start_timeout_s=timeout_s)
    with pytest.raises(ConfigError, match=told) as error:
        start_serving(serve, model="embedded:teacher", api_key=KEY, log=log)
    assert str(log) in str(error.value) and "the key is [key]" in str(error.value)
    assert "What to do: " in str(error.value) and KEY not in str(error.value)
    assert not log.with_name("vllm.log.pid").exists(), "its processes have ended"


def test_flags_come_from_arguments_then_the_file_then_the_teacher(program: str, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    file.write_text(f"port: {port}\nmax-model-len: 2048\n", encoding="utf-8")
    arguments: dict[str, str | int | float | bool] = {
        "max_model_len": 99,
        "enforce_eager": True,
        "enable-prefix-caching": False,
    }
    log = tmp_path / "vllm.log"
    with started(ServeConfig(config=str(file), python=program, arguments=arguments), log) as serving:
        assert serving.base_url == f"http://127.0.0.1:{port}/v1"
        with pytest.raises(ConfigError, match=rf"another server listens on 127.0.0.1:{port}"):
            start_serving(
                ServeConfig(config=str(file), python=program), model="m", api_key=None, log=tmp_path / "b.log"
            )
    command = next(line for line in log.read_text().splitlines() if line.startswith("$ ")).split()
    assert command[1:6] == [program, "-m", "vllm.entrypoints.openai.api_server", "--config", str(file)]
    assert set(command[6:]) == {
        "--max-model-len=99", "--enforce-eager", "--no-enable-prefix-caching", "--host=127.0.0.1", f"--port={port}",
        "--served-model-name=embedded:teacher", f"--model={ROOT / 'distill/embedded/teacher'}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"config": "nowhere.yaml"}, "teacher.serve.config: nowhere.yaml: cannot read it"),
        ({"config": "serve.json"}, "teacher.serve.config: serve.json: .* .yaml"),
        ({"config": "LIST"}, "teacher.serve.config: .*expected vLLM's flags as `name: value`.* found list"),
        ({"config": "BROKEN"}, "teacher.serve.config: .*not valid YAML"),
        ({"python": "nowhere/python"}, "teacher.serve.python: nowhere/python: no such program"),
        ({"python": sys.executable}, "teacher.serve.python: .*no Python that has vLLM"),
        ({"arguments": {"api_key": "x"}}, "teacher.serve.arguments: remove `api-key`"),
        ({"arguments": {"port": 80}}, "port 80; give a number from 1024"),
        ({"environment": {"VLLM_API_KEY": "x"}}, "teacher.serve.environment: remove VLLM_API_KEY"),
    ],
)
def test_what_can_be_seen_before_starting_is_told_by_the_setting(
    program: str, flags_file: str, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    for name, text in (("LIST", "- a\n"), ("BROKEN", "a: [\n")):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    if changes.get("config") in ("LIST", "BROKEN"):
        changes = {"config": str(tmp_path / f"{changes['config']}.yaml")}
    serve = ServeConfig.model_validate({"config": flags_file, "python": program, **changes})
    with pytest.raises(ConfigError) as error:
        start_serving(serve, model="embedded:teacher", api_key=KEY, log=tmp_path / "vllm.log")
    assert re.search(told, str(error.value))
    assert not (tmp_path / "vllm.log").exists()
