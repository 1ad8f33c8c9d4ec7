"""A finished file or folder under a temporary name in, the same under its own name out: whole and on disk, or not there at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def partial_path(path: Path) -> Path:
    """Where to write what `publish` will put at `path`: beside it, empty."""
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    return partial


def publish(partial: Path, path: Path) -> None:
    """Bring a file or folder to disk and give it its name, replacing what stood there."""
    for item in sorted(partial.rglob("*")) if partial.is_dir() else []:
        _to_disk(item)
    _to_disk(partial)
    if path.is_dir():
        shutil.rmtree(
            path
        )  # a folder cannot be replaced in one step; its manifest, written later, says that it is whole
    os.replace(partial, path)
    _to_disk(path.parent)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
