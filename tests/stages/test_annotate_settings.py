"""What the settings of `annotate` do, with a tiny random Llama in this process: golden answers, temperatures, log-probabilities, scoring, the gate, cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from distill.chat import example_ids, prompt_ids
from distill.cli import run_one
from distill.config import ConfigError, load_config
from distill.engines.golden import choose_golden
from distill.engines.tokenizer import load_tokenizer
from distill.records import Annotation, AnnotationLogprobs, DataError, GivenReply, Message, Prompt, Reject, content_id
from distill.run_dir import read_json, read_rows, read_status
from distill.stages.annotate import run_annotate
from tests.stages.test_annotate import PROMPTS, annotate, logged, make_prompt, prepare

SYSTEM = Message("system", "Tools: none.")


def golden(text: str, reply: str = "[f()]", model: str | None = None) -> Prompt:
    prompt = make_prompt(text)
    return replace(prompt, messages=(SYSTEM, *prompt.messages), given_reply=GivenReply(reply, model))


def rows_of(folder: Path) -> list[Annotation]:
    return list(read_rows(folder / "rows.jsonl", Annotation))


GOLDEN = [golden(f"Golden request {number}.", f"[f(x={number})]") for number in range(5)]
ASKED = [replace(prompt, messages=(SYSTEM, *prompt.messages)) for prompt in PROMPTS[:6]]


def test_golden_answers_take_the_teachers_place(llama_folder: Path, tmp_path: Path) -> None:
    folder = annotate(prepare(tmp_path, llama_folder, [*ASKED, *GOLDEN], annotate={"golden": "answers"}))
    rows = rows_of(folder)
    assert [row.completion.text for row in rows if row.model == "golden"] == [f"[f(x={n})]" for n in range(5)]
    assert {entry["prompt_id"] for entry in logged(folder)} == {prompt.id for prompt in ASKED}
    counts: Any = read_json(folder / "manifest.json")["counts"]
    assert (counts["prompts"], counts["golden"], counts["rows"]) == (11, 5, 11)


def test_golden_examples_stand_before_requests_for_the_same_tools_but_never_before_their_own(
    llama_folder: Path, tmp_path: Path
) -> None:
    examples = choose_golden([*ASKED, *GOLDEN], num_shown=3, seed=0)
    texts = {prompt.messages[-1].content: prompt for prompt in GOLDEN}
    for prompt in (*ASKED, *GOLDEN):
        messages = examples.before(prompt)
        assert (messages[0], messages[-1]) == (SYSTEM, prompt.messages[-1])
        shown = messages[1:-1]
        assert [message.role for message in shown] == ["user", "assistant"] * 3
        for request, reply in zip(shown[::2], shown[1::2], strict=True):
            assert reply.content == texts[request.content].given_reply.text  # type: ignore[union-attr]  # all golden have one
            assert request.content != prompt.messages[-1].content
    assert len({examples.before(prompt)[1:-1] for prompt in ASKED}) == 1, "one prefix for all that share their tools"
    other_tools = replace(ASKED[0], tools=golden("x").tools or (_tool(),))
    assert examples.before(other_tools) == other_tools.messages
    few_shot = prepare(tmp_path / "few", llama_folder, [*ASKED, *GOLDEN], annotate={"golden": "few_shot"})
    plain = prepare(tmp_path / "plain", llama_folder, [*ASKED, *GOLDEN])
    counts: list[Any] = [read_json(annotate(path) / "manifest.json")["counts"] for path in (few_shot, plain)]
    assert (counts[0]["few_shot"], counts[1]["few_shot"]) == (11, 0)
    assert counts[0]["prompt_tokens"] > counts[1]["prompt_tokens"] + 11 * 3 * 10
    assert counts[0]["rows"] == counts[1]["rows"] == 11


def _tool() -> Any:
    from distill.records import Tool

    return Tool("f", "F.", {"type": "dict", "properties": {}, "required": []})


def test_each_prompt_is_asked_at_each_temperature(llama_folder: Path, tmp_path: Path) -> None:
    sampled = {"num_samples": 2, "sampling_temperature": [0.5, 1.5], "max_new_tokens": 8}
    folder = annotate(prepare(tmp_path, llama_folder, PROMPTS[:3], annotate=sampled))
    assert [(row.prompt_id, row.sample_index, row.sampling_temperature) for row in rows_of(folder)] == [
        (prompt.id, index, 0.5 if index < 2 else 1.5) for prompt in PROMPTS[:3] for index in range(4)
    ]
    with pytest.raises(ConfigError, match="names one temperature twice"):
        load_config(tmp_path / "config.yaml", ["annotate.sampling_temperature=[0.5, 0.5]"])


def test_log_probabilities_are_the_models_own_and_checked_when_read(llama_folder: Path, tmp_path: Path) -> None:
    told = {"num_logprobs": 4, "sampling_temperature": 1.0, "num_samples": 2, "max_new_tokens": 12}
    folder = annotate(prepare(tmp_path, llama_folder, PROMPTS[:3], annotate=told, student={"model": str(llama_folder)}))
    network = LlamaForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    tokenizer = load_tokenizer(str(llama_folder))
    stored = list(read_rows(folder / "logprobs.jsonl", AnnotationLogprobs))
    assert [(row.prompt_id, row.sample_index) for row in stored] == [(p.id, k) for p in PROMPTS[:3] for k in range(2)]
    for row, annotation in zip(stored, rows_of(folder), strict=True):
        prompt = next(prompt for prompt in PROMPTS if prompt.id == row.prompt_id)
        before = prompt_ids(prompt.messages, tokenizer)
        assert row.prompt_hash == content_id(before)
        assert tokenizer.decode(list(row.logprobs.token_ids), skip_special_tokens=True) == annotation.completion.text
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([[*before, *row.logprobs.token_ids]])).logits[
                0, len(before) - 1 : -1
            ]
        expected = logits.log_softmax(dim=1)
        for place, ids, values in zip(expected, row.logprobs.top_ids, row.logprobs.top_logprobs, strict=True):
            assert len(ids) in (4, 5) and len(set(ids)) == len(ids)
            assert values == pytest.approx(place[list(ids)].tolist(), abs=1e-4)
            assert list(ids[:4]) == place.topk(4).indices.tolist()
    lines = (folder / "logprobs.jsonl").read_text().splitlines()
    spoilt = json.loads(lines[1])
    spoilt["logprobs"]["token_ids"][0] += 1
    (folder / "logprobs.jsonl").write_text("\n".join([lines[0], json.dumps(spoilt)]))
    with pytest.raises(DataError, match=r"logprobs\.jsonl:2: .* are not those that were stored"):
        list(read_rows(folder / "logprobs.jsonl", AnnotationLogprobs))


def test_log_probabilities_for_a_student_of_other_tokens_are_refused(llama_folder: Path, tmp_path: Path) -> None:
    config = prepare(
        tmp_path, llama_folder, PROMPTS[:2], annotate={"num_logprobs": 2}, student={"model": "embedded:student"}
    )
    with pytest.raises(
        ConfigError, match=r"tokenizers of teacher .* and student 'embedded:student' differ \(\d+ tokens"
    ):
        annotate(config)


def test_scoring_gives_the_log_probabilities_of_answers_that_are_there(llama_folder: Path, tmp_path: Path) -> None:
    prompts = [*GOLDEN[:2], golden("Logged.", "[g()]", model="us.meta.llama"), ASKED[0]]
    folder = annotate(prepare(tmp_path, llama_folder, prompts, annotate={"mode": "score", "num_logprobs": 2}))
    rows, rejects = rows_of(folder), list(read_rows(folder / "rejects.jsonl", Reject))
    assert [row.completion.text for row in rows] == ["[f(x=0)]", "[f(x=1)]", "[g()]"]
    assert [(reject.id, reject.reason) for reject in rejects] == [(ASKED[0].id, "no_answer_to_score")]
    network = LlamaForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    tokenizer = load_tokenizer(str(llama_folder))
    for prompt, row in zip(prompts, read_rows(folder / "logprobs.jsonl", AnnotationLogprobs), strict=False):
        assert prompt.given_reply is not None
        tokens = example_ids(prompt.messages, prompt.given_reply.text, tokenizer)
        first = tokens.loss_mask.index(1)
        assert row.logprobs.token_ids == tokens.input_ids[first:]
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([tokens.input_ids])).logits[0, first - 1 : -1]
        expected = logits.log_softmax(dim=1)
        for place, token, ids, values in zip(
            expected, row.logprobs.token_ids, row.logprobs.top_ids, row.logprobs.top_logprobs, strict=True
        ):
            assert dict(zip(ids, values, strict=True))[token] == pytest.approx(float(place[token]), abs=1e-4)


def test_the_gate_stops_before_much_is_paid_and_is_not_paid_twice(llama_folder: Path, tmp_path: Path) -> None:
    # A random model's text is a refusal unless it looks like a call; a length limit of one token makes all of it unusable.
    settings = {"max_new_tokens": 1, "smoke_prompts": 4, "min_usable": 0.5}
    config = prepare(tmp_path, llama_folder, PROMPTS, annotate=settings)
    with pytest.raises(DataError, match=r"only \d of the first 4 answers .*annotate\.min_usable \(0\.5\).*truncated"):
        annotate(config)
    folder = tmp_path / "run" / "annotate"
    first = (folder / "requests.jsonl").read_bytes()
    assert first.count(b"\n") == 4
    with pytest.raises(DataError, match="only"):
        annotate(config)
    assert (folder / "requests.jsonl").read_bytes() == first
    annotate(config, "annotate.min_usable=0")
    assert (folder / "requests.jsonl").read_bytes().startswith(first)
    assert len(logged(folder)) == len(PROMPTS)


def test_a_limit_shows_a_few_answers_and_leaves_the_rest(
    llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = prepare(tmp_path, llama_folder, PROMPTS)
    run_one("annotate", config, [], redo=False, limit=3)
    folder = tmp_path / "run" / "annotate"
    assert len(logged(folder)) == 3 and not (folder / "manifest.json").exists()
    stages: Any = read_status(tmp_path / "run")["stages"]
    assert (stages["annotate"]["state"], stages["annotate"]["message"]) == ("Stopped", "after --limit 3")
    shown = capsys.readouterr()
    assert shown.out.count("train.jsonl:1") == 3 and f"{len(PROMPTS) - 3} more: at most about" in shown.out
    run_one("annotate", config, [], redo=False)
    assert len(logged(folder)) == len(PROMPTS) == len(rows_of(folder))
    assert read_status(tmp_path / "run")["stages"]["annotate"]["state"] == "Completed"  # type: ignore[index,call-overload]  # JSON


def test_tokens_and_hours_cost_what_the_table_says_over_all_starts(llama_folder: Path, tmp_path: Path) -> None:
    table = {
        "num_gpus": 8,
        "usd_per_gpu_hour": 3.0,
        "usd_per_million_prompt_tokens": 2.0,
        "usd_per_million_completion_tokens": 10.0,
    }
    config = prepare(tmp_path, llama_folder, PROMPTS, teacher={"batch_tokens": 256, "price": table})
    run_one("annotate", config, [], redo=False, limit=5)
    folder = annotate(config)
    usage: Any = read_json(folder / "usage.json")
    counts: Any = read_json(folder / "manifest.json")["counts"]
    assert [start["answers"] for start in usage["starts"]] == [5, len(PROMPTS) - 5]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (
        counts["prompt_tokens"],
        counts["completion_tokens"],
    )
    assert usage["seconds"] == pytest.approx(sum(start["seconds"] for start in usage["starts"]), abs=1e-2)
    assert usage["gpu_hours"] == pytest.approx(8 * usage["seconds"] / 3600, abs=1e-5)
    tokens = 2e-6 * usage["prompt_tokens"] + 10e-6 * usage["completion_tokens"]
    assert usage["usd"] == pytest.approx(3 * usage["gpu_hours"] + tokens, abs=1e-4)
    loaded = load_config(config)
    run_annotate(Path(loaded.run.dir), loaded, redo=True)
    assert read_json(folder / "usage.json") == usage, "nothing was asked, and what was paid stays paid"


def test_the_server_settings_that_contradict_each_other_are_refused(tmp_path: Path, llama_folder: Path) -> None:
    config = prepare(tmp_path, llama_folder, PROMPTS[:1])
    for overrides, message in [
        (["annotate.sampling_parameters={n: 3}"], "n is annotate.num_samples"),
        (["annotate.sampling_parameters={top_p: 0.9}"], "for sampling by a server"),
        (
            ["annotate.num_logprobs=2", "teacher.date_line=today"],
            "with teacher.date_line: .* other tokens than the student",
        ),
        (["annotate.mode=score", "annotate.golden=answers"], "leave annotate.golden out"),
        (["teacher.tools=native"], "goes with prompt_format `messages`"),
        (["teacher.prompt_format=messages"], "goes with engine `server`"),
        (["teacher.base_url=http://localhost:8000/v1"], "base_url goes with engine `server`"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(config, overrides)
