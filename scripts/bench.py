"""`python scripts/bench.py`: what runs on the CPU, timed beside what others offer for the same work, all in one run.

Prompts are validated beside `json.loads`, calls are parsed and matched beside BFCL's own checker, the embedded student is trained
beside a plain loop and TRL, the embedded teacher answers in this process, through transformers' `generate` and through vLLM, and a
server is asked beside the bare openai client and vLLM's own serving benchmark. Whatever is not there is skipped, and says so.

Legend: B rows, T tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import AdamW
from transformers.utils.logging import disable_progress_bar

from distill.calls.match import score_text
from distill.calls.render import render_calls
from distill.chat import example_ids, stop_ids
from distill.config import ConfigError, model_path
from distill.embedded.customer import write_customer_files
from distill.engines.protocol import Engine, Request
from distill.engines.requests import Asking
from distill.engines.server import open_server
from distill.engines.tokenizer import load_tokenizer
from distill.engines.transformers_engine import TransformersEngine, open_transformers
from distill.records import JsonValue, Message, ToolCall
from distill.run_dir import write_json
from distill.sources.bedrock_jsonl import read_bedrock_jsonl
from distill.sources.files import input_file, read_lines
from distill.sources.record import SourceRecord
from distill.training.examples import TrainingExample
from distill.training.student import attach_adapter, load_student

ROOT = Path(__file__).resolve().parents[1]
# Started as a file, a script finds no modules but those of its own folder.
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "calls")]

from bfcl_reference import Record, load_reference, read_records  # noqa: E402
from mutations import gold_calls, mutate_calls, write_calls  # noqa: E402

from scripts.bench_annotate import IN_FLIGHT, measure_costs, measure_rates, measure_stage  # noqa: E402
from scripts.bench_gpu import (  # noqa: E402
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Batches,
    Model,
    Timings,
    machine_facts,
    markdown_table,
    time_distill,
    time_trl,
    why_not_installed,
)
from scripts.bench_prompts import NUM_TOOL_LISTS, measure_prompts  # noqa: E402
from tests.vllm_server import VLLM_ENVIRONMENT, vllm_servers  # noqa: E402

CPU = torch.device("cpu")
PARTS = ("prompts", "calls", "training", "engines", "annotate")
NUM_ROUNDS = 3
BATCH_SIZE = 16
MICRO_BATCH_TOKENS = 8192
WARMUP_STEPS = 2
GENERATE_ROWS = 32
MAX_NEW_TOKENS = 96
REQUEST_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: who did how much per second; `ratio` is our rate over this one's. A skipped one has a note only."""

    benchmark: str
    who: str
    rate: float | None
    unit: str
    ratio: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A made-up customer's prompt and the text that answers it."""

    messages: tuple[Message, ...]
    text: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks, print the table, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--prompts-records", type=int, default=100_000, help="records validated to see how much memory that takes"
    )
    parser.add_argument("--student", default="embedded:student", help="folder or name of the model to train")
    parser.add_argument("--teacher", default="embedded:teacher", help="folder or name of the model to ask")
    parser.add_argument(
        "--steps", type=int, default=10, help=f"timed training steps of {BATCH_SIZE} examples (default: 10)"
    )
    parser.add_argument("--prompts", type=int, default=128, help="prompts the teacher answers (default: 128)")
    parser.add_argument(
        "--annotate-prompts", type=int, default=20_000, help="prompts annotated to see how much memory that takes"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench/cpu.json"), help="where the JSON goes")
    arguments = parser.parse_args(argv)
    disable_progress_bar()
    benchmarks: dict[str, Callable[[], list[Row]]] = {
        "prompts": lambda: bench_prompts(num_records=arguments.prompts_records),
        "calls": bench_calls,
        "training": lambda: bench_training(arguments.student, num_steps=arguments.steps),
        "engines": lambda: bench_engines(arguments.teacher, num_prompts=arguments.prompts),
        "annotate": lambda: bench_annotate(num_prompts=arguments.annotate_prompts),
    }
    rows = []
    for name in arguments.only:
        print(f"{name} ...", file=sys.stderr)
        rows += benchmarks[name]()
    facts = machine_facts(CPU)
    print(f"{facts['device']}, {facts['date']}\n")
    print(markdown_table(["benchmark", "who", "rate", "ours / theirs", "note"], [_cells(row) for row in rows]))
    write_json(arguments.out, {**facts, "results": [cast(JsonValue, asdict(row)) for row in rows]})
    return 0


def bench_prompts(*, num_records: int) -> list[Row]:
    """Records validated per CPU-second, beside `json.loads` of the same lines, and the memory that validating `num_records` takes."""
    rows = []
    for own_tools in (False, True):
        benchmark = f"prompts, {'a tool list each' if own_tools else f'{NUM_TOOL_LISTS} tool lists'}"
        measured = measure_prompts(num_records, own_tools=own_tools)
        rates, whole = measured.rates, measured.whole
        lines = f"{measured.num_rated} records of {measured.record_bytes:.0f} bytes"
        memory = f"{whole.num_records} records in {whole.peak_bytes / 2**20:.0f} MiB of resident memory at most"
        for who, rate, ratio, note in (
            ("distill", rates.validated, None, lines),
            ("json.loads", rates.parsed, rates.validated / rates.parsed, "lines parsed and no more"),
            ("near-duplicates too", rates.near_duplicates, rates.validated / rates.near_duplicates, lines),
            ("near-duplicates too", whole.num_records / whole.cpu_s, None, memory),
        ):
            rows.append(Row(benchmark, who, rate, "records/CPU s", ratio, note))
    return rows


def bench_calls() -> list[Row]:
    """Model outputs decoded and checked per second, by `distill.calls` and by the installed `bfcl-eval`: right ones and wrong ones."""
    with TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference lets CPython warn of what models write
        records, reference = read_records(), load_reference(Path(scratch))
        if records is None:
            return [
                _skipped(
                    "calls", "distill", "no BFCL data, neither beside the repository nor in an installed bfcl-eval"
                )
            ]
        outputs = _outputs(records)
        ours = [(text, record.expected, record.tools, record.category) for record, text in outputs]

        def score() -> list[bool]:
            return [
                score_text(text, expected, tools=tools, category=category, finish_reason="stop").verdict == "correct"
                for text, expected, tools, category in ours
            ]

        if reference is None:
            seconds = median(_timed(score)[0] for _ in range(NUM_ROUNDS))
            return [
                Row("calls", "distill", len(outputs) / seconds, "outputs/s", None, f"{len(outputs)} outputs"),
                _skipped("calls", "bfcl-eval", "not installed (pip install --no-deps bfcl-eval==2026.3.23)"),
            ]

        def score_by_reference() -> list[bool]:
            return [
                reference.score(text, record.functions, record.answer, record.bfcl_category) is None
                for record, text in outputs
            ]

        rounds = [(_timed(score), _timed(score_by_reference)) for _ in range(NUM_ROUNDS)]
    (_, verdicts), (_, reference_verdicts) = rounds[-1]
    num_equal = sum(one == other for one, other in zip(verdicts, reference_verdicts, strict=True))
    our_rate, reference_rate = (len(outputs) / median(pair[side][0] for pair in rounds) for side in (0, 1))
    return [
        Row(
            "calls", "distill", our_rate, "outputs/s", None, f"{len(outputs)} outputs, {sum(verdicts)} of them correct"
        ),
        Row(
            "calls",
            "bfcl-eval",
            reference_rate,
            "outputs/s",
            our_rate / reference_rate,
            f"{num_equal} verdicts as ours",
        ),
    ]


def bench_training(student: str, *, num_steps: int) -> list[Row]:
    """Real tokens trained per second with LoRA in bf16, by our loop, by a loop over `model(labels=...)`, and by TRL."""
    try:
        batches = _training_batches(student, num_steps)
        models = [_fresh_student(student) for _ in range(3)]
    except ConfigError as error:
        return [_skipped("training", "distill", str(error))]
    trainers: dict[str, Callable[[Model], Timings]] = {
        "distill": lambda model: time_distill(model, batches, micro_batch_tokens=MICRO_BATCH_TOKENS, device=CPU),
        "plain loop": lambda model: time_plain(model, batches),
        "trl": lambda model: time_trl(model, batches, micro_batch_size=BATCH_SIZE, checkpointing=False, device=CPU),
    }
    missing = why_not_installed("trl", "lora")
    skipped = [] if missing is None else [_skipped("training", "trl", missing)]
    if missing is not None:
        del trainers["trl"]
    timings = {name: trainer(model) for (name, trainer), model in zip(trainers.items(), models, strict=False)}
    rates = {name: _tokens_per_second(batches, timing) for name, timing in timings.items()}
    rows = []
    for name, timing in timings.items():
        note = f"{BATCH_SIZE} examples a step, loss {timing.losses[0]:.4f} to {timing.losses[-1]:.4f}"
        rows.append(Row("training", name, rates[name], "tokens/s", _ratio(rates, name), note))
    return rows + skipped


def bench_engines(teacher: str, *, num_prompts: int) -> list[Row]:
    """Prompts answered per second at temperature 0, by our engine, by transformers' `generate` and by vLLM, all in fp32."""
    try:
        engine = open_transformers(teacher, dtype="float32", batch_tokens=32768)
    except ConfigError as error:
        return [_skipped("engines", "distill", str(error))]
    requests = _requests(engine, num_prompts)
    answerers: dict[str, Callable[[Sequence[Request]], dict[str, str]]] = {
        "distill": lambda asked: _answers(engine, asked),
        "generate": lambda asked: generate(engine, asked),
    }
    measured = {name: _timed_answers(answer, requests) for name, answer in answerers.items()}
    skipped = []
    folder = Path(model_path(teacher))
    if not (VLLM_ENVIRONMENT / ".ready").exists():
        skipped.append(_skipped("engines", "vllm", "no vLLM in .venv-vllm (make vllm)"))
    elif not folder.is_dir():
        skipped.append(_skipped("engines", "vllm", f"{teacher} is not a folder"))
    else:
        measured["vllm"] = _measure_vllm(folder, engine, requests)
    rates = {name: len(requests) / seconds for name, (seconds, _) in measured.items()}
    expected = measured["distill"][1]
    rows = []
    for name, (_, answers) in measured.items():
        num_equal = sum(answers[key] == text for key, text in expected.items())
        note = f"{len(requests)} prompts" if name == "distill" else f"{num_equal} answers as ours"
        rows.append(Row("engines", name, rates[name], "prompts/s", _ratio(rates, name), note))
    return rows + skipped


def bench_annotate(*, num_prompts: int) -> list[Row]:
    """Requests per CPU-second of the client beside the openai client's, per second beside vLLM's own serving benchmark's, and memory."""
    rows = []
    for cost in measure_costs():
        benchmark = f"annotate, n = {cost.num_samples}, {cost.num_logprobs} logprobs"
        for who, seconds in cost.seconds.items():
            note = f"{seconds:.2f} CPU s per 1,000 requests"
            note += "" if who == "distill" else f", distill takes {cost.ratios[who]:.2f} times as much"
            ratio = None if who == "distill" else 1 / cost.ratios[who]
            rows.append(Row(benchmark, who, 1000 / seconds, "requests/CPU s", ratio, note))
    if (VLLM_ENVIRONMENT / ".ready").exists():
        for rate in measure_rates():
            benchmark = f"annotate, vLLM, {'prefix' if rate.in_prefix_order else 'random'} order"
            note = f"{IN_FLIGHT} in flight, {rate.cached_share:.0%} of the prompts' tokens cached"
            ratio = None if rate.who == "distill" and rate.in_prefix_order else rate.ratio
            rows.append(Row(benchmark, rate.who, rate.requests_per_s, "requests/s", ratio, note))
    else:
        rows.append(_skipped("annotate, vLLM", "distill", "no vLLM in .venv-vllm (make vllm)"))
    part, whole = measure_stage(num_prompts // 10), measure_stage(num_prompts)
    prompt_bytes = (whole.peak_bytes - part.peak_bytes) / (whole.num_prompts - part.num_prompts)
    memory = (
        f"{num_prompts} prompts in {whole.peak_bytes / 1e6:.0f} MB of resident memory at most, {whole.seconds:.0f} s; "
        f"100,000 more would take {prompt_bytes / 10:.0f} MB more"
    )
    rows.append(Row("annotate, whole stage", "distill", num_prompts / whole.cpu_s, "prompts/CPU s", None, memory))
    return rows


def time_plain(model: Model, batches: Batches) -> Timings:
    """The loop that a short script would have: the whole batch padded to its longest, logits of every position."""
    model.train()
    optimizer = AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=LEARNING_RATE, weight_decay=0.0
    )
    seconds, losses = [], []
    for batch in batches:
        start = time.perf_counter()
        ids_BT, labels_BT = _padded(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss: Tensor = model(input_ids=ids_BT, labels=labels_BT, use_cache=False).loss
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    return Timings(tuple(seconds), tuple(losses), None)


@torch.inference_mode()
def generate(engine: TransformersEngine, requests: Sequence[Request]) -> dict[str, str]:
    """Answers by prompt id from transformers' own `generate`, `GENERATE_ROWS` rows at a time, in order of length."""
    answers: dict[str, str] = {}
    order = sorted(requests, key=lambda request: len(request.prompt_ids))
    stops = list(stop_ids(engine.tokenizer))
    for start in range(0, len(order), GENERATE_ROWS):
        chunk = order[start : start + GENERATE_ROWS]
        longest = max(len(request.prompt_ids) for request in chunk)
        ids_BT = torch.tensor(
            [[stops[0]] * (longest - len(request.prompt_ids)) + list(request.prompt_ids) for request in chunk]
        )
        attention_BT = torch.tensor(
            [[0] * (longest - len(request.prompt_ids)) + [1] * len(request.prompt_ids) for request in chunk]
        )
        output_BT = cast(Any, engine.network).generate(
            input_ids=ids_BT.to(engine.network.device),
            attention_mask=attention_BT.to(engine.network.device),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=stops[0],
        )
        for request, row_T in zip(chunk, output_BT[:, longest:], strict=True):
            answers[request.prompt_id] = str(engine.tokenizer.decode(row_T, skip_special_tokens=True))
    return answers


def _outputs(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Two model outputs for each record: calls that its answer accepts, and calls with something changed."""
    random = Random(0)
    outputs = []
    for record in records:
        calls = gold_calls(record.functions, record.answer, random)
        outputs.append((record, write_calls(calls)))
        outputs.append((record, write_calls(mutate_calls(calls, record.functions, random))))
    return outputs


def _customer_replies() -> Iterator[Reply]:
    """The demo customer's test prompts with the replies their answers ask for."""
    with TemporaryDirectory() as folder:
        write_customer_files(Path(folder), seed=0)
        lines = read_lines(input_file(str(Path(folder) / "same_tools.jsonl")))
        records = list(read_bedrock_jsonl(lines, name="same_tools.jsonl"))
        answers = (Path(folder) / "same_tools.answers.jsonl").read_text(encoding="utf-8").splitlines()
    for record, answer in zip(records, answers, strict=True):
        assert isinstance(record, SourceRecord)
        yield Reply(record.messages, render_calls([_first_call(call) for call in json.loads(answer)["ground_truth"]]))


def _first_call(expected: dict[str, dict[str, list[Any]]]) -> ToolCall:
    """The call that takes the first option of each parameter, leaving out those whose first option is to be left out."""
    ((name, options),) = expected.items()
    return ToolCall(name, {parameter: values[0] for parameter, values in options.items() if values[0] != ""})


def _training_batches(student: str, num_steps: int) -> list[list[TrainingExample]]:
    tokenizer = load_tokenizer(student)
    examples = []
    for index, reply in enumerate(_customer_replies()):
        tokens = example_ids(reply.messages, reply.text, tokenizer)
        examples.append(
            TrainingExample(
                id=str(index),
                input_ids_T=torch.tensor(tokens.input_ids, dtype=torch.int32),
                loss_mask_T=torch.tensor(tokens.loss_mask, dtype=torch.bool),
                weight=1.0,
            )
        )
    count = (WARMUP_STEPS + num_steps) * BATCH_SIZE
    drawn = [examples[index % len(examples)] for index in range(count)]
    return [drawn[start : start + BATCH_SIZE] for start in range(0, count, BATCH_SIZE)]


def _fresh_student(name: str) -> Model:
    return attach_adapter(load_student(name, dtype="bfloat16"), rank=16, alpha=32, dropout=0.0, seed=0)


def _padded(batch: Sequence[TrainingExample]) -> tuple[Tensor, Tensor]:
    ids = [example.input_ids_T.long() for example in batch]
    labels = [example.input_ids_T.long().masked_fill(~example.loss_mask_T, -100) for example in batch]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(labels, batch_first=True, padding_value=-100)


def _tokens_per_second(batches: Batches, timings: Timings) -> float:
    """Median over the steps after the warm-up; padding is not counted."""
    tokens = [sum(example.num_tokens for example in batch) for batch in batches]
    rates = [count / seconds for count, seconds in zip(tokens, timings.step_seconds, strict=True)]
    return median(rates[WARMUP_STEPS:])


def _requests(engine: TransformersEngine, count: int) -> list[Request]:
    replies = [reply for reply, _ in zip(_customer_replies(), range(count), strict=False)]
    asking = Asking(model=engine.model, tokenizer=engine.tokenizer, run_seed=0, max_new_tokens=MAX_NEW_TOKENS)
    return [asking.request(f"prompt-{index}", reply.messages) for index, reply in enumerate(replies)]


def _measure_vllm(
    folder: Path, engine: TransformersEngine, requests: Sequence[Request]
) -> tuple[float, dict[str, str]]:
    with TemporaryDirectory() as logs, vllm_servers(Path(logs)) as start:
        server = start(folder, "--dtype", "float32")
        client = open_server(
            base_urls=[server.base_url],
            model=server.model,
            api_key=None,
            max_concurrency=64,
            request_timeout_s=REQUEST_TIMEOUT_S,
            stop_ids=stop_ids(engine.tokenizer),
            max_attempts=1,
            wait_for_server_s=0.0,
        )
        try:
            return _timed_answers(lambda asked: _answers(client, asked), requests)
        finally:
            client.close()


def _timed_answers(
    answer: Callable[[Sequence[Request]], dict[str, str]], requests: Sequence[Request]
) -> tuple[float, dict[str, str]]:
    """Seconds for all requests, after a few of them to warm up, and the answers by prompt id."""
    answer(requests[:2])
    return _timed(lambda: answer(requests))


def _answers(engine: Engine, requests: Sequence[Request]) -> dict[str, str]:
    answers = {answer.request.prompt_id: answer for answer in chain.from_iterable(engine.complete(requests))}
    errors = [answer.error for answer in answers.values() if answer.error is not None]
    assert not errors, errors[0]
    return {prompt_id: answer.completions[0].text for prompt_id, answer in answers.items()}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _ratio(rates: dict[str, float], name: str) -> float | None:
    return None if name == "distill" else rates["distill"] / rates[name]


def _skipped(benchmark: str, who: str, why: str) -> Row:
    return Row(benchmark, who, None, "", None, f"skipped: {why}")


def _cells(row: Row) -> list[str]:
    rate = (
        "" if row.rate is None else f"{row.rate:,.0f} {row.unit}" if row.rate >= 100 else f"{row.rate:.1f} {row.unit}"
    )
    return [row.benchmark, row.who, rate, "" if row.ratio is None else f"{row.ratio:.2f}", row.note]


if __name__ == "__main__":
    sys.exit(main())
