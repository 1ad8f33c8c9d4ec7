"""Whatever is wrong with what the user gave: one message that names it, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distill.cli import app, call_cleanly
from distill.config import load_config
from distill.embedded.customer import bedrock_record
from distill.records import Prompt
from distill.run_dir import STAGES, locked, read_rows
from tests.customer_world import config_values, customer_prompts, write_jsonl

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _old_signal_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def config(tmp_path: Path, llama_folder: Path) -> Path:
    """A configuration with nothing wrong in it."""
    train = write_jsonl(tmp_path / "train.jsonl", [bedrock_record(prompt) for prompt in customer_prompts(6, seed=11)])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config_values(tmp_path, str(llama_folder), train=[train])))
    return path


@pytest.fixture(scope="session")
def foreign_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that is not Llama 3's."""
    tokenizer = Tokenizer(models.WordLevel(vocab={"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("foreign")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return folder


def distill(*arguments: str | Path) -> int:
    return call_cleanly(lambda: app([str(argument) for argument in arguments], standalone_mode=False))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The message with which a command is refused, after checking that there is nothing else."""
    assert distill(*arguments) == 2
    out, err = capsys.readouterr()
    progress, separator, message = err.partition("error: ")
    assert separator and "error: " not in message and "Traceback" not in err and out == ""
    assert all(line.startswith("prompts: ") for line in progress.splitlines())
    return message


def written(folder: Path) -> set[str]:
    """Files that a stage could be taken for done by, or that stopped halfway."""
    return {
        path.name
        for path in folder.rglob("*")
        if path.name in ("rows.jsonl", "rejects.jsonl", "manifest.json") or path.name.endswith(".partial")
    }


Spoil = Callable[[Path], str | None]
WRONG: dict[str, tuple[Spoil, str]] = {
    "no such configuration": (
        lambda path: path.unlink(),
        "config.yaml: cannot read the configuration (No such file or directory)",
    ),
    "broken YAML": (lambda path: append(path, "run: [\n"), "config.yaml: not valid YAML"),
    "an unknown section": (lambda path: append(path, "tain: {}\n"), "tain: unknown key"),
    "an unknown key": (lambda path: "train.max_step=3", "train.max_step: unknown key"),
    "a wrong type": (lambda path: "train.max_steps=three", "train.max_steps: Input should be a valid integer"),
    "a missing key": (lambda path: replace_section(path, "student", {}), "student.model: missing"),
    "a repeated section": (lambda path: append(path, "train: {max_steps: 2}\n"), "key 'train' is given twice"),
    "a bad override": (lambda path: "max_steps=3", "write section.key=value"),
}


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def replace_section(path: Path, section: str, value: Any) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), section: value}))


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("command", ["run", "annotate"])
def test_a_wrong_configuration_is_refused_before_anything_is_written(
    name: str, command: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, what = WRONG[name]
    override = spoil(config)
    assert what in refused(capsys, command, config, *([override] if override else []))
    assert not (tmp_path / "run").exists()


def test_a_missing_prompt_file_is_named(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.jsonl").unlink()
    assert f"{tmp_path / 'train.jsonl'}: nothing to read there" in refused(capsys, "run", config)
    assert written(tmp_path / "run") == set()
    assert stage_status(tmp_path)["prompts"]["state"] == "Failed"
    assert f"{tmp_path / 'train.jsonl'}: nothing to read there" in stage_status(tmp_path)["prompts"]["message"]


@pytest.mark.parametrize(
    ("content", "what"), [("", "the files are empty"), ('{"schemaVersion": \n', "train.jsonl:1: not valid JSON")]
)
def test_a_file_without_prompts_is_refused_and_the_same_command_goes_on_when_it_is_mended(
    content: str, what: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(content)
    assert what in refused(capsys, "prompts", config)
    assert written(tmp_path / "run") == set()
    (tmp_path / "train.jsonl").write_text(good + '{"broken": \n')
    assert distill("prompts", config) == 0
    assert len(list(read_rows(tmp_path / "run" / "prompts" / "rows.jsonl", Prompt))) == 6
    reject = json.loads((tmp_path / "run" / "prompts" / "rejects.jsonl").read_text())
    assert (reject["reason"], reject["source"]["line"]) == ("invalid_json", 7)
    assert (
        stage_status(tmp_path)["prompts"]["state"] == "Completed" and "message" not in stage_status(tmp_path)["prompts"]
    )


def test_a_broken_line_of_answers_is_named(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text("{\n")
    test = f"prompts.test=[{{name: mine, path: {tmp_path / 'train.jsonl'}, answers: {answers}}}]"
    assert f"{answers}:1: expected" in refused(capsys, "run", config, test)
    assert written(tmp_path / "run") == set()


def test_a_student_with_another_tokenizer_is_refused(
    config: Path, foreign_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "run", config, f"student.model={foreign_folder}")
    assert f"model '{foreign_folder}': the tokenizer lacks <|begin_of_text|>" in message and "Llama 3" in message
    assert written(tmp_path / "run") == set()


@pytest.mark.parametrize("model", ["embedded:nobody", "/no/such/folder"])
def test_a_model_that_is_not_there_is_named(
    model: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"model '{model}'" in refused(capsys, "run", config, f"student.model={model}")
    assert written(tmp_path / "run") == set()


def test_a_stage_before_its_turn_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "stage `prompts` is not finished; run `distill prompts`" in refused(capsys, "annotate", config)


def test_a_stage_that_does_not_exist_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--redo tidy: not a stage; the stages are prompts, annotate" in refused(
        capsys, "run", config, "--redo", "tidy"
    )
    assert distill("tidy", config) == 2
    err = capsys.readouterr().err
    assert "No such command 'tidy'" in err and "Traceback" not in err
    assert distill("run", config, "--again") == 2
    assert "No such option" in capsys.readouterr().err
    assert distill("run") == 2
    assert "CONFIG" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_second_process_on_a_run_is_refused(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / "run"):
        assert "another process is working on this run" in refused(capsys, "run", config)
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_changed_inputs_are_named_with_the_flag_that_redoes_them(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill("prompts", config) == 0
    capsys.readouterr()
    message = refused(capsys, "prompts", config, "prompts.max_prompt_tokens=4000")
    assert "prompts.max_prompt_tokens: was 8192, now 4000" in message and "--redo" in message
    assert stage_status(tmp_path)["prompts"]["state"] == "Completed", "what was done before still stands"
    assert distill("prompts", config, "prompts.max_prompt_tokens=4000", "--redo") == 0
    assert load_config(tmp_path / "run" / "run.yaml").prompts.max_prompt_tokens == 4000


def test_the_status_of_a_run_is_printed_and_of_no_run_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no status.json" in refused(capsys, "status", tmp_path)
    assert distill("prompts", config) == 0
    capsys.readouterr()
    assert distill("status", tmp_path / "run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(STAGES)
    size = (tmp_path / "train.jsonl").stat().st_size
    assert lines[0].split()[1:] == ["Completed", f"{size}/{size}", "bytes"] and lines[1].split()[1] == "NotStarted"


def test_an_interruption_is_no_error_of_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert call_cleanly(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"


def test_our_own_mistake_shows_where_it_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert call_cleanly(lambda: 1 // 0) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["-m", "distill.cli", "run"], ["scripts/annotate.py"]])
def test_the_real_command_says_it_on_stderr_and_exits_with_2(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "none.yaml")], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {tmp_path / 'none.yaml'}: cannot read the configuration (No such file or directory); give the path of a YAML file\n"
    )


def test_help_names_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert distill("--help") == 0
    out = capsys.readouterr().out
    assert all(stage in out for stage in (*STAGES, "run", "status", "demo"))


def stage_status(folder: Path) -> Any:
    return json.loads((folder / "run" / "status.json").read_text())["stages"]
