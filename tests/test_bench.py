"""The benchmarks run from end to end on a tiny shape, and count the operations that PyTorch counts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from distill.engines.wire import completion_body
from distill.validation import validate
from scripts import bench, bench_annotate, bench_gpu, bench_prompts
from scripts.bench_gpu import Method, Workload, attention_flops, build_model, linear_flops, random_examples

CPU = torch.device("cpu")
TINY = Workload(
    shape="tiny",
    method="full",
    sequence_length=48,
    trained_tokens=7,
    batch_size=3,
    micro_batch_size=3,
    lora_rank=4,
    activation_checkpointing=False,
    compile_layers=False,
    warmup_steps=0,
    timed_steps=1,
)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_tiny_shape_is_measured_and_what_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    assert bench_gpu.main(["--tiny", "--methods", "lora", "full", "--peak-tflops", "1", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["versions"]["torch"] == torch.__version__
    table = capsys.readouterr().out
    for result in written["results"]:
        if result["skipped"] is None:
            assert result["tokens_per_second"] > 0
            assert 0 < result["mfu"] < 1
            assert result["losses"][0] == pytest.approx(math.log(512), abs=0.5)  # random weights know nothing
        else:
            assert result["trainer"] == "trl"
            assert f"skipped: {result['skipped']}" in table
    assert [result["workload"]["method"] for result in written["results"] if result["trainer"] == "distill"] == [
        "lora",
        "full",
    ]


def test_without_a_gpu_nothing_but_the_tiny_shape_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_gpu.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["full", "lora"])
def test_counted_operations_are_those_of_pytorch(method: Method) -> None:
    workload = replace(TINY, method=method)
    model = build_model(workload, device=CPU)
    examples = random_examples(workload, count=workload.batch_size)
    # The counter sees attention only where it is made of matrix products, and counts these without a mask: twice the causal pairs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        bench_gpu.time_distill(model, [examples], micro_batch_tokens=3 * 48, device=CPU)
    expected = linear_flops(model, examples) + 2 * attention_flops(model.config, examples)
    if method == "full":
        assert counter.get_total_flops() == pytest.approx(expected, rel=5e-3)
    else:  # the first layer's input needs no gradient when the embedding is frozen; two layers make that a few percent
        assert 0.9 * expected < counter.get_total_flops() < expected


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A10", None),
    ],
)
def test_peaks_are_found_by_the_names_that_drivers_give(name: str, peak: float | None) -> None:
    assert bench_gpu.known_peak_tflops(name) == peak


def test_cpu_benchmarks_skip_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "nowhere")
    out = tmp_path / "cpu.json"
    assert (
        bench.main(["--only", "training", "engines", "--student", missing, "--teacher", missing, "--out", str(out)])
        == 0
    )
    rows = json.loads(out.read_text())["results"]
    assert [(row["benchmark"], row["rate"]) for row in rows] == [("training", None), ("engines", None)]
    assert capsys.readouterr().out.count("skipped: ") == 2


@pytest.mark.parametrize("own_tools", [False, True])
def test_made_up_records_are_prompts_of_3_kb_of_which_none_repeats_another(own_tools: bool, tmp_path: Path) -> None:
    path, count = tmp_path / "records.jsonl", bench_prompts.NUM_REQUESTS + 200  # some requests come again
    bench_prompts.write_records(path, count, own_tools=own_tools)
    summary = validate([str(path)], as_bedrock=True, advance=lambda num_bytes: None)
    assert (summary.accepted, summary.rejected) == (count, 0)
    assert len(summary.groups) == (count if own_tools else bench_prompts.NUM_TOOL_LISTS)
    assert 2800 < path.stat().st_size / count < 3300


def test_prompts_are_rated_in_this_process_and_take_their_memory_in_another() -> None:
    ballast = b"x" * 2**28
    measured = bench_prompts.measure_prompts(300, own_tools=False, num_rated=100)
    rates, whole = measured.rates, measured.whole
    assert rates.parsed > rates.validated > 0 < rates.near_duplicates
    assert whole.num_records == 300 and whole.cpu_s > 0
    assert 2**24 < whole.peak_bytes < len(ballast)


@pytest.mark.parametrize(("num_samples", "num_logprobs"), [(1, 0), (4, 20)])
def test_the_bare_client_asks_for_what_the_engine_asks_for(num_samples: int, num_logprobs: int) -> None:
    (request,) = bench_annotate.random_requests(1, num_samples=num_samples, num_logprobs=num_logprobs)
    body = completion_body(request, model=bench_annotate.STUB_MODEL, stop_ids=bench_annotate.STOP_IDS)
    for past_transform in (False, True):
        arguments = bench_annotate.openai_arguments(request, past_transform=past_transform)
        extra_body = arguments.pop("extra_body")
        assert arguments | extra_body == body


def test_clients_are_measured_against_a_stub_that_answers_as_vllm_does() -> None:
    requests = bench_annotate.random_requests(3, num_samples=2, num_logprobs=5)
    with bench_annotate.stub_server(0.0) as base_url:
        (seconds,) = bench_annotate.cost_rounds(base_url, requests, num_rounds=1)
    assert list(seconds) == ["distill", "openai", "openai, extra_body"] and min(seconds.values()) > 0


def test_a_whole_stage_is_annotated_in_a_process_of_its_own() -> None:
    cost = bench_annotate.measure_stage(40)
    assert cost.num_prompts == 40 and cost.seconds > 0 < cost.cpu_s
    assert 2**26 < cost.peak_bytes < 2**30
