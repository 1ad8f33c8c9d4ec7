"""Lines come whole, numbered and placed from any file that can be read; what cannot be read says which file and where."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from distill.config import ConfigError
from distill.records import DataError
from distill.sources import files
from distill.sources.files import (
    InputFile,
    Line,
    SkippedFile,
    input_file,
    input_hash,
    open_inputs,
    read_bytes,
    read_lines,
)
from distill.sources.remote import BLOCK_BYTES

SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz")
LIMIT = 12


def lines_of(data: bytes, *, limit: int, num_shown: int = 100) -> list[Line]:
    """The reference: all data at once."""
    found, offset = [], 0
    pieces = data.split(b"\n")
    for number, piece in enumerate(pieces[:-1] if pieces[-1] == b"" else pieces, start=1):
        is_cut = len(piece) > limit
        found.append(Line(number, offset, piece[:num_shown] + b"\0" if is_cut else piece.removesuffix(b"\r"), is_cut))
        offset += len(piece) + 1
    return found


def read_to_the_error(lines: Iterator[Line]) -> tuple[list[Line], str]:
    """The lines up to where reading stops, and what is said then."""
    found = []
    try:
        for line in lines:
            found.append(line)
    except DataError as error:
        return found, str(error)
    raise AssertionError("no error")


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(
        st.lists(st.sampled_from([b"\n", b"\r\n", b"{}", b"\x00\xff", b" ", b"abc" * 4, b"x" * 40]), max_size=8),
        max_size=3,
    ),
    form=st.sampled_from(["x.jsonl", "x.jsonl.gz", "gzip without the suffix"]),
)
def test_lines_are_the_datas_own_in_every_form(
    parts: list[list[bytes]], form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pieces = [b"".join(part) for part in parts]
    path = tmp_path_factory.getbasetemp() / form
    # Several gzip members in one file are one stream, as when logs are appended to each other.
    path.write_bytes(b"".join(pieces) if form == "x.jsonl" else b"".join(map(gzip.compress, pieces or [b""])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "MAX_LINE_BYTES", LIMIT)
        patch.setattr(files, "BLOCK_BYTES", 5)
        patch.setattr(files, "_NUM_SHOWN", 5)
        found = list(read_lines(input_file(str(path))))
    assert found == lines_of(b"".join(pieces), limit=LIMIT, num_shown=5)


def test_gzip_that_ends_early_or_is_damaged_gives_its_whole_lines_and_names_the_place(tmp_path: Path) -> None:
    data = b"".join(
        b'{"line": %d, "noise": "%s"}\n' % (number, hashlib.sha256(b"%d" % number).hexdigest().encode())
        for number in range(40)
    )
    packed, path = gzip.compress(data), tmp_path / "x.jsonl.gz"
    expected = lines_of(data, limit=1000)
    for damaged in [
        *(packed[:end] for end in range(0, len(packed), 7)),
        *(packed[: -1 - at] + b"\x07" + packed[len(packed) - at :] for at in range(8)),
    ]:
        path.write_bytes(damaged)
        found, error = read_to_the_error(read_lines(input_file(str(path))))
        assert found == expected[: len(found)]
        assert error.startswith(f"{path}: ")
        if len(damaged) >= 20:
            end = sum(len(line.data) + 1 for line in found)
            assert f"at line {len(found) + 1}, byte {end} of its data" in error


MEASURE = """
import resource, sys
from distill.sources.files import input_file, read_lines
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lines = [(line.number, line.offset, line.is_cut, len(line.data)) for line in read_lines(input_file(sys.argv[1]))]
print(lines, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("name", ["long.jsonl", "long.jsonl.gz"])
def test_a_line_of_100_megabytes_takes_the_memory_of_the_longest_allowed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with gzip.open(path, "wb", 1) if name.endswith("gz") else path.open("wb") as handle:
        for piece in (b"{}\n", *[b"\0" * 1_000_000] * 100, b"\n{}\n"):
            handle.write(piece)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    lines, grown_mib = done.stdout.rsplit(maxsplit=1)
    assert lines == "[(1, 0, False, 2), (2, 3, True, 101), (3, 100000004, False, 2)]"
    assert int(grown_mib) < 70


TREE = {
    "a.jsonl": b'{"a": 1}\n', "b/c.jsonl.gz": gzip.compress(b"1\n2"), "b/d.txt": b"", "b.jsonl": b"", "b/e/f.json.gz": gzip.compress(b"3"),
    "g [1].jsonl": b"4", "b/.h.jsonl": b"5", ".cache/i.jsonl": b"6", "z/J.JSONL": b"7", "ü/k.jsonl": b"8",
}  # fmt: skip
READ = ["a.jsonl", "b/c.jsonl.gz", "b/e/f.json.gz", "b.jsonl", "g [1].jsonl", "ü/k.jsonl"]
SPECS = {
    "": (READ, [".cache", "b/.h.jsonl", "b/d.txt", "z/J.JSONL"]),
    "b": (READ[1:3], ["b/.h.jsonl", "b/d.txt"]),
    "b/": (READ[1:3], ["b/.h.jsonl", "b/d.txt"]),
    "b/d.txt": (["b/d.txt"], []),
    "g [1].jsonl": (["g [1].jsonl"], []),
    "*.jsonl": (["a.jsonl", "b.jsonl", "g [1].jsonl"], []),
    "?/[cd].*": (["b/c.jsonl.gz"], ["b/d.txt"]),
    "b/**/*.gz": (["b/c.jsonl.gz", "b/e/f.json.gz"], []),
}


@pytest.fixture
def places(tmp_path: Path, s3: Any, bucket: str) -> list[str]:
    """The same tree on a disk and in a bucket."""
    for name, data in TREE.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(data)
        s3.put_object(Bucket=bucket, Key=f"tree/{name}", Body=data)
    s3.put_object(Bucket=bucket, Key="tree/", Body=b"")  # what consoles put there to show a folder
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "nowhere.jsonl").symlink_to(tmp_path / "none")
    return [f"{tmp_path}/tree", f"s3://{bucket}/tree"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_folder_a_glob_and_a_file_name_the_same_on_a_disk_and_in_a_bucket(spec: str, places: list[str]) -> None:
    read, skipped = SPECS[spec]
    for place in places:
        found = list(open_inputs(f"{place}/{spec}" if spec else place, suffixes=SUFFIXES))
        names = {
            kind: [file.path.removeprefix(place).strip("/") for file in found if isinstance(file, kind)]
            for kind in (InputFile, SkippedFile)
        }
        links = [] if spec or "://" in place else ["link", "nowhere.jsonl"]
        assert names == {InputFile: read, SkippedFile: sorted([*skipped, *links])}
        for file in found:
            if isinstance(file, InputFile):
                stored = TREE[file.path.removeprefix(place).strip("/")]
                data = gzip.decompress(stored) if file.path.endswith("gz") else stored
                assert file.size_bytes == len(stored)
                assert list(read_lines(file)) == lines_of(data, limit=100)
                assert not data or read_bytes(file.path) == data


def test_a_bucket_is_listed_beyond_a_thousand_keys_and_no_key_is_lost_in_silence(s3: Any, bucket: str) -> None:
    keys = [f"logs/{number % 2}/{number:04}.jsonl" for number in range(2100)]
    for key in keys:  # so many uploads would take most of the test's time
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, b"{}")
    s3.put_object(Bucket=bucket, Key="logs//unnamed.jsonl", Body=b"{}")
    found = list(open_inputs(f"s3://{bucket}/logs", suffixes=SUFFIXES))
    assert [file.path for file in found if isinstance(file, InputFile)] == [
        f"s3://{bucket}/{key}" for key in sorted(keys)
    ]
    assert [file.path for file in found if isinstance(file, SkippedFile)] == [f"s3://{bucket}/logs//"]


def test_what_is_not_there_or_holds_nothing_is_said_before_anything_is_done(places: list[str], s3: Any) -> None:
    for place in places:
        for spec, what in (
            (f"{place}/none", "nothing to read there"),
            (f"{place}/*.none", "nothing to read there"),
            (f"{place}/z", "1 files, none to read there"),
            (f"{place}/z/*", "1 files, none to read there"),
        ):
            with pytest.raises(ConfigError) as raised:
                list(open_inputs(spec, suffixes=SUFFIXES))
            assert str(raised.value).startswith(f"{spec}: {what}; give") and ".jsonl or .jsonl.gz or .json.gz" in str(
                raised.value
            )
        for path, what in ((place, "found a folder"), (f"{place}/none", "no such file")):
            with pytest.raises(DataError, match=f"{path}: cannot read it .{what}"):
                input_file(path)
            with pytest.raises(DataError, match=f"{path}: cannot be read as a whole"):
                read_bytes(path)
        with pytest.raises(DataError, match=f"{place}/none: cannot be read at its beginning"):
            list(read_lines(InputFile(f"{place}/none", None, None)))
    with pytest.raises(ConfigError, match="s3://no-such-bucket/x: nothing to read"):
        list(open_inputs("s3://no-such-bucket/x", suffixes=SUFFIXES))
    with pytest.raises(ConfigError, match=r"s4://x/y: .*give a path, or a URL such as s3://"):
        list(open_inputs("s4://x/y", suffixes=SUFFIXES))


def test_a_name_that_promises_gzip_and_a_body_that_is_too_large_are_data_errors(
    places: list[str], tmp_path: Path, s3: Any
) -> None:
    for place in places:
        for name, data, what in (("e.gz", b"", "it is empty"), ("p.gz", b"{}", "it begins with b'{}'")):
            if "://" in place:
                s3.put_object(Bucket=place.split("/")[2], Key=f"tree/{name}", Body=data)
            else:
                (tmp_path / "tree" / name).write_bytes(data)
            with pytest.raises(DataError, match=f"{place}/{name}: not gzip, though its name ends in .gz .{what}"):
                list(read_lines(input_file(f"{place}/{name}")))
    bomb = tmp_path / "bomb.json.gz"
    bomb.write_bytes(gzip.compress(b"\0" * 50_000_000))
    with pytest.raises(DataError, match="holds more than 33554432 bytes"):
        read_bytes(str(bomb))
    assert len(read_bytes(str(bomb), max_bytes=50_000_000)) == 50_000_000
    for name in ("a.jsonl", "b/c.jsonl.gz"):
        with pytest.raises(DataError, match="holds more than 7 bytes"):
            read_bytes(f"{places[1]}/{name}", max_bytes=7)


def test_an_object_larger_than_a_block_streams_and_one_that_changes_meanwhile_is_not_mixed(
    s3: Any, bucket: str
) -> None:
    old = b"".join(b"%010000d\n" % number for number in range(3 * BLOCK_BYTES // 10_000))
    s3.put_object(Bucket=bucket, Key="big.jsonl", Body=old)
    file = input_file(f"s3://{bucket}/big.jsonl")
    assert list(read_lines(file)) == lines_of(old, limit=20_000)
    lines = read_lines(file)
    first = next(lines)
    s3.put_object(Bucket=bucket, Key="big.jsonl", Body=old.replace(b"0", b"1"))
    read, error = read_to_the_error(lines)
    assert "big.jsonl: cannot be read at line " in error
    assert [first, *read] == lines_of(old, limit=20_000)[: len(read) + 1]


def test_a_hash_changes_with_the_content_and_downloads_nothing_where_there_is_an_etag(
    places: list[str], s3: Any
) -> None:
    local, remote = (input_file(f"{place}/a.jsonl") for place in places)
    assert input_hash(local) == hashlib.sha256(TREE["a.jsonl"]).hexdigest()
    assert input_hash(remote) == f"etag:{hashlib.md5(TREE['a.jsonl']).hexdigest()}:{len(TREE['a.jsonl'])}"
    listed = [file for file in open_inputs(places[1], suffixes=SUFFIXES) if isinstance(file, InputFile)]
    assert input_hash(listed[0]) == input_hash(remote)
    s3.put_object(Bucket=places[1].split("/")[2], Key="tree/a.jsonl", Body=b"other")
    assert input_hash(input_file(remote.path)) != input_hash(remote)
    fsspec.filesystem("memory").pipe_file("/hashed/a.jsonl", TREE["a.jsonl"])
    assert input_hash(input_file("memory://hashed/a.jsonl")) == input_hash(local)


def _refused(code: str, **environment: str) -> str:
    program = f"import sys\n{code}\nfrom distill.sources.files import *\ntry: input_file('s3://b/k')\nexcept Exception as error: print(type(error).__name__, error)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout.strip()


def test_without_the_extra_or_without_credentials_the_user_is_told_what_is_missing(s3: Any) -> None:
    assert _refused("sys.modules['s3fs'] = None") == (
        "ConfigError s3://b/k: s3:// needs a package that is not installed; install the extra `s3`: pip install 'distill[s3]'"
    )
    nobody = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    told = _refused(
        "", AWS_EC2_METADATA_DISABLED="true", AWS_SHARED_CREDENTIALS_FILE="none", AWS_CONFIG_FILE="none", **nobody
    )
    assert told.startswith("DataError s3://b/k: cannot look at it (") and "credentials" in told.split("(")[1].lower()
