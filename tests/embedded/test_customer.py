"""The demo customer's files: equal bytes for equal seeds, accepted as they are, in both shapes."""

from __future__ import annotations

import json
from pathlib import Path

from distill.embedded.customer import NUM_TEST_PER_CATEGORY, NUM_TRAIN, write_customer_files
from distill.records import Reject
from distill.run_dir import file_hash
from distill.sources.bedrock_jsonl import read_bedrock_jsonl
from distill.sources.files import input_file, read_lines
from distill.sources.tools_in_text import find_tools


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    write_customer_files(tmp_path / "a", seed=3)
    write_customer_files(tmp_path / "b", seed=3)
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b")


def test_every_record_is_accepted_and_its_tools_are_found_with_their_layout(tmp_path: Path) -> None:
    write_customer_files(tmp_path, seed=0)
    for name, count in (
        ("train", NUM_TRAIN),
        ("same_tools", 2 * NUM_TEST_PER_CATEGORY),
        ("new_tools", 2 * NUM_TEST_PER_CATEGORY),
    ):
        records = list(read_bedrock_jsonl(read_lines(input_file(str(tmp_path / f"{name}.jsonl"))), name=name))
        assert len(records) == count
        for record in records:
            assert not isinstance(record, Reject), record
            assert find_tools(record.messages).span is not None


def test_bfcl_shapes_belong_together(tmp_path: Path) -> None:
    write_customer_files(tmp_path, seed=0)
    for name in ("same_tools", "new_tools"):
        questions = [json.loads(line) for line in (tmp_path / f"{name}.questions.jsonl").read_text().splitlines()]
        answers = [json.loads(line) for line in (tmp_path / f"{name}.answers.jsonl").read_text().splitlines()]
        assert [question["id"] for question in questions] == [answer["id"] for answer in answers]
        for question, answer in zip(questions, answers, strict=True):
            assert set(answer["ground_truth"][0]) <= {function["name"] for function in question["function"]}


def test_test_requests_were_never_in_training(tmp_path: Path) -> None:
    write_customer_files(tmp_path, seed=0)
    said = {
        name: {json.loads(line)["messages"][0]["content"][0]["text"] for line in (tmp_path / f"{name}.jsonl").open()}
        for name in ("train", "same_tools")
    }
    assert not said["train"] & said["same_tools"]
