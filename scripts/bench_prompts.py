"""Made-up Bedrock records in; how many `distill validate` reads per CPU-second beside `json.loads`, and in how much memory, out.

Records are the demo customer's with four tools each, about 3 kB. Their tool lists are a few hundred that come again and again, as
agents send them, or each record has one of its own. A counter in the request makes every record a new one.

As a script: `python scripts/bench_prompts.py FILE` validates a file and prints what that took as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import combinations, cycle, islice
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

from distill.embedded.customer import bedrock_record, customer_prompts
from distill.run_dir import atomic_file
from distill.validation import validate

NUM_REQUESTS = 4000
NUM_TOOL_LISTS = 300
TOOLS_PER_RECORD = 4
NUM_RATED = 10_000
NUM_ROUNDS = 3
COUNTER = "COUNTER"


@dataclass(frozen=True, slots=True)
class ReadingRates:
    """Records per second of the process's CPU time: parsed by `json.loads` alone, validated, validated with near-duplicates dropped."""

    parsed: float
    validated: float
    near_duplicates: float


@dataclass(frozen=True, slots=True)
class Validation:
    """What a process of its own took for one file, near-duplicates dropped. `peak_bytes` is its largest resident set."""

    num_records: int
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class PromptsMeasured:
    """`rates` of `num_rated` records of `record_bytes` on average; `whole` of as many records as were asked for."""

    num_rated: int
    record_bytes: float
    rates: ReadingRates
    whole: Validation


def measure_prompts(num_records: int, *, own_tools: bool, num_rated: int = NUM_RATED) -> PromptsMeasured:
    """Write records into a temporary folder and measure how they are validated."""
    with TemporaryDirectory() as folder:
        rated, whole = Path(folder) / "rated.jsonl", Path(folder) / "whole.jsonl"
        write_records(rated, num_rated, own_tools=own_tools)
        write_records(whole, num_records, own_tools=own_tools)
        record_bytes = rated.stat().st_size / num_rated
        return PromptsMeasured(num_rated, record_bytes, measure_rates(rated), measure_memory(whole))


def write_records(path: Path, count: int, *, own_tools: bool) -> None:
    """Write records that `distill validate` accepts, each with a request, and with `own_tools` a tool list, that no other has."""
    templates = list(_templates(own_tools=own_tools))
    with atomic_file(path) as handle:
        for number, template in enumerate(islice(cycle(templates), count)):
            handle.write(template.replace(COUNTER, str(number)))


def measure_rates(path: Path) -> ReadingRates:
    """Medians over rounds in which the three take turns."""
    lines = path.read_bytes().splitlines()

    def parse() -> None:
        for line in lines:
            json.loads(line)

    works: list[Callable[[], object]] = [
        parse,
        lambda: _accepted(path, near_duplicates=False),
        lambda: _accepted(path, near_duplicates=True),
    ]
    rounds = [[_cpu_seconds(work) for work in works] for _ in range(NUM_ROUNDS)]
    return ReadingRates(*(len(lines) / median(seconds) for seconds in zip(*rounds, strict=True)))


def measure_memory(path: Path) -> Validation:
    """Validate a file in a process of its own."""
    done = subprocess.run([sys.executable, __file__, str(path)], stdout=subprocess.PIPE, text=True, check=True)
    return Validation(**json.loads(done.stdout))


def main() -> None:
    """Validate the file that the command line names."""
    path, start = Path(sys.argv[1]), time.process_time()
    num_records = _accepted(path, near_duplicates=True)
    print(json.dumps(asdict(Validation(num_records, time.process_time() - start, _peak_bytes()))))


def _templates(*, own_tools: bool) -> Iterator[str]:
    """Records as lines, with `COUNTER` in the place of a number."""
    random = Random(0)
    prompts = customer_prompts("same_tools", NUM_REQUESTS // 2, random)
    by_name = {tool.name: tool for prompt in prompts for tool in prompt.tools}
    lists = random.sample(list(combinations(by_name.values(), TOOLS_PER_RECORD)), NUM_TOOL_LISTS)
    for prompt in prompts:
        wanted = prompt.request.calls[0].world_tool.tool
        shown = random.choice([tools for tools in lists if wanted in tools])
        if own_tools:
            shown = (replace(shown[0], description=f"{shown[0].description} Revision {COUNTER}."), *shown[1:])
        request = replace(prompt.request, text=f"{prompt.request.text} It is for ticket {COUNTER}.")
        record = bedrock_record(replace(prompt, tools=shown, request=request))
        yield json.dumps(record, ensure_ascii=False) + "\n"


def _accepted(path: Path, *, near_duplicates: bool) -> int:
    """How many records are accepted: all of them, or what is timed is not what is meant."""
    summary = validate([str(path)], near_duplicates=near_duplicates, advance=lambda num_bytes: None)
    assert not summary.rejected, summary.reasons
    return summary.accepted


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _peak_bytes() -> int:
    """The largest resident set of this process as Linux counts it; `getrusage` would add that of the process which started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
