"""A model folder in, a real vLLM server on a free local port out, from the environment that `make vllm` builds.

`vllm_servers` gives servers that many tests share; `KillableServer` is one test's own, to be killed and started again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

VLLM_ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-vllm"
START_TIMEOUT_S = 500.0  # importing vLLM three times over is slow on a busy machine


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A running server: the address to give as `base_url`, the served model's name, and the server's log."""

    base_url: str
    model: str
    log: Path


class StartVllm(Protocol):
    def __call__(self, model_folder: Path, *flags: str) -> VllmServer: ...


@contextmanager
def vllm_servers(log_folder: Path) -> Iterator[StartVllm]:
    """Gives the function that starts servers; equal calls share one, and all of them end with the context."""
    running: dict[tuple[str, ...], VllmServer] = {}
    processes: list[subprocess.Popen[bytes]] = []

    def start(model_folder: Path, *flags: str) -> VllmServer:
        key = (str(model_folder), *flags)
        if key not in running:
            log = log_folder / f"server-{len(processes)}.log"
            port = free_port()
            process = _spawn(model_folder, flags, port, log)
            processes.append(process)
            _wait_until_ready(process, port, log)
            running[key] = VllmServer(base_url=f"http://127.0.0.1:{port}/v1", model=model_folder.name, log=log)
        return running[key]

    try:
        yield start
    finally:
        for process in processes:
            _stop(process)


class KillableServer:
    """A server that `kill` ends as a crash would and `start` brings back at the same address; `stop` it in the end."""

    def __init__(self, model_folder: Path, *flags: str, log: Path) -> None:
        self.port = free_port()
        self.server = VllmServer(base_url=f"http://127.0.0.1:{self.port}/v1", model=model_folder.name, log=log)
        self._spawn = partial(_spawn, model_folder, flags, self.port, log)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Spawn it; it answers some half a minute later."""
        assert self._process is None
        self._process = self._spawn()

    def wait_until_ready(self) -> None:
        assert self._process is not None
        _wait_until_ready(self._process, self.port, self.server.log)

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            _stop(self._process)
            self._process = None


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _spawn(model_folder: Path, flags: tuple[str, ...], port: int, log: Path) -> subprocess.Popen[bytes]:
    command = [
        str(VLLM_ENVIRONMENT / "bin/python"), "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(model_folder), "--served-model-name", model_folder.name,
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048", *flags,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("ab") as handle:
        return subprocess.Popen(
            command, stdout=handle, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
    pytest.fail(f"vLLM did not start (exit code {process.poll()}); the end of {log}:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server with all its processes, which form a process group."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
            process.wait(timeout=20)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
