"""Records of every format become prompts through a configuration: what was found, what was rejected and why adds up."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from distill.calls.render import render_calls
from distill.cli import app, call_cleanly, run_stage
from distill.config import Config, load_config
from distill.embedded.conventions import USUAL_LAYOUT, tools_text
from distill.embedded.customer import bedrock_record
from distill.records import Annotation, Example, Prompt, Reject
from distill.run_dir import read_json, read_rows
from distill.sources.tools_in_text import find_tools
from tests.customer_world import config_values, customer_prompts, gold_calls, write_jsonl
from tests.sources.log_tree import Call, Turn, write_log_tree

MODEL = "meta.llama3-1-70b-instruct-v1:0"


def make_config(folder: Path, model: str, **sections: Any) -> Config:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config_values(folder, model, train=[Path("replaced")], **sections)))
    return load_config(path)


def rows_and_rejects(folder: Path) -> tuple[list[Prompt], list[Reject]]:
    done = folder / "run" / "prompts"
    return list(read_rows(done / "rows.jsonl", Prompt)), list(read_rows(done / "rejects.jsonl", Reject))


def test_logged_answers_of_the_teacher_become_examples_and_no_teacher_is_needed(
    tmp_path: Path, llama_folder: Path
) -> None:
    """Calls through raw Llama prompts, tools in the text; the profile's id names the model; another model's answers are not taken."""
    prompts = customer_prompts(12, seed=21)
    calls = [
        Call(
            operation=("InvokeModel", "InvokeModelWithResponseStream")[index % 2],
            turns=(Turn(text=prompt.request.text),),
            reply=Turn(text=render_calls(gold_calls(prompt)) if index else "[nonsense(", calls=()),
            system="Functions:\n" + tools_text(prompt.tools, USUAL_LAYOUT),
            model_id="us." + MODEL if index % 5 else "amazon.nova-pro-v1:0",
            error="ThrottlingException" if index == 7 else None,
        )
        for index, prompt in enumerate(prompts)
    ]
    write_log_tree(tmp_path / "logs", calls, Random(0))
    source = {"path": str(tmp_path / "logs"), "use_prompt_response": True}
    config = make_config(
        tmp_path, str(llama_folder), prompts={"train": [source], "split": {"validation_share": 0.0}},
        teacher={"model": MODEL},
    )  # fmt: skip
    for stage in ("prompts", "annotate", "curate"):
        run_stage(stage, config, redo=False)
    rows, rejects = rows_and_rejects(tmp_path)
    assert Counter(reject.reason for reject in rejects) == {"model_mismatch": 3, "failed_call": 1}
    taken = [index for index in range(12) if index % 5 and index != 7]
    assert [row.messages[-1].content for row in rows] == [prompts[index].request.text for index in taken]
    assert all(row.given_reply and row.given_reply.model == MODEL and row.expected_calls is None for row in rows)
    annotations = list(read_rows(tmp_path / "run" / "annotate" / "rows.jsonl", Annotation))
    assert {annotation.model for annotation in annotations} == {MODEL}
    counts: Any = read_json(tmp_path / "run" / "annotate" / "manifest.json")["counts"]
    assert (counts["prompts"], counts["logged"], counts["completion_tokens"]) == (len(taken), len(taken), 0)
    examples = list(read_rows(tmp_path / "run" / "curate" / "rows.jsonl", Example))
    assert [example.calls for example in examples] == [gold_calls(prompts[index]) for index in taken]
    # changing whose answers are used is another input
    assert call_cleanly(lambda: run_stage("prompts", make_config(
        tmp_path, str(llama_folder), prompts={"train": [{**source, "logged_model": "amazon.nova-pro-v1:0"}], "split": {"validation_share": 0.0}},
        teacher={"model": MODEL}), redo=False)) == 2  # fmt: skip


def test_tools_of_a_field_stand_in_the_text_and_turns_share_their_prefix(tmp_path: Path, llama_folder: Path) -> None:
    prompts = customer_prompts(6, seed=22)
    records = [
        {
            "messages": [
                {"role": "user", "content": prompt.request.text},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": str(n), "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
                        for n, call in enumerate(gold_calls(prompt))
                    ],
                },
                *({"role": "tool", "tool_call_id": str(n), "content": "done"} for n in range(len(gold_calls(prompt)))),
                {"role": "assistant", "content": "It is done."},
                {"role": "user", "content": "Thanks, and what did that cost?"},
            ],
            "tools": [
                {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
                for t in prompt.tools
            ],
        }
        for prompt in prompts
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "chats.jsonl", records)
    source = {"path": str(path), "multi_turn": True}
    config = make_config(tmp_path, str(llama_folder), prompts={"train": [source], "split": {"validation_share": 0.0}})
    run_stage("prompts", config, redo=False)
    rows, rejects = rows_and_rejects(tmp_path)
    assert (len(rows), rejects) == (18, [])
    for number, prompt in enumerate(prompts):
        turns = [row for row in rows if row.source.line == number + 1]
        for shorter, longer in pairwise(turns):
            assert longer.messages[: len(shorter.messages)] == shorter.messages
        for row in turns:
            assert row.tools == prompt.tools
            found = find_tools(row.messages)
            assert (found.tools, found.span) == (row.tools, row.tools_span)
        assert [None if row.expected_calls is None else len(row.expected_calls) for row in turns] == [
            len(gold_calls(prompt)), 0, None,
        ]  # fmt: skip


def test_what_a_benchmark_asks_is_not_trained_on(tmp_path: Path, llama_folder: Path) -> None:
    prompts = customer_prompts(8, seed=23)
    story = "My sister told me a long story about her week and in the end she said this: "
    asked = [bedrock_record(prompt) for prompt in prompts]
    retold: Any = json.loads(json.dumps(asked[:3]))
    for record in retold:
        text = record["messages"][0]["content"][0]
        text["text"] = story + text["text"]
    train = write_jsonl(tmp_path / "train.jsonl", [*retold, *asked[3:]])
    benchmark = write_jsonl(tmp_path / "benchmark.jsonl", asked[:3])
    for drop in (True, False):
        folder = tmp_path / str(drop)
        folder.mkdir()
        config = make_config(
            folder, str(llama_folder),
            prompts={"train": [str(train)], "benchmarks": [str(benchmark)], "drop_contaminated": drop, "split": {"validation_share": 0.0}},
        )  # fmt: skip
        run_stage("prompts", config, redo=False)
        rows, rejects = rows_and_rejects(folder)
        assert [reject.reason for reject in rejects] == (["contaminated"] * 3 if drop else [])
        assert len(rows) == (5 if drop else 8)
        for number, reject in enumerate(rejects, start=1):
            assert f"{benchmark}:{number} (benchmark)" in reject.detail


def test_the_report_of_the_stage_adds_up(tmp_path: Path, llama_folder: Path) -> None:
    good = [bedrock_record(prompt) for prompt in customer_prompts(20, seed=24)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("\n".join([*map(json.dumps, good), "{", "[]", "{}", "1", "2"]))
    write_jsonl(tmp_path / "in" / "b.jsonl", good[:5])
    (tmp_path / "in" / "notes.txt").write_text("not read")
    config = make_config(
        tmp_path, str(llama_folder), prompts={"train": [str(tmp_path / "in")], "test": [{"name": "mine", "path": str(tmp_path / "in" / "b.jsonl")}]},
    )  # fmt: skip
    run_stage("prompts", config, redo=False)
    rows, rejects = rows_and_rejects(tmp_path)
    report: Any = read_json(tmp_path / "run" / "prompts" / "report.json")
    assert (report["accepted"], report["rejected"]) == (len(rows), len(rejects)) == (20, 15)
    assert report["reasons"] == Counter(reject.reason for reject in rejects)
    assert {reason: len(examples) for reason, examples in report["examples"].items()} == {
        reason: min(3, count) for reason, count in report["reasons"].items()
    }
    assert sum(source["accepted"] for source in report["sources"]) == 20
    assert sum(report["categories"].values()) == sum(report["tools_per_prompt"].values()) == 20
    train = next(source for source in report["sources"] if source["role"] == "train")
    assert (train["files"], train["accepted"], train["rejected"]) == (2, 15, 15)
    assert [file["path"] for file in train["skipped_files"]] == [str(tmp_path / "in" / "notes.txt")]
    lengths = sorted(sum(len(message.content) for message in row.messages) for row in rows)
    assert (report["characters"]["min"], report["characters"]["max"]) == (lengths[0], lengths[-1])


def test_validate_says_what_the_stage_would(tmp_path: Path) -> None:
    good = [json.dumps(bedrock_record(prompt)) for prompt in customer_prompts(110, seed=25)]
    path, out = tmp_path / "prompts.jsonl", tmp_path / "out.json"
    path.write_text("\n".join([*good, good[0], "{"]))
    result = CliRunner().invoke(app, ["validate", str(path), "--json", str(out), "--as-bedrock"])
    assert result.exit_code == 0 and "accepted 110, rejected 2" in result.stdout
    assert f"{path}:112: not valid JSON" in result.stdout
    written = json.loads(out.read_text())
    assert (written["accepted"], written["rejected"]) == (110, 2)
    assert written["reasons"] == {"duplicate": 1, "invalid_json": 1}


def test_bedrocks_limits_count_what_bedrock_takes(tmp_path: Path) -> None:
    """80 usable prompts and 40 that repeat them are 120 to Bedrock; 90 and as many broken lines are 90."""
    good = [json.dumps(bedrock_record(prompt)) for prompt in customer_prompts(90, seed=28)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join([*good[:80], *good[:40]]))
    assert CliRunner().invoke(app, ["validate", str(path), "--as-bedrock"]).exit_code == 0
    path.write_text("\n".join([*good, *["{"] * 90]))
    assert "90 training prompts by Bedrock's rules" in str(
        CliRunner().invoke(app, ["validate", str(path), "--as-bedrock"]).exception
    )


def test_a_repeat_names_the_prompt_that_was_kept(tmp_path: Path, llama_folder: Path) -> None:
    """A contaminated prompt is remembered nowhere, so its copy is contaminated too, and not a duplicate of whatever came next."""
    asked = [bedrock_record(prompt) for prompt in customer_prompts(3, seed=29)]
    retold: Any = json.loads(json.dumps(asked[0]))
    retold["messages"][0]["content"][0]["text"] += " My sister asked me to."
    test = write_jsonl(tmp_path / "test.jsonl", asked[:1])
    for drop_near in (True, False):
        folder = tmp_path / str(drop_near)
        folder.mkdir()
        train = write_jsonl(folder / "train.jsonl", [retold, asked[1], retold, asked[1], asked[2]])
        config = make_config(
            folder, str(llama_folder),
            prompts={"train": [str(train)], "test": [{"name": "t", "path": str(test)}], "drop_near_duplicates": drop_near},
        )  # fmt: skip
        run_stage("prompts", config, redo=False)
        _, rejects = rows_and_rejects(folder)
        assert [(reject.reason, reject.source.line) for reject in rejects if reject.source] == [
            ("contaminated", 1), ("contaminated", 3), ("duplicate", 4),
        ]  # fmt: skip
        assert rejects[2].detail == f"equal to {train}:2 (train)"


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["{"], [], "no usable prompt"),
        ([], [], "no usable prompt"),
        (None, [], "nothing to read there"),
        (["good"], ["--as-bedrock"], "1 training prompts by Bedrock's rules; it wants at least 100"),
        (["good"], ["--format", "csv"], "--format csv: choose one of bedrock"),
        (["good"], ["--as-bedrock", "--multi-turn"], "choose one of them"),
    ],
)
def test_validate_refuses_by_name(
    lines: list[str] | None, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.jsonl"
    good = json.dumps(bedrock_record(customer_prompts(1, seed=26)[0]))
    if lines is not None:
        path.write_text("\n".join(good if line == "good" else line for line in lines))
    assert call_cleanly(lambda: app(["validate", str(path), *options], standalone_mode=False)) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_finished_stages_are_published_as_they_finish_or_later(tmp_path: Path, llama_folder: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", [bedrock_record(prompt) for prompt in customer_prompts(6, seed=27)])
    place = f"file://{tmp_path / 'there'}"
    config = make_config(
        tmp_path, str(llama_folder), prompts={"train": [str(train)]}, run={"dir": str(tmp_path / "run"), "publish_to": place}
    )  # fmt: skip
    run_stage("prompts", config, redo=False)
    stage, copy = tmp_path / "run" / "prompts", tmp_path / "there" / "prompts"
    names = {item.name for item in stage.iterdir()}
    assert names <= {item.name for item in copy.iterdir()}
    assert all((stage / name).read_bytes() == (copy / name).read_bytes() for name in names)
    later = f"file://{tmp_path / 'later'}"
    assert call_cleanly(lambda: app(["publish", str(tmp_path / "run"), later], standalone_mode=False)) == 0
    assert (tmp_path / "later" / "prompts" / "manifest.json").read_bytes() == (stage / "manifest.json").read_bytes()
    assert call_cleanly(lambda: app(["publish", str(tmp_path), later], standalone_mode=False)) == 2
