"""A finished stage of a run in; a copy of its folder at a URL (`s3://bucket/runs/NAME`, or anything of fsspec's) out.

```
URL/STAGE/  rows.jsonl ...  published.json  manifest.json
```
As in a run folder, `manifest.json` comes last and says that all the rest is there: it is taken away before anything beside it changes.
`published.json` names every file with its SHA-256 and the size and ETag it got at the server, and is written anew after each upload, so
that a publication which was cut off goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from distill.config import ConfigError
from distill.records import DataError, JsonObject
from distill.run_dir import Stage, file_hash, require_stage
from distill.sources.files import read_bytes
from distill.sources.remote import Entry, asked, is_remote, open_filesystem, remote_entry, remote_files, remote_hash

MANIFEST = "manifest.json"
LEDGER = "published.json"


@dataclass(frozen=True, slots=True)
class Publication:
    """Where a stage stands now, and which files, named relative to it, were uploaded, stood there already, or were removed."""

    url: str
    uploaded: tuple[str, ...]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]


def publish_stage(run: Path, stage: Stage, url: str, *, replace: bool) -> Publication:
    """Copy a finished stage to `url`/STAGE: every file that is not there yet or differs.

    Names that begin with a dot (files in the making) stay behind. Over another finished stage that was published there nothing is
    written unless `replace`; then what the old one had and this one has not is removed, and nothing else. Whoever calls holds the
    run's lock. Raises `ConfigError` if the stage is not finished, if `url` is no URL that can be written, or if another stage is
    there; `DataError` if a file is not what the manifest says, or if the server fails.
    """
    manifest = require_stage(run, stage)
    if not is_remote(url):
        raise ConfigError(
            f"{url}: not a URL; give one such as s3://bucket/runs/NAME, or file:///mnt/runs/NAME for a disk"
        )
    folder, target = run / stage, f"{url.rstrip('/')}/{stage}"
    hashes = _hashes(folder, manifest)
    there = remote_files(target)
    is_same = MANIFEST in there and read_bytes(f"{target}/{MANIFEST}") == (folder / MANIFEST).read_bytes()
    if MANIFEST in there and not (is_same or replace):
        raise ConfigError(
            f"{target}: another finished `{stage}` was published there; publish to another URL, or say that it may be replaced"
        )
    ledger = _read_ledger(target) if LEDGER in there else {}
    unchanged = [name for name in hashes if _is_there(target, name, hashes[name], there, ledger)]
    stale = [name for name in ledger if name in there and name not in hashes]
    if is_same and len(unchanged) == len(hashes) and not stale:
        return Publication(target, (), (*unchanged, MANIFEST), ())
    if MANIFEST in there:
        _write(target, MANIFEST, lambda filesystem, path: filesystem.rm_file(path))
    for name in stale:
        _write(target, name, lambda filesystem, path: filesystem.rm_file(path))
    ledger = {name: ledger[name] for name in unchanged}
    if stale:
        _write_ledger(target, ledger)
    uploaded = [name for name in hashes if name not in ledger]
    for name in uploaded:
        ledger[name] = _upload(folder, target, name, hashes[name])
        _write_ledger(target, ledger)
    _upload(folder, target, MANIFEST, "")
    return Publication(target, (*uploaded, MANIFEST), tuple(unchanged), tuple(stale))


def _hashes(folder: Path, manifest: JsonObject) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by its name. Raises `DataError` if one is not what the manifest says."""
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.as_posix() for path in files if not any(part.startswith(".") for part in path.parts)]
    hashes = {name: file_hash(folder / name) for name in names if name not in (MANIFEST, LEDGER)}
    outputs = manifest["outputs"]
    assert isinstance(outputs, dict)
    for name, expected in outputs.items():
        if not (folder / name).exists():
            raise DataError(f"{folder / name}: the manifest names this file and it is gone; redo the stage")
        if (hashes.get(name) or file_hash(folder / name)) != expected:
            raise DataError(f"{folder / name}: changed since the stage was finished; redo the stage")
    return hashes


def _is_there(
    target: str, name: str, sha256: str, there: Mapping[str, Entry], ledger: Mapping[str, JsonObject]
) -> bool:
    """Whether the server has this content: the ledger says so and speaks of the object that is there."""
    entry, record = there.get(name), ledger.get(name)
    if entry is None or record is None or record["sha256"] != sha256 or record["size_bytes"] != entry.size_bytes:
        return False
    return record["etag"] == entry.etag if entry.etag is not None else remote_hash(f"{target}/{name}") == sha256


def _upload(folder: Path, target: str, name: str, sha256: str) -> JsonObject:
    """Put a file there; returns what the ledger says of it."""
    local = folder / name
    _write(target, name, lambda filesystem, path: filesystem.put_file(str(local), path))
    entry, size_bytes = remote_entry(f"{target}/{name}"), local.stat().st_size
    if entry is None or entry.size_bytes != size_bytes:
        found = "nothing" if entry is None else f"{entry.size_bytes} bytes"
        raise DataError(f"{target}/{name}: {size_bytes} bytes were uploaded and {found} arrived; publish again")
    return {"sha256": sha256, "size_bytes": size_bytes, "etag": entry.etag}


def _write_ledger(target: str, ledger: Mapping[str, JsonObject]) -> None:
    text = json.dumps(dict(sorted(ledger.items())), indent=2, ensure_ascii=False) + "\n"
    _write(target, LEDGER, lambda filesystem, path: filesystem.pipe_file(path, text.encode("utf-8", "surrogatepass")))


def _read_ledger(target: str) -> dict[str, JsonObject]:
    """What an earlier publication put there; nothing if that cannot be understood: then all of it is uploaded again."""
    try:
        value = json.loads(read_bytes(f"{target}/{LEDGER}"))
        return {name: {key: record[key] for key in ("sha256", "size_bytes", "etag")} for name, record in value.items()}
    except (ValueError, AttributeError, TypeError, KeyError):
        return {}


def _write(target: str, name: str, change: Callable[[AbstractFileSystem, str], object]) -> None:
    """Do one change to one object of the target."""
    filesystem, path = open_filesystem(f"{target}/{name}")

    def act() -> None:
        if isinstance(filesystem, LocalFileSystem):
            # Object stores need no folders; asked for one, S3's filesystem would rather create a missing bucket.
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        change(filesystem, path)

    try:
        asked(f"{target}/{name}", "write", act)
    except FileNotFoundError as error:
        raise ConfigError(f"{target}: cannot be written ({error}); create the bucket first") from None
