"""The user's inputs (a file, a folder, a glob, local or remote, plain or gzip) in, their lines with number and byte offset out.

What contains `://` is remote and read through fsspec; everything else is a local path. A folder is read with its sub-folders in
the order of names, only files with an accepted suffix; all others are named as skipped. Files are streams: whatever their size,
memory holds a block and one line.
"""

from __future__ import annotations

import glob
import gzip
import io
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.config import ConfigError
from distill.records import DataError
from distill.run_dir import file_hash
from distill.sources.remote import (
    BLOCK_BYTES,
    Entry,
    is_remote,
    open_remote,
    remote_children,
    remote_entry,
    remote_hash,
    remote_head,
    remote_matches,
    why,
)

MAX_LINE_BYTES = 16 * 1024**2
"""Longest line that is kept. Parsed JSON can take 25 times the memory of its text (`[[],[],...`), so that a line stays under 0.5 GB."""
MAX_BODY_BYTES = 32 * 1024**2
"""Largest object that `read_bytes` returns, unpacked. Bedrock takes requests of up to 25,000,000 bytes."""

LINES_PER_ADVANCE = 256


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: 1-based `number`, `offset` of its first byte in the uncompressed data, `data` without the newline.

    Of a line longer than `MAX_LINE_BYTES`, `is_cut` is true and `data` its beginning and a NUL byte, which nobody takes for JSON.
    """

    number: int
    offset: int
    data: bytes
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to be read: its local path or URL, its size as stored (None where a server does not tell) and a remote object's ETag."""

    path: str
    size_bytes: int | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """What stands in a folder or matches a glob and is not read, and why."""

    path: str
    detail: str


def open_inputs(spec: str, *, suffixes: tuple[str, ...]) -> Iterator[InputFile | SkippedFile]:
    """The files that `spec` names: one file whatever its suffix, or those of a folder or a glob that have one of `suffixes`.

    They are listed as the caller goes on, one folder at a time. A glob matches files, by `**` in any depth. In folders, names that
    begin with a dot and links to folders are skipped. Raises `ConfigError` if nothing is there or nothing has an accepted suffix,
    `DataError` if something cannot be listed.
    """
    num_files, num_skipped = 0, 0
    for entry in _entries(spec):
        if isinstance(entry, SkippedFile):
            found: InputFile | SkippedFile = entry
        elif entry.path == spec or entry.path.endswith(suffixes):
            found = InputFile(entry.path, entry.size_bytes, entry.etag)
        else:
            found = SkippedFile(entry.path, f"its name does not end in {' or '.join(suffixes)}")
        num_files, num_skipped = num_files + isinstance(found, InputFile), num_skipped + isinstance(found, SkippedFile)
        yield found
    if not num_files:
        raise ConfigError(
            f"{spec}: {f'{num_skipped} files, none' if num_skipped else 'nothing'} to read there; give a file, or a folder "
            f"or a glob with files whose names end in {' or '.join(suffixes)}"
        )


def input_file(path: str) -> InputFile:
    """The one file that a path or URL names. Raises `DataError` if it is not there or is no file."""
    entry = remote_entry(path) if is_remote(path) else _local_entry(path)
    if entry is None or entry.kind != "file":
        found = "no such file" if entry is None else f"found a {entry.kind}" if entry.kind == "folder" else "no file"
        raise DataError(f"{path}: cannot read it ({found}); give the path or URL of one file")
    return InputFile(path, entry.size_bytes, entry.etag)


def read_lines(file: InputFile, advance: Callable[[int], None] = lambda num_bytes: None) -> Iterator[Line]:
    """The lines of a file, blank ones too. Gzip is recognised by its first bytes and unpacked.

    `advance` is told now and then how many bytes of the file as stored were read since it was told last.

    Raises `DataError` naming file and position if it cannot be opened or not be read to its end: a truncated or damaged gzip, a
    failing disk or network. The whole lines before that point have been given out by then.
    """
    with _opened(file) as stored:
        handle = _unpacked(stored, file.path)
        number, offset, told = 0, 0, 0
        while True:
            try:
                data = handle.readline(MAX_LINE_BYTES + 1)
                is_cut = len(data) > MAX_LINE_BYTES and not data.endswith(b"\n")
                size_bytes = len(data) + (_skip_line(handle) if is_cut else 0)
            except Exception as error:  # every filesystem lets the errors of its own libraries through
                raise _unreadable(file.path, error, f"at line {number + 1}, byte {offset} of its data") from error
            if not data or number % LINES_PER_ADVANCE == 0:
                position = stored.tell()
                advance(position - told)
                told = position
            if not data:
                return
            number += 1
            yield Line(number, offset, data[:_NUM_SHOWN] + b"\0" if is_cut else _without_newline(data), is_cut)
            offset += size_bytes


def read_bytes(path: str, *, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """A small local or remote file as a whole, unpacked if it is gzip, such as an offloaded body of a log.

    Raises `DataError` if it cannot be read or holds more than `max_bytes`.
    """
    try:
        stored = remote_head(path, num_bytes=max_bytes + 1) if is_remote(path) else _local_head(path, max_bytes + 1)
        data = stored  # too large already if it was cut here; unpacked, it would look truncated
        if len(stored) <= max_bytes:
            data = _unpacked(io.BufferedReader(io.BytesIO(stored)), path).read(max_bytes + 1)
    except (ConfigError, DataError):
        raise
    except Exception as error:  # as in read_lines
        raise _unreadable(path, error, "as a whole") from error
    if len(data) > max_bytes:
        raise DataError(f"{path}: holds more than {max_bytes} bytes, too much for one body")
    return data


def input_hash(file: InputFile) -> str:
    """What tells one content of an input from another, for a stage's `inputs.json`.

    The SHA-256 of a local file; `etag:ETAG:SIZE` of a remote object with an ETag, so that it is not downloaded for this (equal ETags
    mean equal bytes; the same bytes uploaded in other parts have another one); the SHA-256 of any other remote object.
    """
    if not is_remote(file.path):
        try:
            return file_hash(Path(file.path))
        except OSError as error:
            raise _unreadable(file.path, error, "as a whole") from error
    return remote_hash(file.path) if file.etag is None else f"etag:{file.etag}:{file.size_bytes}"


_GZIP_MAGIC = b"\x1f\x8b"
_NUM_SHOWN = 100


def _entries(spec: str) -> Iterator[Entry | SkippedFile]:
    """Files and what is no file, for a file, folder or glob."""
    entry_of, children_of, matches_of = (
        (remote_entry, remote_children, remote_matches)
        if is_remote(spec)
        else (_local_entry, _local_children, _local_matches)
    )
    entry = entry_of(spec)
    if entry is not None and entry.kind == "folder":
        yield from _walk(entry, children_of)
    elif entry is not None:
        yield entry if entry.kind == "file" else SkippedFile(spec, "neither a file nor a folder")
    elif glob.has_magic(spec):
        yield from sorted((match for match in matches_of(spec) if match.kind == "file"), key=_path)


def _walk(folder: Entry, children_of: Callable[[str], list[Entry]]) -> Iterator[Entry | SkippedFile]:
    pending = [folder]
    while pending:
        entry = pending.pop()
        if entry is not folder and posixpath.basename(entry.path).startswith("."):
            yield SkippedFile(entry.path, "its name begins with a dot")
        elif entry.kind == "folder":
            pending.extend(sorted(children_of(entry.path), key=_path, reverse=True))
        elif entry.kind == "file":
            yield entry
        else:
            yield SkippedFile(entry.path, "neither a file nor a folder, or a link to a folder")


def _path(entry: Entry) -> str:
    return entry.path


def _local_entry(path: str) -> Entry | None:
    """What stands at a path, links followed."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, "as a whole") from error
    if stat.S_ISDIR(found.st_mode):
        return Entry(path, "folder")
    return Entry(path, "file", found.st_size) if stat.S_ISREG(found.st_mode) else Entry(path, "other")


def _local_children(folder: str) -> list[Entry]:
    try:
        with os.scandir(folder) as items:
            return [_local_child(item) for item in items]
    except OSError as error:
        raise _unreadable(folder, error, "as a folder") from error


def _local_child(item: os.DirEntry[str]) -> Entry:
    # A link to a folder may lead back up.
    if item.is_dir():
        return Entry(item.path, "other" if item.is_symlink() else "folder")
    return Entry(item.path, "file", item.stat().st_size) if item.is_file() else Entry(item.path, "other")


def _local_matches(pattern: str) -> list[Entry]:
    return [entry for path in glob.iglob(pattern, recursive=True) if (entry := _local_entry(path)) is not None]


def _local_head(path: str, num_bytes: int) -> bytes:
    with open(path, "rb") as handle:
        return handle.read(num_bytes)


def _opened(file: InputFile) -> io.BufferedReader:
    try:
        if is_remote(file.path):
            return open_remote(file.path, size_bytes=file.size_bytes)
        return open(file.path, "rb")
    except (ConfigError, DataError):
        raise
    except Exception as error:  # as in read_lines
        raise _unreadable(file.path, error, "at its beginning") from error


def _unpacked(stored: io.BufferedReader, path: str) -> io.BufferedIOBase:
    """The data of a file that may be gzip. Raises `DataError` if only its name says that it is, as after a download that unpacked it."""
    try:
        head = stored.peek(len(_GZIP_MAGIC))
    except Exception as error:  # as in read_lines
        raise _unreadable(path, error, "at its beginning") from error
    if head.startswith(_GZIP_MAGIC):
        return gzip.GzipFile(fileobj=stored)
    if path.endswith(".gz"):
        found = f"it begins with {head[:8]!r}" if head else "it is empty"
        raise DataError(f"{path}: not gzip, though its name ends in .gz ({found}); fetch it again, or rename it")
    return stored


def _skip_line(handle: io.BufferedIOBase) -> int:
    """Read to behind the next newline, a block at a time; returns how many bytes that was."""
    num_bytes = 0
    while data := handle.readline(BLOCK_BYTES):
        num_bytes += len(data)
        if data.endswith(b"\n"):
            break
    return num_bytes


def _without_newline(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _unreadable(path: str, error: Exception, where: str) -> DataError:
    return DataError(f"{path}: cannot be read {where} ({why(error)}); check the file and the right to read it")
