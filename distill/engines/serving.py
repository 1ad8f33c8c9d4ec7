"""A `ServeConfig` in, a running vLLM out: waited for, started again after a crash, and ended with this process however that ends.

vLLM's processes stand in a session of their own below a small Python process, the keeper, which ends them all when it is told to
or this process is gone, be it by `kill -9`. `LOG.pid` beside the log names the session, so that the next start ends one that was left.
"""

from __future__ import annotations

import http.client
import inspect
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from distill.config import ConfigError, ServeConfig, model_path
from distill.records import DataError

KEY_VARIABLE = "VLLM_API_KEY"
GRACE_S = 30.0  # between SIGTERM and SIGKILL: vLLM lets go of its GPUs and shared memory in a few seconds
POLL_S = 0.25
LINE_EVERY_S = 10.0
TAIL_LINES = 20
TAIL_BYTES = 64 * 1024

REFUSED_FLAGS = {
    "api-key": "the key comes from the environment variable named by teacher.api_key_env, so that no file holds it",
    "served-model-name": "the model is served as teacher.model",
    "config": "that is teacher.serve.config",
    "uds": "the server is reached by its port",
    "ssl-certfile": "the server is reached without TLS, from this machine",
    "ssl-keyfile": "the server is reached without TLS, from this machine",
    "headless": "a server without an address cannot be asked; start further nodes by hand",
}
ANSWERING_FLAGS = (
    "model", "revision", "tokenizer", "tokenizer-mode", "dtype", "quantization", "kv-cache-dtype", "hf-overrides", "rope-scaling",
    "chat-template", "tool-call-parser", "reasoning-parser",
)  # fmt: skip
HINTS = (
    (r"gated repo|Access to model .* is restricted|401 Client Error",
     "accept the model's licence on the hub and set HF_TOKEN, or give a folder as `model`"),
    (r"unrecognized arguments|invalid choice|expected (one|at least one) argument|ambiguous option",
     "this vLLM has no such flag or value: correct teacher.serve.config or teacher.serve.arguments"),
    (r"out of memory|No available memory for the cache|Free memory on device|Available memory on node|to serve at least one request",
     "GPU memory is short: end what else runs there, lower max-model-len, or raise tensor-parallel-size"),
    (r"[Aa]ddress already in use", "another server has that port: leave `port` out and a free one is taken"),
    (r"is not a local folder|Repository Not Found|not a valid model identifier|LocalEntryNotFound|couldn't connect to",
     "the model was not found: correct `model`, a folder or hub name, in teacher.serve.config or teacher.serve.arguments"),
)  # fmt: skip


def start_serving(serve: ServeConfig, *, model: str, api_key: str | None, log: Path) -> Serving:
    """Start vLLM and wait until it answers; it serves under the name `model` and asks for `api_key` where there is one.

    Flags are, the first that is given: those of `serve.arguments`, those of the file `serve.config`, and then `host` 127.0.0.1, a
    free `port`, and as `model` the folder or hub name that `model` is. What vLLM prints is added to `log`. A server that an earlier
    process left behind is ended first. Raises `ConfigError` for what can be seen before starting, and where vLLM ends or is not
    ready within `serve.start_timeout_s`.
    """
    if not Path("/proc/self/stat").exists():
        raise ConfigError(
            "teacher.serve: vLLM is started on Linux only; start a server by hand and give its teacher.base_url"
        )
    if KEY_VARIABLE in serve.environment:
        raise ConfigError(f"teacher.serve.environment: remove {KEY_VARIABLE}; {REFUSED_FLAGS['api-key']}")
    launch = _launch(serve, model=model, api_key=api_key or None)
    _check_python(serve, launch.environment)
    serving = Serving(serve, launch, api_key=api_key or None, log=log)
    try:
        serving._start()
    except _NotStarted as error:
        raise ConfigError(str(error)) from None
    return serving


def answering_flags(serve: ServeConfig) -> dict[str, Any]:
    """Those flags that decide what the server answers. A file that cannot be read has none: starting the server says what is wrong."""
    try:
        from_file = _read_flags(serve.config)
    except ConfigError:
        from_file = {}
    given = {**from_file, **_arguments(serve)}
    return {name: given[name] for name in ANSWERING_FLAGS if name in given}


class Serving:
    """A vLLM server that was started here. All methods may be called from any thread."""

    def __init__(self, serve: ServeConfig, launch: _Launch, *, api_key: str | None, log: Path) -> None:
        self.base_url = launch.base_url
        self._serve, self._launch, self._log = serve, launch, _Log(log, secret=api_key)
        self._pid_file = log.with_name(f"{log.name}.pid")
        self._keeper: subprocess.Popen[bytes] | None = None
        self._num_restarts = 0
        self._changing = threading.RLock()  # held by whoever starts or ends the process
        self._stopped = threading.Event()

    def has_ended(self) -> bool:
        """Whether the server's process is gone, by a crash or by `stop`."""
        return self._keeper is None or self._keeper.poll() is not None

    def restart(self) -> None:
        """Start the server again after a crash, at the same address; nothing is done to one that runs.

        A restart that fails counts, too. Raises `DataError` once `serve.max_restarts` are spent, and after `stop`.
        """
        with self._changing:
            trouble = self._failure(self._end_in_words())
            while self.has_ended():
                self._spend_a_restart(trouble)
                try:
                    self._start()
                except _NotStarted as error:
                    trouble = str(error)

    def stop(self) -> None:
        """End all of the server's processes: SIGTERM, and SIGKILL `GRACE_S` later. May be called again."""
        self._stopped.set()  # a restart that is under way in another thread gives up
        with self._changing:
            self._end()

    def _start(self) -> None:
        """Start the process and wait until it answers. Raises `_NotStarted` with the process ended."""
        self._log.begin(self._launch.command)
        self._end()  # what an earlier process left behind
        _check_port_is_free(self._launch.host, self._launch.port)
        started = time.monotonic()
        try:
            self._keeper = self._spawn(self._launch.command)
            self._wait_until_healthy(started)
        except BaseException:
            self._end()
            raise
        print(
            f"vLLM is ready after {time.monotonic() - started:.0f} s at {self.base_url}, log {self._log.path}",
            file=sys.stderr,
        )

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        """The keeper of a server; without a command it only ends one that was left behind."""
        arguments = [str(os.getpid()), str(GRACE_S), str(self._pid_file), *command]
        with self._log.path.open("ab") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-", *arguments],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=self._launch.environment,
                start_new_session=True,  # Ctrl-C on the terminal is ours to pass on
            )  # fmt: skip
        assert keeper.stdin is not None
        with keeper.stdin as program:
            program.write(KEEPER.encode())
        return keeper

    def _wait_until_healthy(self, started: float) -> None:
        deadline = started + self._serve.start_timeout_s
        with _progress() as say:
            while not _answers_health(self._launch.host, self._launch.port):
                elapsed_s = time.monotonic() - started
                if self._stopped.is_set():
                    raise _NotStarted("teacher.serve: vLLM was stopped")
                if self.has_ended():
                    raise _NotStarted(self._failure(f"{self._end_in_words()} {elapsed_s:.0f} s after its start"))
                if time.monotonic() > deadline:
                    raise _NotStarted(
                        self._failure(
                            f"did not answer within teacher.serve.start_timeout_s = {self._serve.start_timeout_s:g} s "
                            "and was stopped; if it only needed more time, raise that"
                        )
                    )
                say(f"vLLM is starting: {elapsed_s:.0f} s, last log line: {self._log.last_line()}")
                time.sleep(POLL_S)

    def _end(self) -> None:
        if self._keeper is not None:
            _end_process(self._keeper)
        if self._pid_file.exists():  # the keeper itself was killed
            _end_process(self._spawn([]), told=False)

    def _end_in_words(self) -> str:
        code = self._keeper.poll() if self._keeper else None
        return "is not running" if code is None else f"ended with {_exit_in_words(code)}"

    def _failure(self, what: str) -> str:
        return f"teacher.serve: vLLM {what}. The end of {self._log.path}:\n{self._log.tail()}\nWhat to do: {self._log.hint()}"

    def _spend_a_restart(self, trouble: str) -> None:
        limit = self._serve.max_restarts
        if self._stopped.is_set():
            raise DataError("teacher.serve: vLLM was stopped")
        if self._num_restarts >= limit:
            raise DataError(
                f"{trouble}\nIt was started again {self._num_restarts} time(s), as many as teacher.serve.max_restarts allows. "
                "Answers so far are kept; the same command goes on from there"
            )
        self._num_restarts += 1
        print(f"vLLM {self._end_in_words()}; restart {self._num_restarts} of {limit}", file=sys.stderr)


class _NotStarted(Exception):
    """vLLM did not come up; the message says why."""


@dataclass(frozen=True, slots=True)
class _Launch:
    """How the server is started. `environment` holds the key."""

    command: list[str]
    environment: dict[str, str] = field(repr=False)
    host: str
    port: int

    @property
    def base_url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/v1"


class _Log:
    """What the server prints, from its latest start on, without the key."""

    def __init__(self, path: Path, *, secret: str | None) -> None:
        self.path, self.secret, self.start = path, secret, 0

    def begin(self, command: list[str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            self.start = file.tell()
            file.write(f"$ {' '.join(command)}\n".encode())

    def tail(self) -> str:
        """The last lines, after the errors before them: vLLM names the cause first and ends with a long traceback."""
        lines = self._lines()
        causes = [line for line in lines[:-TAIL_LINES] if re.search(r"\b[A-Z]\w*(Error|Exception): ", line)]
        causes = [line for line in causes if " WARNING " not in line][-3:]
        shown = [*causes, "...", *lines[-TAIL_LINES:]] if causes else lines[-TAIL_LINES:]
        return "\n".join(f"  {line}" for line in shown)

    def last_line(self) -> str:
        """Without process, level, time and place, which vLLM puts in front."""
        last = self._lines()[-1]
        if last.startswith("$ "):
            return "none yet"
        return re.sub(r"^(\(\S+ pid=\d+\) )?[A-Z]+ \S+ \S+ \[\S+\] ", "", last)[:100]

    def hint(self) -> str:
        text = "\n".join(self._lines())
        for pattern, advice in HINTS:
            if re.search(pattern, text):
                return advice
        return "mend what the log complains of, in the file of teacher.serve.config or in teacher.serve.arguments"

    def _lines(self) -> list[str]:
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.start, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
        if self.secret:
            text = text.replace(self.secret, "[key]")
        return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


def _launch(serve: ServeConfig, *, model: str, api_key: str | None) -> _Launch:
    from_file = _read_flags(serve.config)
    arguments = _arguments(serve)
    _check_flags(f"teacher.serve.config: {serve.config}", from_file)
    _check_flags("teacher.serve.arguments", arguments)
    given = {**from_file, **arguments}
    host = str(given.get("host", "127.0.0.1"))
    port = _port(given["port"]) if "port" in given else _free_port()
    own: dict[str, str | int] = {"host": host, "port": port, "served-model-name": model}
    if "model" not in given:
        own["model"] = model_path(model)
    flags = [_flag(name, value) for name, value in {**arguments, **own}.items()]
    return _Launch(
        command=[serve.python, "-m", "vllm.entrypoints.openai.api_server", "--config", serve.config, *flags],
        environment=_environment(serve, api_key),
        host="127.0.0.1" if host in ("0.0.0.0", "::", "") else host,
        port=port,
    )


def _arguments(serve: ServeConfig) -> dict[str, str | int | float | bool]:
    return {_flag_name(name): value for name, value in serve.arguments.items()}


def _read_flags(path: str) -> dict[str, Any]:
    """What vLLM will take from its file, by flag name."""
    where = f"teacher.serve.config: {path}"
    if Path(path).suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{where}: vLLM reads its flags from a .yaml file only; rename it")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where}: cannot read it ({error.strerror}); configs/serve/ has examples") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(
            f"{where}: expected vLLM's flags as `name: value`, such as `max-model-len: 16384`; "
            f"found {type(values).__name__}"
        )
    return {_flag_name(name): value for name, value in values.items()}


def _check_flags(where: str, flags: Iterable[str]) -> None:
    for name in flags:
        if name in REFUSED_FLAGS:
            raise ConfigError(f"{where}: remove `{name}`; {REFUSED_FLAGS[name]}")


def _flag_name(name: str) -> str:
    """As vLLM writes it: underscores are dashes, but for those in the keys of a nested value (`compilation-config.pass_config`)."""
    flag, dot, keys = name.removeprefix("--").partition(".")
    return flag.replace("_", "-") + dot + keys


def _flag(name: str, value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def _port(value: object) -> int:
    with suppress(ValueError):
        if 1024 <= int(str(value)) <= 65535:
            return int(str(value))
    raise ConfigError(f"teacher.serve: port {value!r}; give a number from 1024 to 65535, or none for a free one")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _check_port_is_free(host: str, port: int) -> None:
    """Another server on the port would answer our requests while vLLM fails to listen there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        raise _NotStarted(
            f"teacher.serve: another server listens on {host}:{port}; end it, or leave `port` out and a free one is taken"
        )


def _environment(serve: ServeConfig, api_key: str | None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    key = {KEY_VARIABLE: api_key} if api_key else {}
    return {**inherited, "VLLM_NO_USAGE_STATS": "1", **serve.environment, **key}


def _check_python(serve: ServeConfig, environment: Mapping[str, str]) -> None:
    where = f"teacher.serve.python: {serve.python}"
    advice = "give the python of the environment that vLLM is installed in (`make vllm` builds .venv-vllm for the CPU)"
    if shutil.which(serve.python) is None:
        raise ConfigError(f"{where}: no such program; {advice}")
    check = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    done = subprocess.run([serve.python, "-c", check], stderr=subprocess.DEVNULL, env=environment)
    if done.returncode != 0:
        raise ConfigError(f"{where}: no Python that has vLLM; {advice}")


def _answers_health(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)  # no proxy, whatever the environment says
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A function that shows how far the start is: a status on the terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("vLLM is starting") as status:
            yield lambda text: status.update(escape(text))
        return
    printed = time.monotonic() - LINE_EVERY_S

    def say(text: str) -> None:
        nonlocal printed
        if time.monotonic() - printed >= LINE_EVERY_S:
            printed = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    yield say


def _exit_in_words(code: int) -> str:
    number = -code if code < 0 else code - 128
    with suppress(ValueError):
        name = signal.Signals(number).name
        why = ": somebody ended it, or the machine's memory ran out" if name == "SIGKILL" else ""
        return f"exit code {code} ({name}{why})"
    return f"exit code {code}"


def _end_process(keeper: subprocess.Popen[bytes], *, told: bool = True) -> None:
    if told and keeper.poll() is None:
        keeper.terminate()
    try:
        keeper.wait(timeout=GRACE_S + 10)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


# What follows runs in the keeper, a Python without this package: the source of these functions is its program.


def _keep(parent: int, grace_s: float, pid_file: str, command: list[str]) -> int:
    """Run the command until it ends, we are told to stop, or the parent is gone; then end its whole session. Its exit code."""
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    _end_left_behind(pid_file, grace_s)
    if not command:
        return 0
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    identity = f"{server.pid} {_stat(server.pid)[19]}"
    try:
        with open(pid_file, "w") as file:
            file.write(identity)
        while server.poll() is None and not told and os.getppid() == parent:
            time.sleep(0.1)
    finally:
        _end_session(server.pid, grace_s)
    code = server.wait()
    if _read(pid_file) == identity:  # the next start may have written its own by now
        os.unlink(pid_file)
    return code if code >= 0 else 128 - code


def _end_left_behind(pid_file: str, grace_s: float) -> None:
    """End the session named in the file, unless its number belongs to another process by now."""
    identity = _read(pid_file)
    pid, _, started = identity.partition(" ")
    if pid.isdigit():
        leader = _stat(int(pid))
        if not leader or leader[19] == started:
            _end_session(int(pid), grace_s)
    if identity and _read(pid_file) == identity:
        os.unlink(pid_file)


def _end_session(session: int, grace_s: float) -> None:
    """SIGTERM, and SIGKILL to whoever is left after `grace_s`."""
    deadline = time.monotonic() + grace_s
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _members(session):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        while _members(session) and time.monotonic() < deadline:
            time.sleep(0.1)


def _members(session: int) -> list[int]:
    """The session's processes, but for those that only wait to be reaped."""
    fields = {int(name): _stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return [pid for pid, stat in fields.items() if stat and stat[3] == str(session) and stat[0] not in "ZX"]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, see proc(5): 0 state, 3 session, 19 start time; none without such a process."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


KEEPER = "\n".join(
    [
        "from __future__ import annotations",
        "import os, signal, subprocess, sys, time",
        *(inspect.getsource(function) for function in (_keep, _end_left_behind, _end_session, _members, _stat, _read)),
        "sys.exit(_keep(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]))",
    ]
)
"""The keeper's program, which it reads from its standard input so that `ps` stays legible."""
