"""Shipped configurations load, what cannot be run fails by name, and the resolved configuration reads back as itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import Config, ConfigError, PromptSource, dump_config, load_config, model_path

ROOT = Path(__file__).parents[1]
SHIPPED = [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "distill" / "embedded" / "demo.yaml"]
MINIMAL: dict[str, Any] = {
    "run": {"dir": "runs/mine"},
    "prompts": {"train": ["train.jsonl"]},
    "teacher": {"model": "embedded:teacher"},
    "student": {"model": "embedded:student"},
    "train": {"max_steps": 10},
}


def write(folder: Path, values: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


def problem(folder: Path, values: Any, *overrides: str) -> str:
    path = write(folder, values)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_configuration_loads(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_the_demo_runs_the_file_that_people_copy() -> None:
    assert (ROOT / "configs" / "demo.yaml").read_bytes() == (ROOT / "distill" / "embedded" / "demo.yaml").read_bytes()


@pytest.mark.parametrize(
    ("section", "values", "where", "what"),
    [
        ("annotate", {"num_sample": 1}, "annotate.num_sample:", "unknown key"),
        ("prompts", {"train": ["a"], "split": {"by": "tools"}}, "prompts.split.by:", "unknown key"),
        ("annotation", {}, "annotation:", "unknown key"),
        ("train", {"max_steps": "10"}, "train.max_steps:", "'10'"),
        ("train", {"max_steps": 1.5}, "train.max_steps:", "1.5"),
        ("train", {"max_steps": True}, "train.max_steps:", "True"),
        ("prompts", {"train": "train.jsonl"}, "prompts.train:", "list"),
        ("prompts", {"train": []}, "prompts.train:", "at least 1"),
        ("curate", None, "curate:", "None"),
        ("student", {}, "student.model:", "missing"),
        ("run", {"seed": 1}, "run.dir:", "missing"),
        (
            "prompts",
            {"train": ["a"], "test": [{"name": "Same Tools", "path": "b"}]},
            "prompts.test.0.name:",
            "Same Tools",
        ),
        ("prompts", {"train": ["a"], "split": {"group_by": "user"}}, "prompts.split.group_by:", "'request'"),
        (
            "prompts",
            {"train": ["a"], "split": {"validation_share": 0.6, "test_share": 0.4}},
            "prompts.split:",
            "below 1",
        ),
        ("annotate", {"num_samples": 2}, "annotate:", "temperature above 0"),
        (
            "teacher",
            {"model": "m", "engine": "server"},
            "teacher:",
            "give either base_url, the address of a running server",
        ),
        ("train", {}, "train:", "exactly one of num_epochs and max_steps"),
        ("train", {"max_steps": 1, "num_epochs": 1.0}, "train:", "exactly one of num_epochs and max_steps"),
        ("train", {"max_steps": 1, "micro_batch_tokens": 10, "max_length": 11}, "train:", "micro_batch_tokens (10)"),
    ],
)
def test_what_is_wrong_in_a_section_fails_by_name(
    section: str, values: Any, where: str, what: str, tmp_path: Path
) -> None:
    message = problem(tmp_path, {**MINIMAL, section: values})
    assert str(tmp_path / "config.yaml") in message
    assert f"  {where} " in message and what in message


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    message = problem(tmp_path, {"run": {"dir": 3}, "teacher": {"model": "m", "tpyo": 1}, "train": {"max_steps": 0}})
    for name in ("run.dir", "prompts", "teacher.tpyo", "student", "train.max_steps"):
        assert f"  {name}: " in message
    assert "5 problem(s)" in message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("run: {dir: a\n", "not valid YAML"),
        ("run: {dir: 2024-02-30}", "not valid YAML"),
        ("[" * 1000, "not valid YAML"),
        ("", "found NoneType"),
        ("- run\n", "found list"),
        ("run:\n  dir: a\nrun:\n  dir: b\n", "line 3: key 'run' is given twice"),
        ("run:\n  dir: a\n  dir: b\n", "line 3: key 'dir' is given twice"),
        ("run: !!python/object/apply:os.system [echo]", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_fails_by_name(text: str, what: str, tmp_path: Path) -> None:
    message = problem(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'config.yaml'}: ") and what in message


def test_a_file_that_cannot_be_read_fails_by_name(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"run: {dir: caf\xe9}")
    for path, what in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "directory"), (latin, "not UTF-8")):
        with pytest.raises(ConfigError, match=what) as caught:
            load_config(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.max_steps", "write section.key=value"),
        ("max_steps=3", "write section.key=value"),
        ("train..max_steps=3", "write section.key=value"),
        ("train.max_steps=[", "not valid YAML"),
        ("run={a: 1, a: 2}", "write section.key=value"),
        ("prompts.split={group_by: tools, group_by: tools}", "'group_by' is given twice"),
        ("run.dir=2024-02-30", "not valid YAML"),
        ("run.dir.deep=3", "dir is a value, not a section"),
    ],
)
def test_a_bad_override_fails_by_name(override: str, what: str, tmp_path: Path) -> None:
    message = problem(tmp_path, MINIMAL, override)
    assert repr(override) in message and what in message


def test_overrides_replace_and_add_and_are_checked_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    config = load_config(
        path, ["train.max_steps=3", "prompts.split.group_by=request", "run.dir=a=b", "prompts.train=[x, y]"]
    )
    assert config.train.max_steps == 3
    assert config.prompts.split.group_by == "request"
    assert config.run.dir == "a=b"
    assert config.prompts.train == [PromptSource(path="x"), PromptSource(path="y")]
    assert load_config(path).train.max_steps == 10
    assert "train.max_step: unknown key" in problem(tmp_path, MINIMAL, "train.max_step=3")


@pytest.mark.parametrize("text", ["2e-4", "2.0e-4", "0.0002", "2E-4", "+2.e-4"])
def test_a_learning_rate_is_a_number_however_it_is_written(text: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL), [f"train.learning_rate={text}"]).train.learning_rate == 2e-4


@settings(max_examples=25, deadline=None)
@given(
    text=st.sampled_from(["1e5", "2e-4", "on", "null", "2024-01-01", "1:30", "~", "0x1f", "=", "- a"]) | st.text(),
    rate=st.floats(1e-12, 1e12),
)
def test_the_resolved_configuration_reads_back_as_itself(
    text: str, rate: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = {
        **MINIMAL,
        "run": {"dir": text},
        "report": {"title": text},
        "train": {"max_steps": 1, "learning_rate": rate},
    }
    config = Config.model_validate(values)
    assert load_config(write(tmp_path_factory.getbasetemp(), dump_config(config))) == config


def test_embedded_models_are_found_in_the_package_and_others_named() -> None:
    assert Path(model_path("embedded:teacher")) == ROOT / "distill" / "embedded" / "teacher"
    assert model_path("meta-llama/Llama-3.2-1B-Instruct") == "meta-llama/Llama-3.2-1B-Instruct"
    with pytest.raises(ConfigError, match="embedded:teacher, embedded:student"):
        model_path("embedded:other")
