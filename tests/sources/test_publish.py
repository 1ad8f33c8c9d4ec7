"""A finished stage arrives whole or does not look finished, what is there already is not sent again, and nothing else is touched."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

from distill.config import ConfigError
from distill.publish import Publication, publish_stage
from distill.records import DataError
from distill.run_dir import finish_stage, start_stage

FILES = {
    "rows.jsonl": b'{"a": 1}\n' * 1000, "rejects.jsonl": b"", "model/merged/weights.safetensors": bytes(range(256)) * 4000,
    "model/merged/config.json": b"{}", "ü name.txt": b"text",
}  # fmt: skip


def finished(run: Path, files: dict[str, bytes], *, value: int = 0, redo: bool = False) -> Path:
    """A run whose stage `train` is finished with these files; its manifest names files and a folder."""
    assert start_stage(run, "train", {"value": value}, redo=redo)
    for name, data in {**files, ".weights.partial": b"in the making"}.items():
        (run / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (run / "train" / name).write_bytes(data)
    names = {name.split("/")[0] for name in files}
    finish_stage(run, "train", counts={}, files=sorted(names))
    return run


def stored(s3: Any, bucket: str, *, prefix: str = "") -> dict[str, bytes]:
    """What the other side sees in the bucket."""
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in listed}


def expected(run: Path, names: dict[str, bytes]) -> dict[str, bytes]:
    folder = run / "train"
    return {f"runs/x/train/{name}": (folder / name).read_bytes() for name in (*names, "inputs.json", "manifest.json")}


def without_ledger(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if not name.endswith("/published.json")}


def test_a_stage_arrives_byte_for_byte_and_only_what_differs_is_sent_again(
    tmp_path: Path, s3: Any, bucket: str
) -> None:
    run, url = finished(tmp_path / "run", FILES), f"s3://{bucket}/runs/x/"
    names = tuple(sorted((*FILES, "inputs.json")))
    first = publish_stage(run, "train", url, replace=False)
    assert (first.url, sorted(first.uploaded), first.unchanged, first.removed) == (
        f"s3://{bucket}/runs/x/train", sorted((*names, "manifest.json")), (), (),
    )  # fmt: skip
    assert first.uploaded[-1] == "manifest.json"
    assert without_ledger(stored(s3, bucket)) == expected(run, FILES)
    again = publish_stage(run, "train", url, replace=False)
    assert (again.uploaded, sorted(again.unchanged)) == ((), sorted((*names, "manifest.json")))
    s3.put_object(Bucket=bucket, Key="runs/x/train/rows.jsonl", Body=b'{"a": 2}\n' * 1000)
    s3.delete_object(Bucket=bucket, Key="runs/x/train/model/merged/config.json")
    repaired = publish_stage(run, "train", url, replace=False)
    assert repaired.uploaded == ("model/merged/config.json", "rows.jsonl", "manifest.json")
    s3.put_object(Bucket=bucket, Key="runs/x/train/published.json", Body=b"[1]")
    assert len(publish_stage(run, "train", url, replace=False).uploaded) == len(names) + 1
    assert without_ledger(stored(s3, bucket)) == expected(run, FILES)


def test_another_finished_stage_is_replaced_only_when_told_and_what_is_not_ours_stays(
    tmp_path: Path, s3: Any, bucket: str
) -> None:
    url = f"s3://{bucket}/runs/x"
    publish_stage(finished(tmp_path / "run", FILES), "train", url, replace=False)
    s3.put_object(Bucket=bucket, Key="runs/x/train/notes.txt", Body=b"theirs")
    new = {"rows.jsonl": b"[]", "model/merged/config.json": b"{}"}
    before = stored(s3, bucket)
    run = finished(tmp_path / "run", new, value=1, redo=True)
    with pytest.raises(ConfigError, match=f"{url}/train: another finished `train` was published there"):
        publish_stage(run, "train", url, replace=False)
    assert stored(s3, bucket) == before
    done = publish_stage(run, "train", url, replace=True)
    assert done.unchanged == ("model/merged/config.json",)
    assert set(done.removed) == {"model/merged/weights.safetensors", "rejects.jsonl", "ü name.txt"}
    assert without_ledger(stored(s3, bucket)) == {**expected(run, new), "runs/x/train/notes.txt": b"theirs"}
    assert publish_stage(run, "train", url, replace=False).uploaded == ()


PUBLISH = "import sys; from pathlib import Path; from distill.publish import publish_stage; publish_stage(Path(sys.argv[1]), 'train', sys.argv[2], replace=True)"


@pytest.mark.parametrize("is_over_an_old_one", [False, True])
def test_a_publication_that_is_killed_never_looks_finished_and_goes_on_where_it_was(
    is_over_an_old_one: bool, tmp_path: Path, s3: Any, bucket: str
) -> None:
    url = f"s3://{bucket}/runs/x"
    files = {f"{number:02}.bin": b"%02d" % number * 1000 for number in range(60)}
    if is_over_an_old_one:
        old = {name: b"old" + data[3:] for name, data in files.items()}
        publish_stage(finished(tmp_path / "old", {**old, "stale.bin": b"x"}), "train", url, replace=False)
    run = finished(tmp_path / "run", files, value=1)
    process = subprocess.Popen([sys.executable, "-c", PUBLISH, str(run), url])
    try:
        deadline = time.monotonic() + 240
        while stored(s3, bucket, prefix="runs/x/train/09.bin").get("runs/x/train/09.bin") != files["09.bin"]:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = stored(s3, bucket)
    assert "runs/x/train/manifest.json" not in left
    num_arrived = sum(left.get(f"runs/x/train/{name}") == data for name, data in files.items())
    assert 10 <= num_arrived < 60
    done = publish_stage(run, "train", url, replace=False)
    # The last one that arrived may not have been noted yet.
    assert num_arrived - 1 <= len(done.unchanged) <= num_arrived
    assert len(done.uploaded) + len(done.unchanged) == 62
    assert without_ledger(stored(s3, bucket)) == expected(run, files)


def test_what_cannot_be_published_is_refused_before_anything_is_sent(tmp_path: Path, s3: Any, bucket: str) -> None:
    run = finished(tmp_path / "run", FILES)
    with pytest.raises(ConfigError, match="stage `curate` is not finished"):
        publish_stage(run, "curate", f"s3://{bucket}/x", replace=False)
    with pytest.raises(ConfigError, match="not a URL; give one such as s3://bucket/runs/NAME"):
        publish_stage(run, "train", str(tmp_path), replace=False)
    with pytest.raises(ConfigError, match="create the bucket first"):
        publish_stage(run, "train", "s3://no-such-bucket/x", replace=False)
    (run / "train" / "model" / "merged" / "config.json").write_bytes(b"{ }")
    with pytest.raises(DataError, match=f"{run}/train/model: changed since the stage was finished"):
        publish_stage(run, "train", f"s3://{bucket}/x", replace=False)
    (run / "train" / "model" / "merged" / "config.json").write_bytes(FILES["model/merged/config.json"])
    (run / "train" / "rejects.jsonl").unlink()
    with pytest.raises(DataError, match=f"{run}/train/rejects.jsonl: the manifest names this file and it is gone"):
        publish_stage(run, "train", f"s3://{bucket}/x", replace=False)
    assert stored(s3, bucket) == {}


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_where_there_are_no_etags_contents_are_compared(protocol: str, tmp_path: Path) -> None:
    run, url = finished(tmp_path / "run", FILES), f"{protocol}://{tmp_path}/there"
    filesystem, root = fsspec.core.url_to_fs(url)
    assert len(publish_stage(run, "train", url, replace=False).uploaded) == len(FILES) + 2
    assert publish_stage(run, "train", url, replace=False).uploaded == ()
    filesystem.pipe_file(f"{root}/train/rows.jsonl", b'{"a": 2}\n' * 1000)
    assert publish_stage(run, "train", url, replace=False).uploaded == ("rows.jsonl", "manifest.json")
    assert {name: filesystem.cat_file(f"{root}/train/{name}") for name in FILES} == FILES


def test_a_file_that_is_sent_in_parts_is_known_again(tmp_path: Path, s3: Any, bucket: str) -> None:
    run = finished(tmp_path / "run", {"weights.safetensors": bytes(101 * 1024**2)})
    url = f"s3://{bucket}/runs/x"
    publish_stage(run, "train", url, replace=False)
    head = s3.head_object(Bucket=bucket, Key="runs/x/train/weights.safetensors")
    assert (head["ContentLength"], "-" in head["ETag"]) == (101 * 1024**2, True)
    assert publish_stage(run, "train", url, replace=False) == Publication(
        f"{url}/train", (), ("inputs.json", "weights.safetensors", "manifest.json"), ()
    )
