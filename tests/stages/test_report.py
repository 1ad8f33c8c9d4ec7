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
from distill.embedded.customer import bedrock_record
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
from distill.stages.prompts import run_prompts
from distill.stages.report import run_report
from tests.customer_world import customer_prompts, make_config, write_jsonl

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


def test_prompts_on_the_page_are_the_stages_own_numbers(tmp_path: Path, llama_folder: Path) -> None:
    report, page = report_of_hostile_sources(tmp_path, llama_folder)
    found = report["prompts"]
    assert found == json.loads((tmp_path / "run" / "prompts" / "report.json").read_text(encoding="utf-8"))
    assert found["reasons"] == {"extra_field": 14, "duplicate": 5, "failed_call": 2} and found["accepted"] == 24
    columns = ("path", "role", "format", "files", "accepted", "rejected", "num_skipped_files")
    assert len(found["sources"]) == 3 and sum(source["num_skipped_files"] for source in found["sources"]) == 12
    for source in found["sources"]:
        assert [str(source[name]) for name in columns] in page.rows
        assert all(f"{file['path']}: {file['detail']}\n" in page.text for file in source["skipped_files"])
    for reason, count in found["reasons"].items():
        [row] = [row for row in page.rows if row[0] == reason]
        examples = found["examples"][reason]
        assert row[1] == str(count) and len(examples) == min(3, count)
        for example in examples:
            place = f"{example['path']}:{example['line']}, byte {example['offset']}"
            request = "" if example["request_id"] is None else f", request {example['request_id']}"
            assert f"{place}{request}" in row[3] and example["detail"] in row[3]
    for name in ("tools_per_prompt", "messages_per_prompt", "categories", "splits"):
        assert found[name] and all([key, str(count), ""] in page.rows for key, count in found[name].items())
    header = page.rows.index(["min", "median", "p90", "p99", "max"])
    assert [int(cell.replace(",", "")) for cell in page.rows[header + 1]] == list(found["characters"].values())
    groups = found["groups"]
    assert f"sources: {groups['number']}; prompts in the largest: {groups['largest']}." in page.text
    assert found["bedrock_limits"] and all(limit in page.text for limit in found["bedrock_limits"])


def test_foreign_text_of_a_reject_stays_text(tmp_path: Path, llama_folder: Path) -> None:
    report, page = report_of_hostile_sources(tmp_path, llama_folder)
    assert not {"script", "img", "b"} & set(page.tags)
    foreign = report["prompts"]["examples"]
    assert HOSTILE in foreign["failed_call"][0]["request_id"] and HOSTILE in foreign["failed_call"][0]["detail"]
    assert "<img src=x onerror=alert(1)>" in foreign["extra_field"][0]["path"]
    lines = (tmp_path / "run" / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| reason | rejects | the first of them |") + 2
    table = lines[start : lines.index("", start)]
    assert len(table) == len(report["prompts"]["reasons"])
    for line in table:
        assert len(re.findall(r"(?<!\\)\|", line)) == 4 and not re.search(r"(?<!\\)[<`]", line)


def test_a_run_from_before_the_prompts_report_has_no_such_section(tmp_path: Path) -> None:
    build_run(tmp_path, seeds=[0])
    assert report_of(tmp_path, config_of(tmp_path, seeds=[0]))["prompts"] is None
    assert "<h2>Prompts</h2>" not in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "## Prompts" not in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


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
    """Tags, text, rows of tables and addresses of a page, as a browser would take them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data.strip("\n")


def cell_of(row: Prediction) -> tuple[str, str, Category]:
    return row.model.partition("-")[0], row.test_set, row.category


def report_of(run: Path, config: Config) -> Any:
    run_report(run, config, redo=False)
    return json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))


def report_of_hostile_sources(folder: Path, model: Path) -> tuple[Any, PageReader]:
    """The report on what the real stage `prompts` made of files with markup in names, values and requests' ids, and its page."""
    good = [bedrock_record(prompt) for prompt in customer_prompts(24, seed=1)]
    bad = [{**record, f"{HOSTILE}{'x' * 500}|": 1} for record in good[:14]]
    named = folder / "in" / "<img src=x onerror=alert(1)>|.jsonl"
    write_jsonl(named, [*good[:20], *bad, *good[:5]])
    for number in range(12):
        (named.parent / f"{number}<b>.csv").write_text("a")
    call = {"schemaType": "ModelInvocationLog", "schemaVersion": "1.0", "errorCode": HOSTILE}
    logs = write_jsonl(folder / "logs.json", [{**call, "requestId": f"{number}{HOSTILE}|"} for number in range(2)])
    validation = write_jsonl(folder / "validation.jsonl", good[20:])
    config = make_config(folder, str(model), train=[named.parent, logs], prompts={"validation": [str(validation)]})
    run = folder / "run"
    build_run(run, seeds=[])
    run_prompts(run, config, redo=True)
    report = report_of(run, config)
    page = PageReader()
    page.feed((run / "report" / "report.html").read_text(encoding="utf-8"))
    return report, page


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
