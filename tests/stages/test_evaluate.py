"""Real models on real test prompts: every prompt answered once by every model, scored, resumed, and refused where it must be."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.chat import example_ids
from distill.config import Config, ConfigError
from distill.embedded.tokenizer import train_tokenizer
from distill.records import Category, DataError, ExpectedCall, Message, Prediction, Prompt, Reject, Source, Tool
from distill.run_dir import finish_stage, read_rows, start_stage, write_stage_rows
from distill.stages.evaluate import run_evaluate

CONTEXT_LENGTH = 256
FIND_FILM = Tool(
    name="find_film",
    description="Find a film.",
    parameters={
        "type": "dict",
        "required": ["title"],
        "properties": {"title": {"type": "string"}, "year": {"type": "integer"}},
    },
)
REQUESTS: list[tuple[Category, str, str, tuple[ExpectedCall, ...] | None]] = [
    ("simple", "same_tools", "Find Heat.", (ExpectedCall("find_film", {"title": ["Heat"], "year": [1995, ""]}),)),
    ("simple", "same_tools", "Find Ran of 1985.", (ExpectedCall("find_film", {"title": ["Ran"], "year": [1985]}),)),
    ("simple", "new_tools", "Find Alien.", (ExpectedCall("find_film", {"title": ["Alien"], "year": [""]}),)),
    ("irrelevance", "same_tools", "Boil an egg.", ()),
    ("simple", "same_tools", "Find any film.", None),
]
REPLIES = {
    "Find Heat.": '[find_film(title="Heat")]',
    "Find Ran of 1985.": '[find_film(title="Ran", year=1985)]',
    "Find Alien.": '[find_film(title="Alien")]',
    "Boil an egg.": "None of the tools can do that.",
}
NUM_SCORED = 4


def test_every_model_answers_every_prompt_once_and_is_scored(run: Path, config: Config) -> None:
    run_evaluate(run, config, redo=False)
    rows = list(read_rows(run / "evaluate" / "rows.jsonl", Prediction))
    rejects = list(read_rows(run / "evaluate" / "rejects.jsonl", Reject))
    models = ["base", "vanilla-seed0", "vanilla-seed1", "teacher"]
    prompts = [p for p in read_rows(run / "prompts" / "rows.jsonl", Prompt) if p.split == "test"]
    assert [(row.model, row.prompt_id) for row in rows] == [(m, p.id) for m in models for p in prompts[:NUM_SCORED]]
    assert [(r.id, r.reason, r.source) for r in rejects] == [(prompts[-1].id, "no_expected_calls", prompts[-1].source)]
    verdicts = {model: Counter(row.verdict for row in rows if row.model == model) for model in models}
    assert verdicts["teacher"] == {"correct": NUM_SCORED} == verdicts["vanilla-seed1"]
    assert verdicts["base"]["correct"] == 1, "random text calls nothing, which is right where nothing is to be called"
    assert all(row.explanation for row in rows if row.verdict != "correct")
    counts = json.loads((run / "evaluate" / "manifest.json").read_text())["counts"]
    assert (counts["rows"], counts["rejects"]) == (len(models) * NUM_SCORED, 1)
    assert sum(sum(cell.values()) for cell in counts["verdicts"].values()) == counts["rows"]
    assert counts["verdicts"]["teacher/same_tools/simple"]["correct"] == 2


def test_what_was_answered_before_a_kill_or_a_redo_is_not_asked_again(run: Path, config: Config) -> None:
    run_evaluate(run, config, redo=False)
    folder = run / "evaluate"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    run_evaluate(run, config, redo=False)
    log = folder / "requests-teacher.jsonl"
    marked = b"".join(line.replace(b'"Heat', b'"HEAT') for line in log.read_bytes().splitlines(keepends=True))
    assert marked != log.read_bytes()
    log.write_bytes(marked)
    run_evaluate(run, config, redo=True)
    assert b"HEAT" in (folder / "rows.jsonl").read_bytes(), "the redo scored the logged answers"
    for name in ("manifest.json", "rows.jsonl", "rejects.jsonl", "requests-base.jsonl"):
        (folder / name).unlink()
    log.write_bytes(first[log.name].splitlines(keepends=True)[0] + b'{"key": "torn')
    run_evaluate(run, config, redo=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_an_engine_that_fails_is_no_wrong_answer_unless_allowed(run: Path, config: Config) -> None:
    prompts = list(read_rows(run / "prompts" / "rows.jsonl", Prompt))
    too_long = replace(prompts[-2], id="long", messages=(Message("user", "1 " * CONTEXT_LENGTH),))
    put_prompts(run, [*prompts, too_long])
    with pytest.raises(DataError, match=r"base failed on 1 of 5 test prompts.*context is 256.*max_error_rate"):
        run_evaluate(run, config, redo=False)
    assert not (run / "evaluate" / "manifest.json").exists()
    run_evaluate(run, config_of(run, max_error_rate=0.3), redo=False)
    rows = [row for row in read_rows(run / "evaluate" / "rows.jsonl", Prediction) if row.prompt_id == "long"]
    assert [(row.verdict, row.completion.finish_reason) for row in rows] == [("error", "error")] * 4
    assert "context is 256" in rows[0].explanation


def test_untrained_students_are_asked_for_by_name(run: Path) -> None:
    (run / "train" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="stage `train` is not finished"):
        run_evaluate(run, config_of(run), redo=False)
    run_evaluate(run, config_of(run, models=["teacher", "base"]), redo=False)
    rows = read_rows(run / "evaluate" / "rows.jsonl", Prediction)
    assert list(dict.fromkeys(row.model for row in rows)) == ["base", "teacher"]


def test_without_expected_calls_nothing_is_started(run: Path, config: Config) -> None:
    prompts = read_rows(run / "prompts" / "rows.jsonl", Prompt)
    put_prompts(run, [prompt for prompt in prompts if prompt.expected_calls is None])
    with pytest.raises(DataError, match="none of 1 test prompts has expected calls"):
        run_evaluate(run, config, redo=False)
    assert not (run / "evaluate").exists()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, a nano model with random weights, and `teacher`, which learned the replies by heart."""
    folder = tmp_path_factory.mktemp("models")
    texts = [*REPLIES, *REPLIES.values(), str(FIND_FILM.parameters)]
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=1,
            head_dim=64,
            max_position_embeddings=CONTEXT_LENGTH,
        )
    )
    save(model, tokenizer, folder / "base")
    learn_by_heart(model, tokenizer)
    save(model, tokenizer, folder / "teacher")
    return folder


@pytest.fixture
def run(tmp_path: Path, models: Path) -> Path:
    """A run whose prompts and training are finished: seed 0 learned nothing, seed 1 everything."""
    put_prompts(tmp_path, [prompt_of(index) for index in range(len(REQUESTS))])
    (tmp_path / "models").symlink_to(models)
    start_stage(tmp_path, "train", {}, redo=False)
    for name, weights in (("vanilla-seed0", "base"), ("vanilla-seed1", "teacher")):
        (tmp_path / "train" / name).mkdir()
        (tmp_path / "train" / name / "merged").symlink_to(models / weights)
    finish_stage(tmp_path, "train", counts={}, files=["vanilla-seed0/merged", "vanilla-seed1/merged"])
    return tmp_path


@pytest.fixture
def config(run: Path) -> Config:
    return config_of(run)


def config_of(run: Path, **evaluate: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": str(run)},
            "prompts": {"train": ["train.jsonl"]},
            "teacher": {"model": str(run / "models" / "teacher"), "dtype": "float32"},
            "student": {"model": str(run / "models" / "base")},
            "train": {"students": ["vanilla"], "seeds": [0, 1], "max_steps": 1},
            "evaluate": {"max_new_tokens": 48, "dtype": "float32", **evaluate},
        }
    )


def put_prompts(run: Path, prompts: list[Prompt]) -> None:
    start_stage(run, "prompts", {}, redo=True)
    num_rows, num_rejects = write_stage_rows(run, "prompts", prompts, [])
    counts = {"rows": num_rows, "rejects": num_rejects}
    finish_stage(run, "prompts", counts=counts, files=["rows.jsonl", "rejects.jsonl"])


def prompt_of(index: int) -> Prompt:
    category, test_set, request, expected_calls = REQUESTS[index]
    return Prompt(
        id=f"prompt{index}",
        messages=(Message("system", "[find_film(title, year)]"), Message("user", request)),
        tools=(FIND_FILM,),
        tools_span=None,
        category=category,
        group=str(index),
        split="test",
        test_set=test_set,
        expected_calls=expected_calls,
        source=Source("test.jsonl", index + 1),
    )


def learn_by_heart(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [
        example_ids(prompt_of(index).messages, reply, tokenizer) for index, reply in enumerate(REPLIES.values())
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        for example in examples:
            ids = torch.tensor([example.input_ids])
            labels = torch.where(torch.tensor([example.loss_mask]) == 1, ids, -100)
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
