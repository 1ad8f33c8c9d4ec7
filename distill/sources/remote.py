"""URLs in; what fsspec's filesystems hold there out: names with size and ETag, bytes, hashes. Errors name the URL and what to do."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from distill.config import ConfigError
from distill.records import DataError

BLOCK_BYTES = 4 * 1024**2
"""What one request to a server asks for."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a filesystem: its path or URL, what it is, its size as stored and its ETag where there is one."""

    path: str
    kind: Literal["file", "folder", "other"]
    size_bytes: int | None = None
    etag: str | None = None


def is_remote(path: str) -> bool:
    """Whether a path is a URL for fsspec."""
    return "://" in path


def open_filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """fsspec's filesystem for a URL, and the path in it. It remembers no listings: what it says was just asked for.

    Raises `ConfigError` if fsspec does not know the protocol, or naming what to install if the protocol's package is missing.
    """
    protocol = url.partition("://")[0]
    try:
        filesystem, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        needed = "the extra `s3`: pip install 'distill[s3]'" if protocol in _S3 else str(error)
        raise ConfigError(f"{url}: {protocol}:// needs a package that is not installed; install {needed}") from None
    except ValueError as error:
        raise ConfigError(f"{url}: {error}; give a path, or a URL such as s3://bucket/folder/") from None
    return filesystem, cast(str, path)


def remote_entry(url: str) -> Entry | None:
    """What stands at a URL; None if nothing does. A `/` at its end says folder. Raises `DataError` if the server does not tell."""
    filesystem, path = open_filesystem(url)
    try:
        info = asked(url, "look at", lambda: filesystem.info(path))
    except FileNotFoundError:
        return None
    return Entry(url, "folder") if url.endswith("/") else _entry(url, info)


def remote_children(url: str) -> list[Entry]:
    """The names in a remote folder, all of them however many. Raises `DataError` if the server does not tell."""
    filesystem, path = open_filesystem(url)
    try:
        infos = asked(url, "list", lambda: filesystem.ls(path, detail=True))
    except FileNotFoundError:
        return []
    entries = []
    for info in infos:
        if info["name"].strip("/") != path.strip("/"):
            entries.append(_entry(filesystem.unstrip_protocol(info["name"]), info))
        elif info["type"] == "directory":
            # s3://bucket/a//b is a legal key, but no filesystem has folders without a name. (A file here only says that there is a folder.)
            entries.append(Entry(f"{url.rstrip('/')}//", "other"))
    return entries


def remote_matches(pattern: str) -> list[Entry]:
    """What matches a glob. Raises `DataError` if it is none, or if the server does not tell."""
    filesystem, path = open_filesystem(pattern)
    try:
        infos = asked(pattern, "list", lambda: filesystem.glob(path, detail=True))
    except FileNotFoundError:
        return []
    return [_entry(filesystem.unstrip_protocol(info["name"]), info) for info in infos.values()]


def remote_files(url: str) -> dict[str, Entry]:
    """Every file below a remote folder by its path relative to it; none if there is no such folder. Raises `DataError` as above."""
    filesystem, path = open_filesystem(url)
    try:
        infos = asked(url, "list", lambda: filesystem.find(path, detail=True))
    except FileNotFoundError:
        return {}
    return {
        name[len(path) :].lstrip("/"): _entry(filesystem.unstrip_protocol(name), info) for name, info in infos.items()
    }


def open_remote(url: str, *, size_bytes: int | None) -> io.BufferedReader:
    """A stream over a remote file. One of up to a block is fetched by a single request. Raises whatever the filesystem does."""
    filesystem, path = open_filesystem(url)
    if size_bytes is not None and size_bytes <= BLOCK_BYTES:
        return io.BufferedReader(io.BytesIO(filesystem.cat_file(path) if size_bytes else b""))
    return io.BufferedReader(filesystem.open(path, "rb", cache_type="none"), BLOCK_BYTES)


def remote_head(url: str, *, num_bytes: int) -> bytes:
    """The first bytes of a remote file, by one request. Raises whatever the filesystem does."""
    filesystem, path = open_filesystem(url)
    return cast(bytes, filesystem.cat_file(path, start=0, end=num_bytes))


def remote_hash(url: str) -> str:
    """SHA-256 of a remote file's bytes as stored, read as a stream. Raises `DataError` if it cannot be read."""

    def read() -> str:
        digest = hashlib.sha256()
        with open_remote(url, size_bytes=None) as handle:
            while block := handle.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    return asked(url, "read", read)


def asked(url: str, verb: str, question: Callable[[], ResultT]) -> ResultT:
    """The answer of a filesystem to `question`. FileNotFoundError passes; any other error becomes a `DataError` about the URL."""
    try:
        return question()
    except FileNotFoundError:
        raise
    except Exception as error:  # every filesystem lets the errors of its own libraries through
        raise DataError(f"{url}: cannot {verb} it ({why(error)}); check the address and the credentials") from error


def why(error: Exception) -> str:
    """An error of a filesystem in one line: its own words, and what it is where it has none."""
    words = getattr(error, "strerror", None) or str(error)
    return " ".join(words.split()) or type(error).__name__


_S3 = ("s3", "s3a")


def _entry(url: str, info: dict[str, Any]) -> Entry:
    kind: Literal["file", "folder", "other"] = _KINDS.get(info["type"], "other")
    etag = info.get("ETag") or info.get("etag")
    return Entry(url, kind, info.get("size"), etag.strip('"') if isinstance(etag, str) else None)


_KINDS: dict[str, Literal["file", "folder"]] = {"file": "file", "directory": "folder"}
