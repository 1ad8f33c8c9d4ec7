"""A finished run in, the report out: its numbers are those of the rows, and no text of a model or user becomes markup."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest
from scipy.stats import binomtest

from distill.calls.match import score_text
from distill.calls.render import render_calls
from distill.config import Config, ConfigError
from distill.records import (
    VERDICTS,
    Annotation,
    Category,
    Completion,
    DataError,
    Example,
    ExpectedCall,
    JsonObject,
    Lineage,
    Message,
    Prediction,
    Prompt,
    Reject,
    Source,
    Tool,
    ToolCall,
    content_id,
)
from distill.run_dir import finish_stage, start_stage, write_rows, write_stage_rows, write_text
from distill.stages.report import run_report

HOSTILE = '[find_film(title="</pre><script>alert(1)</script>`````", year=1995)]'
FIND_FILM = Tool(
    name="find_film",
    description="Find a film by title.",
    parameters={
        "type": "dict",
        "required": ["title", "year"],
        "properties": {"title": {"type": "string"}, "year": {"type": "integer"}, "dubbed": {"type": "boolean"}},
    },
)
BOOK_SEAT = Tool(
    name="book_seat",
    description="Book a seat.",
    parameters={"type": "dict", "required": ["row"], "properties": {"row": {"type": "integer"}}},
)
SHARE_RIGHT = {"base": 0.35, "vanilla": 0.6, "augmented": 0.75, "teacher": 0.9}


def test_numbers_are_those_of_the_predictions(tmp_path: Path) -> None:
    predictions = build_run(tmp_path, seeds=[0])
    report = report_of(tmp_path, config_of(tmp_path, seeds=[0]))
    for suffix, test_set in (("", "same_tools"), ("_new_tools", "new_tools")):
        assert list(report[f"accuracy{suffix}"]) == ["base", "vanilla", "augmented", "teacher"]
        for model, categories in report[f"accuracy{suffix}"].items():
            assert list(categories) == ["simple", "multiple"]
            for category, rate in categories.items():
                rows = [p for p in predictions if cell_of(p) == (model, test_set, category)]
                right = sum(row.verdict == "correct" for row in rows)
                interval = binomtest(right, len(rows)).proportion_ci(method="wilson")
                assert (rate["n"], rate["correct"]) == (len(rows), right)
                assert (rate["low"], rate["high"]) == pytest.approx((interval.low, interval.high))
                verdicts = report[f"verdicts{suffix}"][model][category]
                assert list(verdicts) == list(VERDICTS) and sum(verdicts.values()) == rate["n"]
    assert list(report["paired"]) == ["base-vanilla", "vanilla-augmented", "augmented-teacher"]
    test = report["paired"]["base-vanilla"]["simple"]
    gained, lost = test["only_second_correct"], test["only_first_correct"]
    assert test["p"] == pytest.approx(binomtest(gained, gained + lost).pvalue)
    accuracy = report["accuracy"]
    assert gained - lost == accuracy["vanilla"]["simple"]["correct"] - accuracy["base"]["simple"]["correct"]
    assert report["latency"] is None


def test_several_seeds_are_pooled_but_count_no_prompt_twice(tmp_path: Path) -> None:
    build_run(tmp_path, seeds=[0, 1, 2])
    report = report_of(tmp_path, config_of(tmp_path, seeds=[0, 1, 2]))
    base, vanilla = (report["accuracy"][model]["simple"] for model in ("base", "vanilla"))
    assert vanilla["n"] == 3 * base["n"] and vanilla["seeds"] == [0, 1, 2] and vanilla["num_prompts"] == base["n"]
    assert vanilla["mean"] == pytest.approx(vanilla["correct"] / vanilla["n"]) and vanilla["sd"] > 0
    pooled = binomtest(vanilla["correct"], vanilla["n"]).proportion_ci(method="wilson")
    assert vanilla["high"] - vanilla["low"] > 1.5 * (pooled.high - pooled.low)
    assert sum(report["verdicts"]["vanilla"]["simple"].values()) == vanilla["n"]
    for test in (report["paired"][pair]["simple"] for pair in report["paired"]):
        assert test["n"] == base["n"] and len(test["p_by_seed"]) == 3 and test["p_by_seed"][0] == test["p"]
    assert "seed" not in base and "mean" not in base


def test_the_page_is_self_contained_and_shows_model_output_as_text(tmp_path: Path) -> None:
    predictions = build_run(tmp_path, seeds=[0])
    assert any(HOSTILE in p.completion.text and p.model == "augmented-seed0" for p in predictions)
    report_of(tmp_path, config_of(tmp_path, seeds=[0], title="<b>& title</b>"))
    page = PageReader()
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    page.feed(text)
    assert "script" not in page.tags and "link" not in page.tags and "b" not in page.tags
    assert HOSTILE in page.text and "<b>& title</b>" in page.text
    assert all(value.startswith("#") for value in page.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "drawings share the page"
    assert page.tags.count("svg") == 3, "two test sets and the training curves"
    for words in ("same_tools", "Wilson", "95 %", "seed 0", "McNemar", "teacher_error", "not measured"):
        assert words in page.text


def test_wrong_answers_are_the_best_students_and_of_every_kind(tmp_path: Path) -> None:
    predictions = build_run(tmp_path, seeds=[0])
    report = report_of(tmp_path, config_of(tmp_path, seeds=[0]))
    wrong = report["wrong_answers"]
    assert len(wrong) == 10 and {w["model"] for w in wrong} == {"augmented-seed0"}
    kinds = {
        (p.category, p.verdict)
        for p in predictions
        if cell_of(p)[:2] == ("augmented", "same_tools") and p.verdict != "correct"
    }
    assert {(w["category"], w["verdict"]) for w in wrong} == kinds
    assert all(w["request"] and w["expected"] and w["explanation"] for w in wrong)
    assert any("dubbed=true or omitted" in w["expected"] for w in wrong)


def test_markdown_cannot_be_broken_out_of(tmp_path: Path) -> None:
    build_run(tmp_path, seeds=[0])
    report_of(tmp_path, config_of(tmp_path, seeds=[0], title="a | <b>"))
    lines = (tmp_path / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == r"# a \| \<b\>"
    place = lines.index(HOSTILE)
    assert lines[place - 1] == "``````text" and lines[place + 1] == "``````"
    for name in re.findall(r"\]\((\S+\.svg)\)", "\n".join(lines)):
        assert (tmp_path / "report" / name).read_text(encoding="utf-8").startswith("<?xml")


def test_funnel_names_rows_rejects_and_reasons(tmp_path: Path) -> None:
    build_run(tmp_path, seeds=[0])
    funnel = report_of(tmp_path, config_of(tmp_path, seeds=[0]))["funnel"]
    assert list(funnel) == ["prompts", "annotate", "curate", "augment", "train", "evaluate"]
    assert funnel["annotate"] == {
        "rows": 18,
        "rejects": 2,
        "reasons": {"teacher_error": 2},
        "counts": {"completion_tokens": 180},
    }
    assert funnel["augment"]["rows"] == 36 and funnel["train"]["rows"] is None and funnel["evaluate"]["rejects"] == 0


def test_same_run_gives_the_same_bytes_and_is_up_to_date_after(tmp_path: Path) -> None:
    config = config_of(tmp_path, seeds=[0])
    build_run(tmp_path, seeds=[0])
    report_of(tmp_path, config)
    first = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    run_report(tmp_path, config, redo=False)
    run_report(tmp_path, config, redo=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == first
    with pytest.raises(ConfigError, match=r"report\.title"):
        run_report(tmp_path, config_of(tmp_path, seeds=[0], title="another"), redo=False)


def test_without_training_the_report_has_two_bars(tmp_path: Path) -> None:
    build_run(tmp_path, seeds=[])
    report = report_of(tmp_path, config_of(tmp_path, seeds=[0]))
    assert list(report["accuracy"]) == ["base", "teacher"] and report["paired"] == {} and report["wrong_answers"] == []


def test_headline_without_predictions_is_refused_by_name(tmp_path: Path) -> None:
    build_run(tmp_path, seeds=[])
    with pytest.raises(ConfigError, match=r"headline_test_set is 'nothing'.*same_tools, new_tools"):
        report_of(tmp_path, config_of(tmp_path, seeds=[0], headline="nothing"))


def test_models_with_different_prompts_are_not_compared(tmp_path: Path) -> None:
    predictions = build_run(tmp_path, seeds=[])
    write_rows(tmp_path / "evaluate" / "rows.jsonl", predictions[:-1])
    with pytest.raises(DataError, match=r"base answered 60 prompts and teacher 59"):
        report_of(tmp_path, config_of(tmp_path, seeds=[0]))


class PageReader(HTMLParser):
    """Tags, text and addresses of a page, as a browser would take them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def cell_of(row: Prediction) -> tuple[str, str, Category]:
    return row.model.partition("-")[0], row.test_set, row.category


def report_of(run: Path, config: Config) -> Any:
    run_report(run, config, redo=False)
    return json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))


def config_of(run: Path, *, seeds: list[int], title: str = "Films", headline: str | None = None) -> Config:
    sets = [{"name": name, "path": f"{name}.jsonl"} for name in ("same_tools", "new_tools")]
    return Config.model_validate(
        {
            "run": {"dir": str(run)},
            "prompts": {"train": ["train.jsonl"], "test": sets},
            "teacher": {"model": "embedded:teacher"},
            "student": {"model": "embedded:student"},
            "train": {"students": ["vanilla", "augmented"], "seeds": seeds, "max_steps": 60},
            "report": {"title": title, "headline_test_set": headline},
        }
    )


def build_run(run: Path, *, seeds: list[int]) -> list[Prediction]:
    """A finished run of 20 training prompts, and 30 test prompts a category and test set; returns its predictions."""
    random = Random(0)
    train = [prompt_of(number, "simple", None) for number in range(20)]
    tests = [
        prompt_of(number, category, test_set)
        for test_set in ("same_tools", "new_tools")
        for category in ("simple", "multiple")
        for number in range(30)
    ]
    finish(run, "prompts", [*train, *tests], [reject("duplicate")], {"train/simple": 20, "test/simple": 60})
    completion = Completion(text="x", finish_reason="stop", num_prompt_tokens=50, num_completion_tokens=10)
    annotations = [
        Annotation(prompt.id, 0, completion, model="t", sampling_temperature=0.0, seed=0) for prompt in train[2:]
    ]
    finish(run, "annotate", annotations, [reject("teacher_error")] * 2, {"completion_tokens": 180})
    examples = [example_of(prompt, None) for prompt in train[2:]]
    finish(run, "curate", examples, [], {})
    augmented = [example_of(prompt, Lineage(prompt.id, "rename", 1)) for prompt in train[2:]]
    finish(run, "augment", [*examples, *augmented], [reject("failed_verification")], {"rename": 18})
    names = [f"{student}-seed{seed}" for student in ("vanilla", "augmented") for seed in seeds]
    if names:
        start_stage(run, "train", {}, redo=False)
        for name in names:
            write_text(run / "train" / name / "metrics.jsonl", metrics_of(random))
        finish_stage(run, "train", counts={"steps": 60}, files=[f"{name}/metrics.jsonl" for name in names])
    models = ["base", *names, "teacher"]
    predictions = [prediction_of(prompt, model, random) for model in models for prompt in tests]
    finish(run, "evaluate", predictions, [], {})
    return predictions


def finish(run: Path, stage: Any, rows: Sequence[Any], rejects: Sequence[Reject], counts: JsonObject) -> None:
    start_stage(run, stage, {}, redo=False)
    num_rows, num_rejects = write_stage_rows(run, stage, rows, rejects)
    counts = {"rows": num_rows, "rejects": num_rejects, **counts}
    finish_stage(run, stage, counts=counts, files=["rows.jsonl", "rejects.jsonl"])


def reject(reason: str) -> Reject:
    return Reject(id="r", reason=reason, detail="", source=Source("train.jsonl", 3))


def prompt_of(number: int, category: Category, test_set: str | None) -> Prompt:
    tools = (FIND_FILM,) if category == "simple" else (BOOK_SEAT, FIND_FILM)
    listing = json.dumps([{"name": tool.name, "parameters": tool.parameters} for tool in tools], indent=1)
    request = f"Find the film number {number} of 1995, {test_set}."
    options: dict[str, Any] = {"title": [f"number {number}"], "year": [1995], "dubbed": [True, ""]}
    return Prompt(
        id=content_id(number, category, test_set),
        messages=(Message("system", f"Answer with calls of these tools.\n{listing}"), Message("user", request)),
        tools=tools,
        tools_span=None,
        category=category,
        group=str(number),
        split="train" if test_set is None else "test",
        test_set=test_set,
        expected_calls=(ExpectedCall("find_film", options),),
        source=Source("train.jsonl", number + 1),
    )


def example_of(prompt: Prompt, lineage: Lineage | None) -> Example:
    call = ToolCall("find_film", {"title": "x", "year": 1995})
    return Example(
        id=content_id(prompt.id, None if lineage is None else lineage.method),
        prompt_id=prompt.id,
        split="train",
        messages=prompt.messages,
        tools=prompt.tools,
        tools_span=None,
        category="simple",
        reply=render_calls([call]),
        calls=(call,),
        weight=1.0,
        lineage=lineage,
    )


def prediction_of(prompt: Prompt, model: str, random: Random) -> Prediction:
    """What a model with such a share of right answers might write, scored by the real checker."""
    assert prompt.expected_calls is not None and prompt.test_set is not None
    title = prompt.expected_calls[0].options["title"][0]
    wrong = [
        HOSTILE,
        f"find_film({title!r}",
        f"[book_seat(row=3), find_film(title={title!r}, year=1995)]",
        f"[find_film(title={title!r}, year='1995')]",
    ]
    right = random.random() < SHARE_RIGHT[model.partition("-")[0]] - 0.1 * (prompt.test_set == "new_tools")
    text = f"[find_film(title={title!r}, year=1995)]" if right else random.choice(wrong)
    assert prompt.expected_calls is not None
    found = score_text(text, prompt.expected_calls, tools=prompt.tools, category=prompt.category, finish_reason="stop")
    return Prediction(
        prompt_id=prompt.id,
        model=model,
        test_set=prompt.test_set,
        category=prompt.category,
        completion=Completion(text=text, finish_reason="stop", num_prompt_tokens=100, num_completion_tokens=20),
        verdict=found.verdict,
        bfcl_error=found.bfcl_error,
        explanation=found.explanation,
    )


def metrics_of(random: Random) -> str:
    lines = []
    for step in range(1, 61):
        loss = 2.5 * 0.96**step + 0.1 * random.random() + 0.05
        lines.append({"step": step, "loss": loss, "validation_loss": 1.05 * loss if step % 10 == 0 else None})
    return "".join(json.dumps(line) + "\n" for line in lines)
