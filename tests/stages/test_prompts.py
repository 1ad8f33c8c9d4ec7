"""Every line of the user's files is a prompt or a reject, groups stay together and stay where they are, and mistakes name themselves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.config import ConfigError
from distill.embedded.customer import bedrock_record, bfcl_answer
from distill.embedded.domains import CUSTOMER
from distill.records import DataError, ExpectedCall, Prompt, Reject
from distill.run_dir import read_json, read_rows
from distill.sources.bedrock_jsonl import SCHEMA_VERSION
from distill.stages.prompts import run_prompts
from tests.customer_world import customer_prompts, gold_calls, make_config, write_jsonl

TOOL = {
    "name": "find_film",
    "description": "Find.",
    "parameters": {"type": "dict", "properties": {"title": {"type": "string"}}, "required": ["title"]},
}


def record(request: str, *, tools: Any = (TOOL,), reply: str | None = None) -> dict[str, Any]:
    messages = [{"role": "user", "content": [{"text": request}]}]
    if reply is not None:
        messages.append({"role": "assistant", "content": [{"text": reply}]})
    system = "Tools: " + (tools if isinstance(tools, str) else json.dumps(list(tools)))
    return {"schemaVersion": SCHEMA_VERSION, "system": [{"text": system}], "messages": messages}


def run(folder: Path, model: Path, train: list[Path], **prompts: Any) -> tuple[list[Prompt], list[Reject]]:
    config = make_config(folder, str(model), train=train, prompts={"split": {"group_by": "request"}, **prompts})
    run_prompts(folder / "run", config, redo=False)
    done = folder / "run" / "prompts"
    return list(read_rows(done / "rows.jsonl", Prompt)), list(read_rows(done / "rejects.jsonl", Reject))


def test_every_line_is_a_prompt_or_a_reject(tmp_path: Path, llama_folder: Path) -> None:
    good = [bedrock_record(prompt) for prompt in customer_prompts(24, seed=1)]
    lines = [*map(json.dumps, good[:12]), "{", *map(json.dumps, good), "", json.dumps({**good[0], "id": 1})]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(lines))
    rows, rejects = run(tmp_path, llama_folder, [path])
    assert len(rows) + len(rejects) == len([line for line in lines if line])
    assert Counter(reject.reason for reject in rejects) == {"duplicate": 12, "invalid_json": 1, "extra_field": 1}
    sources = [row.source.line for row in rows] + [
        reject.source.line for reject in rejects if reject.source is not None
    ]
    assert sorted(sources) == [number for number, line in enumerate(lines, start=1) if line]
    assert len({row.id for row in rows}) == len(rows) == 24
    for row in rows:
        value = json.loads(lines[row.source.line - 1])
        assert [message.content for message in row.messages] == [
            value["system"][0]["text"],
            value["messages"][0]["content"][0]["text"],
        ]
    counts: Any = read_json(tmp_path / "run" / "prompts" / "manifest.json")["counts"]
    assert (counts["rows"], counts["rejects"]) == (24, 14)
    assert sum(count for name, count in counts.items() if "/" in name) == 24


def test_more_prompts_move_nobody_and_no_group_is_torn(tmp_path: Path, llama_folder: Path) -> None:
    records = [bedrock_record(prompt) for prompt in customer_prompts(120, seed=2)]
    shares = {"group_by": "request", "validation_share": 0.2, "test_share": 0.2}
    few, _ = run(tmp_path / "few", llama_folder, [write_jsonl(tmp_path / "few.jsonl", records[:80])], split=shares)
    many, _ = run(
        tmp_path / "many", llama_folder, [write_jsonl(tmp_path / "many.jsonl", reversed(records))], split=shares
    )
    before, after = ({row.id: row.split for row in rows} for rows in (few, many))
    assert before.items() <= after.items()
    assert all(count >= 8 for count in Counter(after.values()).values()) and len(set(after.values())) == 3
    assert {row.test_set for row in many if row.split == "test"} == {"own"}
    groups: dict[str, set[str]] = {}
    for row in many:
        groups.setdefault(row.group, set()).add(row.split)
    assert all(len(splits) == 1 for splits in groups.values())


def test_near_copies_share_their_group(tmp_path: Path, llama_folder: Path) -> None:
    other = {**TOOL, "name": "seek_film"}
    records = [record("Find Heat."), record(" find heat.\n", tools=[other]), record("Find Ran.")]
    path = write_jsonl(tmp_path / "train.jsonl", records)
    groups = {}
    for by in ("request", "tools", "conversation"):
        rows, _ = run(tmp_path / by, llama_folder, [path], split={"group_by": by, "validation_share": 0.0})
        groups[by] = [row.group for row in rows]
    assert groups["request"][0] == groups["request"][1] != groups["request"][2]
    assert groups["tools"][0] == groups["tools"][2] != groups["tools"][1]
    assert groups["conversation"][0] == groups["conversation"][2] != groups["conversation"][1]


@pytest.mark.parametrize("group_by", ["tools", "conversation"])
def test_one_fixed_list_of_tools_cannot_be_split_by_tools(group_by: str, tmp_path: Path, llama_folder: Path) -> None:
    records = [
        record(f"Find film number {index}.", tools=[TOOL if index < 4 else {**TOOL, "name": f"f{index}"}])
        for index in range(10)
    ]
    path = write_jsonl(tmp_path / "train.jsonl", records)
    with pytest.raises(ConfigError, match=r"one group holds 4 of 10 prompts .*group_by=request"):
        run(tmp_path / "run", llama_folder, [path], split={"group_by": group_by})
    rows, _ = run(tmp_path / "by_request", llama_folder, [path])
    assert len(rows) == 10


def test_what_is_tested_or_validated_on_is_not_trained_on(tmp_path: Path, llama_folder: Path) -> None:
    names = ["Alien", "Brazil", "Casino", "Dune", "Eden", "Fargo"]
    a, b, c, d, e, f = (record(f"Find {name}.") for name in names)
    train = write_jsonl(tmp_path / "train.jsonl", [a, a, b, c, f])
    validation = write_jsonl(tmp_path / "validation.jsonl", [b, d, c])
    test = write_jsonl(tmp_path / "test.jsonl", [c, e, e])
    rows, rejects = run(
        tmp_path, llama_folder, [train], validation=[str(validation)], test=[{"name": "mine", "path": str(test)}],
        split={"group_by": "request", "validation_share": 0.0},
    )  # fmt: skip
    assert [(row.messages[-1].content[5:-1], row.split, row.test_set) for row in rows] == [
        ("Casino", "test", "mine"), ("Eden", "test", "mine"), ("Brazil", "validation", None), ("Dune", "validation", None),
        ("Alien", "train", None), ("Fargo", "train", None),
    ]  # fmt: skip
    found = {
        (Path(reject.source.path).stem, reject.source.line): (reject.reason, reject.detail)
        for reject in rejects
        if reject.source
    }
    assert found == {
        ("test", 3): ("duplicate", f"equal to {test}:2 (test mine)"),
        ("validation", 3): ("contaminated", f"equal to {test}:1 (test mine)"),
        ("train", 2): ("duplicate", f"equal to {train}:1 (train)"),
        ("train", 3): ("contaminated", f"equal to {validation}:1 (validation)"),
        ("train", 4): ("contaminated", f"equal to {test}:1 (test mine)"),
    }


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (record("Find Heat.", tools="none"), "no_tools"),
        (record("Find Heat.", tools='[{"name": "find_film", "parameters": {'), "bad_tool_json"),
        (record("Find Heat.", tools=[TOOL, TOOL]), "duplicate_tool"),
        (record("Find Heat.", tools=[{**TOOL, "parameters": {"required": [["title"]], "properties": {}}}]), "required_not_in_properties"),
        (record("Find Heat. " * 200), "too_long"),
        (record("Find Heat.", reply="[find_film(title=Heat)]"), "answer_unparseable"),
        (record("Find Heat.", reply="Sure: [find_film(title='Heat')]"), "answer_unparseable"),
        (record("Find Heat.", reply="[find_film(title=3)]"), "invalid_answer"),
        (record("Find Heat.", reply="[seek_film(title='Heat')]"), "calls_unknown_function"),
        (record("Find Heat.", tools=[{**TOOL, "parameters": {"properties": {"title": {"type": "txt"}}}}]), "unknown_type"),
        (record("Find <|eot_id|> Heat."), "invalid_tags"),
        (record("Please find Ran!"), "near_duplicate"),
    ],
)  # fmt: skip
def test_each_reason_is_earned(made: Any, reason: str, tmp_path: Path, llama_folder: Path) -> None:
    rows, rejects = run(
        tmp_path,
        llama_folder,
        [write_jsonl(tmp_path / "train.jsonl", [record("Find Ran."), made])],
        max_prompt_tokens=600,
    )
    assert [row.source.line for row in rows] == [1]
    assert [(reject.reason, reject.source.line) for reject in rejects if reject.source] == [(reason, 2)]
    assert rejects[0].detail


def test_the_users_own_reply_is_the_expected_answer(tmp_path: Path, llama_folder: Path) -> None:
    two = [TOOL, {**TOOL, "name": "book_film"}]
    records = [
        record("Find Heat.", reply="[find_film(title='Heat')]"),
        record("Find Heat or Ran.", reply="[find_film(title='Heat'), find_film(title='Ran')]"),
        record("Find and book Heat.", tools=two, reply="[find_film(title='Heat'), book_film(title='Heat')]"),
        record("Book Heat.", tools=two, reply="[book_film(title='Heat')]"),
        record("Boil an egg.", reply="None of the functions can do that."),
        record("Boil water.", tools=two, reply="[]"),
        record("Find Alien."),
        record("Find or book Alien.", tools=two),
    ]
    rows, rejects = run(tmp_path, llama_folder, [write_jsonl(tmp_path / "train.jsonl", records)])
    assert rejects == []
    categories = [
        "simple",
        "parallel",
        "parallel_multiple",
        "multiple",
        "irrelevance",
        "irrelevance",
        "simple",
        "multiple",
    ]
    assert [row.category for row in rows] == categories
    assert rows[0].expected_calls == (ExpectedCall("find_film", {"title": ["Heat"]}),)
    assert [None if row.expected_calls is None else len(row.expected_calls) for row in rows] == [
        1,
        2,
        2,
        1,
        0,
        0,
        None,
        None,
    ]


def test_line_k_of_the_answers_belongs_to_record_k(tmp_path: Path, llama_folder: Path) -> None:
    prompts = customer_prompts(9, seed=3)
    lines = [json.dumps(bedrock_record(prompt), ensure_ascii=False) for prompt in prompts]
    lines[4] = "{}"  # a reject has its answer too
    test, answers = tmp_path / "test.jsonl", tmp_path / "answers.jsonl"
    test.write_text("\n\n".join(lines))
    odd = {"id": "x", "ground_truth": [{"a.b": {"c": ["one\u2028two\x85three"]}}]}
    values = [odd if index == 4 else bfcl_answer(prompt, f"t_{index}") for index, prompt in enumerate(prompts)]
    write_jsonl(answers, values)
    train = write_jsonl(tmp_path / "train.jsonl", [record("Find Heat.")])
    rows, rejects = run(
        tmp_path, llama_folder, [train], test=[{"name": "mine", "path": str(test), "answers": str(answers)}]
    )
    tested = [row for row in rows if row.split == "test"]
    assert len(tested) == 8 and len(rejects) == 1
    for row, prompt in zip(tested, [*prompts[:4], *prompts[5:]], strict=True):
        assert row.expected_calls is not None
        assert [call.name for call in row.expected_calls] == [call.name for call in gold_calls(prompt)]
        assert [set(call.options) for call in row.expected_calls] == [
            set(call.arguments) for call in gold_calls(prompt)
        ]


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        (
            ['{"id": "0", "ground_truth": []}'],
            r"answers.jsonl: 1 answers for more records in .*test.jsonl; line k answers record k",
        ),
        (['{"ground_truth": []}'] * 3, r"answers.jsonl: 3 answers for 2 records in .*test.jsonl"),
        (['{"ground_truth": []}', "{"], r"answers.jsonl:2: expected"),
        (['{"ground_truth": []}', '{"id": 1}'], r"answers.jsonl:2: expected"),
        (['{"ground_truth": {"f": {}}}'] * 2, r"answers.jsonl:1: expected"),
        (['{"ground_truth": ["f"]}'] * 2, r"answers.jsonl:1: expected"),
        (['{"ground_truth": [{"f": 3}]}'] * 2, r"answers.jsonl:1: expected"),
        (['{"ground_truth": [{"f": {"a": 3}}]}'] * 2, r"answers.jsonl:1: expected"),
        (['{"ground_truth": [{}]}'] * 2, r"answers.jsonl:1: expected"),
        (["\udcff"], r"answers.jsonl:1: expected"),
        (["[" * 5000], r"answers.jsonl:1: expected"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answers: list[str], what: str, tmp_path: Path, llama_folder: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", [record("Find Heat.")])
    test = write_jsonl(tmp_path / "test.jsonl", [record("Find Ran."), record("Find Alien.")])
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(answers) + "\n", errors="surrogateescape")
    with pytest.raises(DataError, match=what):
        run(tmp_path, llama_folder, [train], test=[{"name": "mine", "path": str(test), "answers": str(path)}])
    assert {item.name for item in (tmp_path / "run" / "prompts").iterdir()} == {"inputs.json"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "the files are empty"),
        ("\n \n", "the files are empty"),
        ("{\n[]\n", r"2 x invalid_json. The first: .*train.jsonl:1: not valid JSON"),
        (json.dumps(record("Hi", tools="none")), r"1 x no_tools. The first: .*train.jsonl:1: no JSON array of tools"),
    ],
)
def test_a_file_without_a_usable_prompt_is_refused_and_may_be_mended(
    content: str, what: str, tmp_path: Path, llama_folder: Path
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=f"{path}: no usable training prompt; {what}"):
        run(tmp_path, llama_folder, [path])
    assert {item.name for item in (tmp_path / "run" / "prompts").iterdir()} == {"inputs.json"}
    write_jsonl(path, [record("Find Heat.")])
    rows, _ = run(tmp_path, llama_folder, [path])
    assert len(rows) == 1


def test_the_same_files_are_read_once_and_changed_ones_named(tmp_path: Path, llama_folder: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", [record("Find Heat.")])
    rows, _ = run(tmp_path, llama_folder, [path])
    manifest = tmp_path / "run" / "prompts" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert run(tmp_path, llama_folder, [path])[0] == rows
    assert manifest.stat().st_mtime_ns == written
    write_jsonl(path, [record("Find Ran.")])
    with pytest.raises(ConfigError, match=f"train: {path}: was "):
        run(tmp_path, llama_folder, [path])


def test_a_missing_file_is_named_before_anything_is_written(tmp_path: Path, llama_folder: Path) -> None:
    there, gone = write_jsonl(tmp_path / "train.jsonl", [record("Find Heat.")]), tmp_path / "gone.jsonl"
    with pytest.raises(ConfigError, match=f"{gone}: nothing to read there; give a file, or a folder or a glob"):
        run(tmp_path, llama_folder, [there, gone])
    with pytest.raises(DataError, match=rf"{gone}: cannot read it \(no such file\); give the path or URL of one file"):
        run(tmp_path, llama_folder, [there], test=[{"name": "a", "path": str(there), "answers": str(gone)}])
    assert not (tmp_path / "run").exists()


def test_the_customers_prompts_are_all_usable(tmp_path: Path, llama_folder: Path) -> None:
    records = [bedrock_record(prompt) for prompt in customer_prompts(60, seed=4, domain=CUSTOMER)]
    rows, rejects = run(tmp_path, llama_folder, [write_jsonl(tmp_path / "train.jsonl", records)])
    assert (len(rows), rejects) == (60, [])
    assert all(row.tools_span is not None for row in rows)
