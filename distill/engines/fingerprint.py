"""A model's name in, a name out that changes with its weights; no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from distill.config import model_path

BLOCK_BYTES = 1 << 20


def model_label(name: str) -> str:
    """A model's name with what changes when its weights do: how an engine of it is called."""
    return f"{name}@{fingerprint(model_path(name))}"


def fingerprint(path: str) -> str:
    """12 hexadecimal digits that change with a model folder's weights; a hub name stands for itself."""
    folder = Path(path)
    digest = hashlib.sha256(b"" if folder.is_dir() else path.encode())
    for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")) if folder.is_dir() else []:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as handle:
            while block := handle.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:12]
