"""A run folder survives kills, refuses what would mix results, and says where a run stands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.config import ConfigError
from distill.records import DataError, Message, Reject, Source
from distill.run_dir import (
    STAGES,
    Progress,
    atomic_file,
    file_hash,
    finish_stage,
    locked,
    read_json,
    read_rows,
    read_status,
    require_stage,
    set_state,
    stage_hash,
    start_stage,
    write_json,
    write_rows,
    write_stage_rows,
)  # fmt: skip

ROOT = Path(__file__).parents[1]
ROWS = [Message("user", text) for text in ("plain", "line\u2028separator\x85 and \r\n", "half a pair \ud83d", "")]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def complete(run: Path, inputs: dict[str, Any], rows: list[Message]) -> None:
    assert start_stage(run, "curate", inputs, redo=False)
    write_stage_rows(run, "curate", rows, [])
    finish_stage(run, "curate", counts={"rows": len(rows)}, files=["rows.jsonl", "rejects.jsonl"])


def test_rows_read_back_as_written_whatever_their_text(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "rows.jsonl", ROWS) == len(ROWS)
    assert list(read_rows(tmp_path / "rows.jsonl", Message)) == ROWS


@pytest.mark.parametrize("line", ['{"role": "user"', '{"role": "user"}', "[]", "3", '"text"'])
def test_a_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"role": "user", "content": ""}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"{path}:2: not a Message"):
        list(read_rows(path, Message))


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, ROWS[:1])
    before = path.read_bytes()

    def failing() -> Any:
        yield ROWS[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(path, failing())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_json(path, {"old": "x" * 100_000})
    before = path.read_bytes()
    done = python(
        "import os, sys; from pathlib import Path; from distill.run_dir import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as handle:\n"
        "    handle.write('y' * 50_000); handle.flush(); os.kill(os.getpid(), 9)",
        str(path),
    )
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    with atomic_file(path) as handle:
        handle.write("new")
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [("manifest.json", "new")]


def test_the_same_inputs_are_up_to_date_and_others_are_named(tmp_path: Path) -> None:
    complete(tmp_path, {"curate.min_agreement": 0.5, "prompts": "abc", "gone": 1}, ROWS)
    before = file_hash(tmp_path / "curate")
    assert not start_stage(tmp_path, "curate", {"curate.min_agreement": 0.5, "prompts": "abc", "gone": 1}, redo=False)
    with pytest.raises(ConfigError) as caught:
        start_stage(
            tmp_path, "curate", {"curate.min_agreement": 0.7, "prompts": "abc", "new": None, "more": 2}, redo=False
        )
    message = str(caught.value)
    assert "curate.min_agreement: was 0.5, now 0.7" in message
    assert "gone: was 1, now null" in message and "more: was null, now 2" in message
    assert "prompts: was" not in message
    assert "--redo curate" in message
    assert file_hash(tmp_path / "curate") == before


def test_what_was_begun_with_other_inputs_is_not_gone_on_with_unless_it_is_nothing(tmp_path: Path) -> None:
    assert start_stage(tmp_path, "train", {"train.max_steps": 10}, redo=False)
    assert start_stage(tmp_path, "train", {"train.max_steps": 20}, redo=False), "nothing was written yet"
    (tmp_path / "train" / "checkpoint").mkdir()
    assert start_stage(tmp_path, "train", {"train.max_steps": 20}, redo=False), "resumes"
    with pytest.raises(ConfigError, match=r"train\.max_steps: was 20, now 30"):
        start_stage(tmp_path, "train", {"train.max_steps": 30}, redo=False)


def test_redo_removes_everything_but_answers_that_were_paid_for(tmp_path: Path) -> None:
    complete(tmp_path, {"a": 1}, ROWS)
    folder = tmp_path / "curate"
    paid = {"requests.jsonl": "one\n", "requests-base.jsonl": "two\n"}
    for name, text in paid.items():
        (folder / name).write_text(text)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "weights").write_text("w")
    assert start_stage(tmp_path, "curate", {"a": 2}, redo=True)
    assert {item.name for item in folder.iterdir()} == {*paid, "inputs.json"}
    assert {name: (folder / name).read_text() for name in paid} == paid
    assert read_json(folder / "inputs.json") == {"a": 2}


@pytest.mark.parametrize("survived", range(1, 5))
def test_a_kill_while_redoing_leaves_neither_done_nor_rows_of_unknown_inputs(
    survived: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(tmp_path, {"a": 1}, ROWS)
    removed: list[str] = []
    unlink = Path.unlink

    def dying(path: Path, missing_ok: bool = False) -> None:
        if len(removed) == survived:
            raise KeyboardInterrupt
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dying)
        try:
            start_stage(tmp_path, "curate", {"a": 2}, redo=True)
        except KeyboardInterrupt:
            assert survived < 4
    assert not (tmp_path / "curate" / "manifest.json").exists()
    if (tmp_path / "curate" / "rows.jsonl").exists():
        with pytest.raises(ConfigError, match="a: was 1, now 2"):
            start_stage(tmp_path, "curate", {"a": 2}, redo=False)
    assert start_stage(tmp_path, "curate", {"a": 2}, redo=True)


def test_a_manifest_is_the_same_whenever_it_is_written_and_says_what_it_is_of(tmp_path: Path) -> None:
    complete(tmp_path / "one", {"a": 1}, ROWS)
    complete(tmp_path / "two", {"a": 1}, ROWS)
    complete(tmp_path / "other", {"a": 1}, ROWS[1:])
    one, two = (read_json(tmp_path / name / "curate" / "manifest.json") for name in ("one", "two"))
    assert one == two == require_stage(tmp_path / "one", "curate")
    assert one["inputs"] == {"a": 1} and one["counts"] == {"rows": 4}
    assert one["outputs"] == {
        name: file_hash(tmp_path / "one" / "curate" / name) for name in ("rows.jsonl", "rejects.jsonl")
    }
    assert (
        stage_hash(tmp_path / "one", "curate")
        == stage_hash(tmp_path / "two", "curate")
        != stage_hash(tmp_path / "other", "curate")
    )


def test_an_unfinished_stage_cannot_be_read_from(tmp_path: Path) -> None:
    start_stage(tmp_path, "curate", {}, redo=False)
    write_stage_rows(tmp_path, "curate", ROWS, [Reject("p", "tie", "", Source("a", 1))])
    for read in (require_stage, stage_hash):
        with pytest.raises(ConfigError, match="stage `curate` is not finished; run `distill curate`"):
            read(tmp_path, "curate")


def test_a_second_process_is_refused_and_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from distill.run_dir import locked; from distill.config import ConfigError\n"
        "try:\n    with locked(Path(sys.argv[1])): print('held')\n"
        "except ConfigError as error: print(error)"
    )
    run = tmp_path / "run"
    with locked(run):
        assert "another process is working on this run" in python(code, str(run)).stdout
    assert python(code, str(run)).stdout == "held\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the run folder"), locked(tmp_path / "file"):
        pass


def test_the_status_says_where_every_stage_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_status(tmp_path)["stages"] == {stage: {"state": "NotStarted"} for stage in STAGES}
    with Progress(tmp_path, "annotate", total=10, unit="prompts", done=4) as progress:
        progress.advance(3, note="going well")
        progress.advance(2)
    entry = stage_status(tmp_path, "annotate")
    assert {name: entry[name] for name in ("state", "done", "total", "unit", "label", "note")} == {
        "state": "InProgress", "done": 9, "total": 10, "unit": "prompts", "label": "annotate", "note": "going well",
    }  # fmt: skip
    assert entry["rate"] > 0 and entry["eta_s"] is not None
    assert entry["started_at"] <= entry["updated_at"]
    assert "annotate: 9/10 prompts" in capsys.readouterr().err
    set_state(tmp_path, "annotate", "Failed", message="the file caf\udce9 is gone")
    assert stage_status(tmp_path, "annotate")["message"] == "the file caf\udce9 is gone"
    set_state(tmp_path, "annotate", "InProgress")
    assert "message" not in stage_status(tmp_path, "annotate")
    set_state(tmp_path, "annotate", "Completed")
    assert stage_status(tmp_path, "annotate")["state"] == "Completed"
    assert stage_status(tmp_path, "train") == {"state": "NotStarted"}


def test_a_folders_hash_is_that_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_text("1")
    (tmp_path / "a" / "two").write_text("2")
    first = file_hash(tmp_path / "a")
    (tmp_path / "a" / "one").write_text("2")
    second = file_hash(tmp_path / "a")
    (tmp_path / "a" / "two").rename(tmp_path / "a" / "three")
    assert len({first, second, file_hash(tmp_path / "a")}) == 3


def stage_status(run: Path, stage: str) -> Any:
    stages: Any = json.loads((run / "status.json").read_text(encoding="utf-8", errors="surrogatepass"))["stages"]
    return stages[stage]
