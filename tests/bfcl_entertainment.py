"""BFCL's simple and multiple entertainment records in; Bedrock JSONL and an answers file out: prompts that nobody here wrote.

The default prompt is that of BFCL's data as of 2026-03; the filter goes by the answer's function, not by distractors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.sources.bfcl import is_entertainment_tool

DATA = Path(__file__).parents[2] / "shared" / "data" / "bfcl"
FILES = ("simple_python", "multiple", "live_simple", "live_multiple")
SYSTEM = (
    "You are an expert in composing functions.You are given a question and a set of possible functions. Based "
    "on the question, you will need to make one or more function/tool calls to achieve the purpose. If none "
    "of the functions can be used, point it out. If the given question lacks the parameters required by the "
    "function, also point it out.\n\nYou should only return the function calls in your response.\n\nIf you decide "
    "to invoke any of the function(s), you MUST put it in the format of "
    "[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)].  You SHOULD "
    "NOT include any other text in the response.\n\nHere is a list of functions in json format that you can "
    "invoke.\n"
)


def entertainment_records() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Question and answer of every record about entertainment, in the order of the files."""
    for name in FILES:
        questions = [json.loads(line) for line in (DATA / f"BFCL_v4_{name}.json").read_text().splitlines()]
        answers = [
            json.loads(line) for line in (DATA / "possible_answer" / f"BFCL_v4_{name}.json").read_text().splitlines()
        ]
        for question, answer in zip(questions, answers, strict=True):
            wanted = next(iter(answer["ground_truth"][0]))
            function = next(function for function in question["function"] if function["name"] == wanted)
            if is_entertainment_tool(wanted, function["description"]):
                yield question, answer


def bedrock_record(question: dict[str, Any]) -> dict[str, Any]:
    """The record as `bedrock-conversation-2024`, a system message of its own appended to BFCL's."""
    messages = question["question"][0]
    own = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    user = "\n\n".join(message["content"] for message in messages if message["role"] == "user")
    system = SYSTEM + json.dumps(question["function"], indent=4) + ("\n\n" + own if own else "")
    return {
        "schemaVersion": "bedrock-conversation-2024",
        "system": [{"text": system}],
        "messages": [{"role": "user", "content": [{"text": user}]}],
    }


def write_entertainment_files(folder: Path, *, every: int) -> int:
    """Each `every`-th record into `prompts.jsonl` and `answers.jsonl`; returns how many."""
    chosen = list(entertainment_records())[::every]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps(bedrock_record(question)) + "\n" for question, _ in chosen)
    )
    (folder / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for _, answer in chosen))
    return len(chosen)
