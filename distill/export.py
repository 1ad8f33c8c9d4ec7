"""A run's finished sets in (prompts, curated and augmented examples), the files that other trainers read out, one per set and split."""

from __future__ import annotations

import filecmp
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, get_args

from distill.config import ConfigError
from distill.export_formats import ExportFormat, ToolsPlace, Unwritable, convert
from distill.records import DataError, Example, Prompt, Reject, Split, to_json
from distill.run_dir import Stage, atomic_file, read_rows, require_stage

EXPORT_STAGES: tuple[Stage, ...] = ("prompts", "curate", "augment")


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file that was written. `rejects` counts reasons, `notes` the rows of which the format leaves something out."""

    path: Path
    num_rows: int
    rejects: dict[str, int]
    notes: dict[str, int]


def export_run(
    run: Path,
    *,
    export_format: str,
    stage: str | None = None,
    split: str | None = None,
    tools: str = "text",
    out: Path | None = None,
    force: bool = False,
) -> list[ExportedFile]:
    """Write the rows of a run in another tool's format (`distill.export_formats`), all files or none.

    Without `stage` every finished one of prompts, curate and augment is written, without `split` every split. `out` is a folder (by
    default `RUN/export/FORMAT`) that gets `STAGE-SPLIT.jsonl` for each set, or, if it ends in `.jsonl`, the file of the only one. Rows
    that the format cannot carry are written beside it as rejects. A file that is there already and would change needs `force`.

    Raises `ConfigError` for a stage that is not finished, an unknown name and a file in the way, `DataError` if there are no rows.
    """
    chosen: ExportFormat = _known(export_format, get_args(ExportFormat), "--format")
    place: ToolsPlace = _known(tools, get_args(ToolsPlace), "--tools")
    if (chosen, place) == ("bedrock", "native"):
        raise ConfigError("--tools native: Bedrock's records for Llama know tools in the text only; use --tools text")
    stages = _finished_stages(run, None if stage is None else _known(stage, EXPORT_STAGES, "--stage"))
    splits = get_args(Split) if split is None else (_known(split, get_args(Split), "--split"),)
    target = out or run / "export" / (chosen if place == "text" else f"{chosen}-{place}")
    sets: dict[str, _OpenSet] = {}
    with ExitStack() as files:
        for name in stages:
            for row in _read(run, name):
                if row.split in splits:
                    key = f"{name}-{row.split}"
                    if key not in sets:
                        sets[key] = _open_set(target, key, others=sets, files=files)
                    _add(row, sets[key], export_format=chosen, tools=place)
        if not sets:
            raise DataError(f"{run}: {' and '.join(stages)} have no rows in {' or '.join(splits)}; choose another set")
        stale = [path for opened in sets.values() for path in _finish(opened, files, force=force)]
    for path in stale:
        path.unlink()
    return [
        ExportedFile(
            path=opened.path,
            num_rows=opened.num_rows,
            rejects=dict(Counter(reject.reason for reject in opened.rejects).most_common()),
            notes=dict(opened.notes),
        )
        for opened in sets.values()
    ]


def summary_lines(files: Sequence[ExportedFile]) -> Iterator[str]:
    """One line for each file: how many rows, rejects by reason, and what the format leaves out."""
    for file in files:
        parts = [f"{file.num_rows} rows", *(f"{count} {note}" for note, count in file.notes.items())]
        if file.rejects:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in file.rejects.items())
            parts.append(f"{sum(file.rejects.values())} rejects ({reasons}), see {_rejects_path(file.path).name}")
        yield f"{file.path}: {'; '.join(parts)}"


@dataclass(slots=True)
class _OpenSet:
    """The file of one set while it is written, and what became of its rows."""

    path: Path
    handle: IO[str]
    num_rows: int = 0
    rejects: list[Reject] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def _known(name: str, allowed: tuple[str, ...], option: str) -> Any:
    if name not in allowed:
        raise ConfigError(f"{option} {name}: not known; allowed: {', '.join(allowed)}")
    return name


def _finished_stages(run: Path, stage: Stage | None) -> tuple[Stage, ...]:
    if not run.is_dir():
        raise ConfigError(f"{run}: no such run folder; give the folder of a run, such as runs/demo")
    if stage is not None:
        require_stage(run, stage)
        return (stage,)
    finished = tuple(name for name in EXPORT_STAGES if (run / name / "manifest.json").exists())
    if not finished:
        raise ConfigError(f"{run}: none of the stages {', '.join(EXPORT_STAGES)} is finished; run `distill run` first")
    return finished


def _read(run: Path, stage: Stage) -> Iterator[Prompt] | Iterator[Example]:
    path = run / stage / "rows.jsonl"
    return read_rows(path, Prompt) if stage == "prompts" else read_rows(path, Example)


def _open_set(target: Path, key: str, *, others: dict[str, _OpenSet], files: ExitStack) -> _OpenSet:
    is_file = target.suffix == ".jsonl"
    if is_file and others:
        found = ", ".join([*others, key])
        raise ConfigError(f"--out {target}: one file for the sets {found}; add --stage and --split, or give a folder")
    path = target if is_file else target / f"{key}.jsonl"
    return _OpenSet(path, _open(path, files))


def _open(path: Path, files: ExitStack) -> IO[str]:
    try:
        handle: IO[str] = files.enter_context(atomic_file(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot write there ({error.strerror}); give another --out") from None
    return handle


def _add(row: Prompt | Example, opened: _OpenSet, *, export_format: ExportFormat, tools: ToolsPlace) -> None:
    try:
        converted = convert(row, export_format=export_format, tools=tools)
    except Unwritable as problem:
        source = row.source if isinstance(row, Prompt) else None
        opened.rejects.append(Reject(id=row.id, reason=problem.reason, detail=problem.detail, source=source))
        return
    opened.handle.write(converted.line)
    opened.num_rows += 1
    opened.notes.update(converted.notes)


def _finish(opened: _OpenSet, files: ExitStack, *, force: bool) -> list[Path]:
    """Write the rejects, and refuse to change what is there. Returns an earlier export's file of rejects if there are none now."""
    _check_unchanged(opened.handle, opened.path, force=force)
    path = _rejects_path(opened.path)
    if opened.rejects:
        handle = _open(path, files)
        handle.writelines(json.dumps(to_json(reject), ensure_ascii=False) + "\n" for reject in opened.rejects)
        _check_unchanged(handle, path, force=force)
        return []
    if path.exists() and not force:
        raise ConfigError(f"{path}: there already, and nothing is rejected now; --force removes it")
    return [path] if path.exists() else []


def _check_unchanged(handle: IO[str], path: Path, *, force: bool) -> None:
    handle.flush()
    if not force and path.exists() and not filecmp.cmp(handle.name, path, shallow=False):
        raise ConfigError(f"{path}: there already with other content; --force replaces it, --out writes elsewhere")


def _rejects_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.rejects.jsonl")
