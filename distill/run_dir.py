"""The run folder: one folder per stage with rows, rejects and a manifest written last; resume, locks, `status.json`; no torch.

```
runs/NAME/  run.yaml  status.json  lock
            STAGE/    inputs.json  rows.jsonl  rejects.jsonl  manifest.json ...
```
`inputs.json` is written when a stage starts, `manifest.json` when it is done: its presence means done. A start with the same
inputs resumes or says "up to date"; with other inputs it stops, names what changed, and the flag that redoes it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from typing_extensions import Self

from distill.config import Config, ConfigError, dump_config
from distill.records import DataError, JsonObject, JsonValue, Reject, to_json

Stage = Literal["prompts", "annotate", "curate", "augment", "train", "evaluate", "report"]
State = Literal["NotStarted", "InProgress", "Completed", "Stopped", "Failed"]

STAGES: tuple[Stage, ...] = ("prompts", "annotate", "curate", "augment", "train", "evaluate", "report")
KEPT_ON_REDO = re.compile(
    r"requests(-.+)?\.jsonl|usage\.json|server\.log(\.pid)?"
)  # answers paid for, what was paid, to whom
PACKAGES = ("distill", "torch", "transformers", "peft", "accelerate")
LINE_EVERY_S = 30.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FromJson(Protocol):
    """A record class of `distill.records`."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self: ...


RowT = TypeVar("RowT", bound=FromJson)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run folder for this process; a second process is refused with `ConfigError`."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        handle = (run / "lock").open("a")
    except OSError as error:
        raise ConfigError(f"{run}: cannot write the run folder ({error.strerror}); choose another run.dir") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{run}: another process is working on this run; wait for it or stop it") from None
        yield


def save_resolved_config(run: Path, config: Config) -> None:
    """Write `run.yaml`, the configuration as it was understood."""
    write_text(run / "run.yaml", dump_config(config))


def start_stage(run: Path, stage: Stage, inputs: Mapping[str, JsonValue], *, redo: bool) -> bool:
    """Whether there is work to do: False if the stage is done with these inputs.

    Leaves what an interrupted start with the same inputs wrote. With other inputs raises `ConfigError` naming the changed ones
    unless nothing was written yet, as after a mistake in the inputs, or `redo`, which removes the stage's folder but for the
    answers a model was paid for.
    """
    folder = run / stage
    recorded = _recorded_inputs(folder)
    changed = [] if recorded is None or _is_untouched(folder) else _changes(recorded, inputs)
    if changed and not redo:
        lines = "\n".join(f"  {line}" for line in changed)
        raise ConfigError(
            f"{folder}: this stage was started with other inputs\n{lines}\n"
            f"Choose another run.dir to keep it, or redo it with `distill run CONFIG --redo {stage}`"
        )
    if redo:
        _clear(folder)
    elif (folder / "manifest.json").exists():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "inputs.json", dict(inputs))
    return True


def finish_stage(run: Path, stage: Stage, *, counts: Mapping[str, JsonValue], files: Sequence[str]) -> None:
    """Write the manifest: inputs, counts, a hash per output file, versions. Nothing in it depends on the time of day."""
    folder = run / stage
    manifest: JsonObject = {
        "stage": stage,
        "inputs": _recorded_inputs(folder) or {},
        "counts": dict(counts),
        "outputs": {name: file_hash(folder / name) for name in files},
        "versions": package_versions(),
    }
    write_json(folder / "manifest.json", manifest)


def require_stage(run: Path, stage: Stage) -> JsonObject:
    """The manifest of a finished stage; `ConfigError` if it is not finished."""
    path = run / stage / "manifest.json"
    if not path.exists():
        raise ConfigError(
            f"{run / stage}: stage `{stage}` is not finished; run `distill {stage}` or `distill run` first"
        )
    return read_json(path)


def stage_hash(run: Path, stage: Stage) -> str:
    """One hash over a finished stage's outputs: what the next stage names as its input."""
    return _hash_text(json.dumps(require_stage(run, stage)["outputs"], sort_keys=True))


def read_rows(path: Path, row_type: type[RowT]) -> Iterator[RowT]:
    """Records of a `rows.jsonl` written by a stage. `DataError` names the line that is not such a record."""
    for number, line in enumerate(_lines(path), start=1):
        yield _row(line, f"{path}:{number}", row_type)


def read_rows_with_offsets(path: Path, row_type: type[RowT]) -> Iterator[tuple[int, RowT]]:
    """As `read_rows`, each record with the place of its line, for `read_row_at`."""
    offset = 0
    with path.open("rb") as handle:
        for line in handle:
            yield offset, _row(line, f"{path}, byte {offset}", row_type)
            offset += len(line)


def read_row_at(handle: BinaryIO, offset: int, row_type: type[RowT]) -> RowT:
    """The record whose line begins at `offset`."""
    handle.seek(offset)
    return _row(handle.readline(), f"{handle.name}, byte {offset}", row_type)


def write_rows(path: Path, records: Iterable[Any]) -> int:
    """Write records as JSON lines, all or nothing; returns how many."""
    count = 0
    with atomic_file(path) as handle:
        for record in records:
            handle.write(row_line(record))
            count += 1
    return count


def row_line(record: Any) -> str:
    """A record as the line of a `rows.jsonl`."""
    return json.dumps(to_json(record), ensure_ascii=False) + "\n"


def write_stage_rows(run: Path, stage: Stage, records: Iterable[Any], rejects: Iterable[Reject]) -> tuple[int, int]:
    """`rows.jsonl` and `rejects.jsonl` of a stage; returns how many of each."""
    return write_rows(run / stage / "rows.jsonl", records), write_rows(run / stage / "rejects.jsonl", rejects)


@contextmanager
def atomic_file(path: Path) -> Iterator[Any]:
    """A text file that appears under its name only when complete and on disk. A full disk is a `DataError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="surrogatepass") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise DataError(
                f"{path}: cannot write it ({error.strerror}); what was done before is kept. Make room and start again"
            ) from None
        raise
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write a small file, all or nothing."""
    with atomic_file(path) as handle:
        handle.write(text)


def write_json(path: Path, value: JsonValue) -> None:
    """Write a small JSON file, all or nothing."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> JsonObject:
    """A JSON object that a stage wrote."""
    value: JsonObject = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    return value


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_dir():
        parts = [f"{item.relative_to(path)}:{file_hash(item)}" for item in sorted(path.rglob("*")) if item.is_file()]
        return _hash_text("\n".join(parts))
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def package_versions() -> JsonObject:
    """Versions of the packages that numbers depend on."""
    found: JsonObject = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def read_status(run: Path) -> JsonObject:
    """`status.json`, or an empty status for a run that never started."""
    path = run / "status.json"
    if path.exists():
        return read_json(path)
    return {"run": run.name, "stages": {stage: {"state": "NotStarted"} for stage in STAGES}}


def set_state(run: Path, stage: Stage, state: State, **fields: JsonValue) -> None:
    """Record where a stage stands in `status.json`: its state, when that changed, and any further fields."""
    status = read_status(run)
    stages = status["stages"]
    assert isinstance(stages, dict)
    previous = stages.get(stage)
    assert isinstance(previous, dict)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry: JsonObject = {**previous, "state": state, **fields, "updated_at": now}
    if state == "InProgress":
        entry.setdefault("started_at", now)
        if previous.get("state") != "InProgress":
            entry["started_at"] = now
            entry.pop("message", None)
    stages[stage] = entry
    write_json(run / "status.json", status)


class Progress:
    """A bar with rate and ETA on the terminal (a line now and then elsewhere), mirrored into `status.json` once a second."""

    def __init__(self, run: Path, stage: Stage, *, total: int, unit: str, label: str = "", done: int = 0) -> None:
        self.run, self.stage, self.total, self.unit, self.label = run, stage, total, unit, label or stage
        self.done, self.first, self.note = done, done, ""
        self.started = self.written = self.printed = time.monotonic()
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bar = (
            RichProgress(*columns, TextColumn("{task.fields[note]}"), console=console) if console.is_terminal else None
        )
        self.task = self.bar.add_task(self.label, total=total, completed=done, note="") if self.bar else None

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        self._write()
        return self

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """`count` more units are done; `note` stands behind the bar."""
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=self.done, note=f"{self._rate():.1f} {self.unit}/s {self.note}")
        elif now - self.printed >= LINE_EVERY_S:
            self.printed = now
            print(self._line(), file=sys.stderr, flush=True)
        if now - self.written >= 1.0:
            self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        elif kind is None:
            print(self._line(), file=sys.stderr, flush=True)
        self._write()

    def _rate(self) -> float:
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-6)

    def _eta_s(self) -> float | None:
        rate = self._rate()
        return None if rate == 0 else round((self.total - self.done) / rate, 1)

    def _line(self) -> str:
        eta = self._eta_s()
        left = "" if eta is None else f", {eta:.0f} s left"
        return f"{self.label}: {self.done}/{self.total} {self.unit}, {self._rate():.1f} {self.unit}/s{left} {self.note}".rstrip()

    def _write(self) -> None:
        self.written = time.monotonic()
        set_state(
            self.run, self.stage, "InProgress",
            label=self.label, done=self.done, total=self.total, unit=self.unit,
            rate=round(self._rate(), 3), eta_s=self._eta_s(), note=self.note,
        )  # fmt: skip


def _recorded_inputs(folder: Path) -> JsonObject | None:
    path = folder / "inputs.json"
    return read_json(path) if path.exists() else None


def _changes(recorded: Mapping[str, JsonValue], inputs: Mapping[str, JsonValue]) -> list[str]:
    names = sorted({*recorded, *inputs})
    return [
        f"{name}: was {json.dumps(recorded.get(name))}, now {json.dumps(inputs.get(name))}"
        for name in names
        if recorded.get(name) != inputs.get(name)
    ]


def _is_untouched(folder: Path) -> bool:
    return all(item.name == "inputs.json" or item.stat().st_size == 0 for item in folder.iterdir())


def _clear(folder: Path) -> None:
    """The manifest goes first and the inputs last, so that a kill in between leaves neither "done" nor rows of unknown inputs."""
    if not folder.exists():
        return
    for item in sorted(folder.iterdir(), key=lambda item: (item.name != "manifest.json", item.name == "inputs.json")):
        if KEPT_ON_REDO.fullmatch(item.name):
            continue
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()


def _row(line: str | bytes, where: str, row_type: type[RowT]) -> RowT:
    try:
        text = line.decode("utf-8", "surrogatepass") if isinstance(line, bytes) else line
        return row_type.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: not a {row_type.__name__} ({error}); redo the stage that wrote it") from None


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as handle:
        yield from handle


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
