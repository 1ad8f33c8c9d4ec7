"""A source is what its first record says, all of it is read wherever it lies, and a setting without a use is refused."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from datasets import Dataset, DatasetDict

from distill.config import ConfigError, PromptFormat, PromptsConfig, PromptSource
from distill.records import DataError, ExpectedCall, Prompt, Reject, Source
from distill.sources.checks import PromptChecks
from distill.sources.inputs import OpenedSource, open_source, read_records, source_hash
from distill.sources.record import SourceRecord
from tests.sources.log_tree import (
    FOLDER,
    OPERATIONS,
    Call,
    Turn,
    expected_messages,
    expected_reply,
    log_record,
    request_id,
    write_log_tree,
)
from tests.sources.test_bedrock_jsonl import ASSISTANT, GOOD, USER
from tests.sources.test_bfcl import ANSWER, EXPECTED, QUESTION
from tests.sources.test_chat_jsonl import of
from tests.sources.test_invocation_logs import ASK, TEACHER, TEACHERS_NAMES, tree_calls

CHAT = of({"role": "user", "content": "Find Heat."})
LOG = log_record(Call("Converse", (ASK,), Turn("Fine.")), 0, Random(0))
BFCL = "BFCL_v4_simple_python.json"
FIRST_RECORDS: dict[str, tuple[PromptFormat, str, Any]] = {
    "bedrock": ("bedrock", "prompts.jsonl", GOOD),
    "messages": ("chat", "prompts.jsonl", CHAT),
    "prompt and completion": ("chat", "prompts.jsonl", {"prompt": CHAT["messages"], "completion": []}),
    "log": ("logs", "20250501T100000000Z_1a.json", LOG),
    "question": ("bfcl", BFCL, QUESTION),
}


def opened(path: object, *, teacher: str = TEACHER, **settings: Any) -> OpenedSource:
    return open_source(PromptSource(path=str(path), **settings), where="prompts.train[0]", teacher=teacher)


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def upload(s3: Any, bucket: str, folder: Path) -> str:
    """The same tree in a bucket."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            s3.put_object(Bucket=bucket, Key=f"copy/{path.relative_to(folder)}", Body=path.read_bytes())
    return f"s3://{bucket}/copy"


def placed(results: Sequence[SourceRecord | Reject], root: object) -> list[Any]:
    """Results with their places relative to a root, where they can be compared with those of a copy."""
    found = []
    for result in results:
        assert result.source is not None and result.source.path.startswith(f"{root}/")
        source = replace(result.source, path=result.source.path.removeprefix(f"{root}/"))
        found.append(
            (result.reason, source) if isinstance(result, Reject) else (replace(result, source=source), source)
        )
    return found


FORMS = ("file", "folder", "glob", "gzip", "bucket", "another name")


@pytest.mark.parametrize(
    ("kind", "form"),
    # A BFCL file's category stands in its name.
    [(kind, form) for kind in FIRST_RECORDS for form in FORMS if (kind, form) != ("question", "another name")],
)
def test_the_first_record_that_looks_like_one_tells_the_format(
    kind: str, form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    prompt_format, name, record = FIRST_RECORDS[kind]
    if form == "another name":
        name = "export.txt"
    path = write(tmp_path / "in" / (f"{name}.gz" if form == "gzip" else name), b"", b"{", b"[1]", {"id": 1}, record)
    # Beside it, in folders: what is no prompt, and what is named like one and says nothing of the format.
    for other in ("a.json", "a.jsonl", "notes.md") if form in ("folder", "glob", "bucket") else ():
        write(tmp_path / "in" / other, {"note": 1})
    place: object = {"folder": tmp_path / "in", "glob": tmp_path / "in" / "*"}.get(form, path)
    if form == "bucket":
        s3, bucket = request.getfixturevalue("s3"), request.getfixturevalue("bucket")
        place = upload(s3, bucket, tmp_path / "in")
    source = opened(place)
    assert source.format == prompt_format
    told = [result for result in read_records(source) if isinstance(result, SourceRecord)]
    assert [(Path(record.source.path).name, record.source.line) for record in told] == [(path.name, 5)]
    if form in ("folder", "glob", "bucket"):
        read = {Path(file.path).name for file in source.files}
        skipped = {Path(file.path).name for file in source.skipped}
        ending = {"bedrock": "a.jsonl", "chat": "a.jsonl", "logs": "a.json", "bfcl": None}[prompt_format]
        assert read == {name, ending} - {None}
        assert skipped == {"a.json", "a.jsonl", "notes.md"} - {ending}


def test_a_configured_format_is_the_one_and_what_tells_none_is_read_as_bedrock(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", GOOD)
    (chat,) = read_records(opened(path, format="chat"))
    assert isinstance(chat, SourceRecord) and [message.role for message in chat.messages] == ["user"]
    broken = opened(write(tmp_path / "y.jsonl", b"{", {"a": 1}))
    assert broken.format == "bedrock"
    assert [result.reason for result in read_records(broken) if isinstance(result, Reject)] == [
        "invalid_json",
        "extra_field",
    ]
    write(tmp_path / "in" / "permission-check.json", b"")
    with pytest.raises(
        ConfigError, match=r"^prompts.train\[0\]: .*none of 1 files is of format logs; .*permission-check"
    ):
        opened(tmp_path / "in", format="logs")


def test_a_saved_dataset_is_known_and_its_split_chosen(tmp_path: Path) -> None:
    rows = [of({"role": "user", "content": f"Find {title}."}) for title in ("Heat", "Ran")]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "one"))
    DatasetDict({"a": Dataset.from_list(rows[:1]), "b": Dataset.from_list(rows[1:])}).save_to_disk(
        str(tmp_path / "two")
    )
    expected = [SourceRecord(record.messages, None, None, Source(str(tmp_path / "one"), number)) for number, record in
                enumerate(read_records(opened(write(tmp_path / "x.jsonl", *rows))), start=1) if isinstance(record, SourceRecord)]  # fmt: skip
    assert (opened(tmp_path / "one").format, list(read_records(opened(tmp_path / "one")))) == ("dataset", expected)
    (second,) = read_records(opened(tmp_path / "two", split="b"))
    assert isinstance(second, SourceRecord) and second.messages == expected[1].messages
    assert second.source == Source(f"{tmp_path / 'two'}:b", 1)
    with pytest.raises(DataError, match="choose one of a, b"):
        list(read_records(opened(tmp_path / "two")))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The logs of `tree_calls`, with 16 offloaded bodies."""
    assert write_log_tree(tmp_path / "logs", tree_calls(), Random(0)) == 4 * len(OPERATIONS)
    return tmp_path / "logs"


def test_a_log_tree_comes_back_complete_and_says_what_it_passed_over(tree: Path) -> None:
    source = opened(tree, multi_turn=True)
    told: list[int] = []
    results = list(read_records(source, told.append))
    assert source.format == "logs" and sum(told) == source.size_bytes > 0
    bodies = [file for file in source.skipped if file.detail == "an offloaded body or a permission check"]
    assert len(bodies) == 4 * len(OPERATIONS) and all("/data/" in file.path for file in bodies)
    (marker,) = (file for file in source.skipped if file not in bodies)
    assert marker.path.endswith(f"{FOLDER}/amazon-bedrock-logs-permission-check")
    assert len(source.files) + len(source.skipped) == sum(path.is_file() for path in tree.rglob("*"))
    calls = tree_calls()
    assert {call.operation for call in calls} == set(OPERATIONS)
    for number, (call, result) in enumerate(zip(calls, results, strict=True)):
        assert result.source is not None and result.source.request_id == request_id(number)
        if call.error is not None:
            assert isinstance(result, Reject) and result.reason == "failed_call"
        else:
            assert result == SourceRecord(expected_messages(call), call.tools, None, result.source)
    single = list(read_records(opened(tree)))
    several = [number for number, call in enumerate(calls) if len(call.turns) > 1]
    assert [
        number for number, result in enumerate(single) if isinstance(result, Reject) and result.reason == "multi_turn"
    ] == several
    assert [result for number, result in enumerate(single) if number not in several] == [
        result for number, result in enumerate(results) if number not in several
    ]


@pytest.mark.parametrize("logged_model", [None, *TEACHERS_NAMES[1:], "amazon.nova-pro-v1:0"])
def test_logged_answers_are_those_of_the_model_that_is_asked_for(logged_model: str | None, tree: Path) -> None:
    source = opened(tree, multi_turn=True, use_prompt_response=True, logged_model=logged_model)
    model = TEACHER if logged_model in (None, *TEACHERS_NAMES) else logged_model
    names = TEACHERS_NAMES if model == TEACHER else (model,)
    for call, result in zip(tree_calls(), read_records(source), strict=True):
        if call.error is None and call.model_id in names:
            assert result.source is not None and model is not None
            assert result == SourceRecord(
                expected_messages(call), call.tools, expected_reply(call, model=model), result.source
            )
        else:
            assert isinstance(result, Reject)
            assert result.reason == ("failed_call" if call.error else "model_mismatch")


def test_filters_choose_among_logs(tree: Path) -> None:
    chosen = {"equals": {"project": "a#b"}}
    results = list(read_records(opened(tree, filters=chosen)))
    assert [isinstance(result, SourceRecord) for result in results] == [
        call.metadata is not None for call in tree_calls()
    ]
    with pytest.raises(ConfigError, match=r"^prompts.train\[0\].filters: found equals, orAll; give exactly one of"):
        opened(tree, filters={**chosen, "orAll": []})


def test_a_log_tree_in_a_bucket_is_read_as_the_one_on_the_disk(tree: Path, s3: Any, bucket: str) -> None:
    url = upload(s3, bucket, tree)
    here, there = (opened(place, multi_turn=True, use_prompt_response=True) for place in (tree, url))
    told: list[int] = []
    found = list(read_records(there, told.append))
    assert placed(found, url) == placed(list(read_records(here)), tree)
    assert there.format == "logs" and len(there.skipped) == len(here.skipped)
    assert sum(told) == there.size_bytes == here.size_bytes
    by_glob = opened(f"{url}/**/2*.json.gz", multi_turn=True, use_prompt_response=True)
    assert placed(list(read_records(by_glob)), url) == placed(found, url)


def test_bfcls_questions_find_their_answers_on_a_disk_and_in_a_bucket(tmp_path: Path, s3: Any, bucket: str) -> None:
    questions, answers = tmp_path / "bfcl", tmp_path / "bfcl" / "possible_answer"
    write(questions / BFCL, QUESTION)
    write(answers / BFCL, ANSWER)
    write(questions / "BFCL_v4_irrelevance.json", QUESTION)
    write(questions / "BFCL_v4_multi_turn_base.json", QUESTION)
    expected = {"BFCL_v4_irrelevance.json": (), BFCL: EXPECTED}
    for place in (str(questions), upload(s3, bucket, questions)):
        source = opened(place)
        results = list(read_records(source))
        found = {
            Path(result.source.path).name: result.expected_calls
            for result in results
            if isinstance(result, SourceRecord)
        }
        assert (found, len(results)) == (expected, 2)
        assert {Path(file.path).name: file.detail for file in source.skipped} == {
            BFCL: "possible answers, read beside their questions",
            "BFCL_v4_multi_turn_base.json": "no file of a single-turn category of BFCL",
        }
    other = write(tmp_path / "other" / BFCL, {**ANSWER, "ground_truth": [{"find_film": {"title": ["Ran"]}}]})
    for path, given in ((questions, other.parent), (questions / BFCL, other)):
        results = list(read_records(opened(path, answers=str(given))))
        (result,) = (result for result in results if result.source and result.source.path.endswith(BFCL))
        assert isinstance(result, SourceRecord)
        assert result.expected_calls == (ExpectedCall("find_film", {"title": ["Ran"]}),)
    answers.joinpath(BFCL).unlink()
    (alone,) = read_records(opened(questions / BFCL))
    assert isinstance(alone, SourceRecord) and alone.expected_calls is None


def test_answers_go_by_the_records_of_all_files_together(tmp_path: Path) -> None:
    titles = ("A", "B", "C", "D")
    for name, first in (("a.jsonl", 0), ("b.jsonl", 2)):
        records = [
            {**GOOD, "messages": [{"role": "user", "content": [{"text": f"Find {title}."}]}]} for title in titles
        ]
        write(tmp_path / "in" / name, records[first], b"{" if first else b"", records[first + 1])
    lines = [{"id": title, "ground_truth": [{"find": {"title": [title]}}]} for title in ("A", "B", "C", "broken", "D")]
    answers = write(tmp_path / "answers.jsonl", *lines)
    told: list[int] = []
    source = opened(tmp_path / "in", answers=str(answers))
    results = list(read_records(source, told.append))
    assert [result.expected_calls if isinstance(result, SourceRecord) else None for result in results] == [
        *((ExpectedCall("find", {"title": [title]}),) for title in "ABC"),
        None,
        (ExpectedCall("find", {"title": ["D"]}),),
    ]
    assert sum(told) == source.size_bytes


GOES_WITH: dict[str, tuple[Any, set[PromptFormat]]] = {
    "multi_turn": (True, {"bedrock", "chat", "logs", "dataset"}),
    "filters": ({"equals": {"project": "x"}}, {"logs"}),
    "use_prompt_response": (True, {"logs"}),
    "split": ("train", {"dataset"}),
    "answers": ("answers.jsonl", {"bedrock", "bfcl"}),
}


@pytest.mark.parametrize("setting", GOES_WITH)
@pytest.mark.parametrize("prompt_format", ["bedrock", "chat", "logs", "bfcl", "dataset"])
def test_a_setting_that_the_format_has_no_use_for_is_refused_by_name(
    setting: str, prompt_format: PromptFormat, tmp_path: Path
) -> None:
    if prompt_format == "dataset":
        path = tmp_path / "saved"
        Dataset.from_list([CHAT]).save_to_disk(str(path))
    else:
        _, name, record = next(value for value in FIRST_RECORDS.values() if value[0] == prompt_format)
        path = write(tmp_path / name, record)
    value, formats = GOES_WITH[setting]
    if prompt_format in formats:
        assert opened(path, **{setting: value}).format == prompt_format
        return
    empty: list[Any] = [{}] if setting == "filters" else [""] if isinstance(value, str) else []
    for given in [value, *empty]:
        with pytest.raises(ConfigError) as raised:
            opened(path, **{setting: given})
        message = str(raised.value)
        assert message.startswith(f"prompts.train[0]: {setting} goes with ")
        assert message.endswith(f"; {path} is {prompt_format}. Remove it")
        assert all(name in message for name in formats)


@pytest.mark.parametrize(
    ("settings", "record", "what"),
    [
        ({"answers": "a.jsonl", "multi_turn": True}, GOOD, "answers go by record and multi_turn makes several"),
        ({"logged_model": TEACHER}, LOG, "logged_model says whose answers to use; set use_prompt_response"),
        ({"logged_model": TEACHER, "use_prompt_response": True}, GOOD, "use_prompt_response goes with logs"),
        ({"logged_model": TEACHER}, GOOD, "logged_model goes with logs"),
        ({"filters": {}}, LOG, "filters: found nothing; give exactly one of equals"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], record: Any, what: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=what):
        opened(write(tmp_path / "x.json", record), **settings)


def test_a_hash_changes_with_every_file_that_is_read_and_with_nothing_else(tmp_path: Path) -> None:
    folder, answers = tmp_path / "in", write(tmp_path / "answers.jsonl", {"ground_truth": []})
    write(folder / "a.jsonl", GOOD)
    write(folder / "b.jsonl", GOOD)
    seen = [source_hash(opened(folder)), source_hash(opened(folder, answers=str(answers)))]
    assert source_hash(opened(folder)) == seen[0]
    write(folder / "notes.txt", b"changed")
    assert source_hash(opened(folder)) == seen[0]
    write(answers, {"ground_truth": [], "id": 1})
    seen.append(source_hash(opened(folder, answers=str(answers))))
    write(folder / "b.jsonl", {**GOOD, "messages": [USER, ASSISTANT]})
    seen += [
        source_hash(opened(folder)),
        source_hash(opened(folder / "b.jsonl")),
        source_hash(opened(folder / "a.jsonl")),
    ]
    (folder / "b.jsonl").rename(folder / "c.jsonl")
    seen.append(source_hash(opened(folder)))
    assert len(set(seen)) == len(seen)


PAGE = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text(encoding="utf-8")


def test_the_records_and_the_settings_on_the_page_are_what_it_says(tmp_path: Path) -> None:
    blocks = re.findall(r"### `(\w+)`\n\n```json\n(.+)\n```", PAGE)
    assert [name for name, _ in blocks] == ["bedrock", "logs", "chat", "bfcl"]
    for name, block in blocks:
        path = write(tmp_path / name / (BFCL if name == "bfcl" else "prompts.json"), block.encode())
        source = opened(path)
        assert source.format == name
        (record,) = read_records(source)
        assert isinstance(record, SourceRecord)
        prompt = PromptChecks(group_by="tools", token_limit=None).check(record, "train", None)
        assert isinstance(prompt, Prompt) and [tool.name for tool in prompt.tools] == ["find_movies"]
    (settings,) = re.findall(r"```yaml\n(.+?)```", PAGE, flags=re.DOTALL)
    prompts = PromptsConfig.model_validate(yaml.safe_load(settings)["prompts"])
    assert prompts.max_prompt_tokens == PromptsConfig.model_fields["max_prompt_tokens"].default
    table = re.findall(r"^\| `(\w+)` \|.+\|.+\| (.+) \|$", PAGE, flags=re.MULTILINE)
    for setting, (_, formats) in GOES_WITH.items():
        assert {name for name, settings in table if f"`{setting}`" in settings} == formats
