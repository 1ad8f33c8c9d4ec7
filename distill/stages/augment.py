"""Stage `augment`: curated training examples in, the same and verified new ones with lineage out; every failed try a reject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from distill.augmentation.rename import rename_tools
from distill.augmentation.values import build_pools, replace_values
from distill.calls.match import same_calls
from distill.calls.parse import ParseError, parse_calls
from distill.config import Config
from distill.json_schema import why_not_allowed
from distill.records import DataError, Example, JsonValue, Reject, content_id
from distill.run_dir import Progress, finish_stage, read_rows, stage_hash, start_stage, write_stage_rows

Method = Callable[[Example, Random, int], Example | None]


def run_augment(run: Path, config: Config, *, redo: bool) -> None:
    """Make new examples of every curated training example by every method; the result does not depend on their order."""
    inputs: dict[str, JsonValue] = {
        "curate": stage_hash(run, "curate"),
        "run.seed": config.run.seed,
        **{f"augment.{name}": value for name, value in config.augment.model_dump().items()},
    }
    if not start_stage(run, "augment", inputs, redo=redo):
        return
    seeds = [example for example in read_rows(run / "curate" / "rows.jsonl", Example) if example.split == "train"]
    pools = build_pools(seeds)
    methods: dict[str, tuple[int, Method]] = {
        "values": (
            config.augment.values,
            lambda example, random, seed: replace_values(example, pools, random, seed=seed),
        ),
        "rename": (config.augment.rename, lambda example, random, seed: rename_tools(example, random, seed=seed)),
    }
    rows: dict[str, Example] = {example.id: example for example in seeds}
    requests = {_request_key(example) for example in seeds}
    rejects: list[Reject] = []
    with Progress(run, "augment", total=len(seeds), unit="examples") as progress:
        for example in seeds:
            for name, (count, method) in methods.items():
                for index in range(count):
                    made = _make(example, name, index, method, config.run.seed)
                    if isinstance(made, Example) and _request_key(made) in requests:
                        made = _reject(example, name, "duplicate", "equal to an example there already")
                    if isinstance(made, Reject):
                        rejects.append(made)
                        continue
                    rows[made.id] = made
                    requests.add(_request_key(made))
            progress.advance()
    kept, over = _capped(list(rows.values()), config.augment.max_examples)
    num_rows, num_rejects = write_stage_rows(run, "augment", kept, [*rejects, *over])
    counts: dict[str, JsonValue] = {"rows": num_rows, "rejects": num_rejects}
    counts.update(Counter(example.lineage.method if example.lineage else "original" for example in kept))
    finish_stage(run, "augment", counts=counts, files=["rows.jsonl", "rejects.jsonl"])


def why_wrong(example: Example) -> str | None:
    """Format and schema checks of an example: None if its reply is exactly its calls and its tools allow them."""
    try:
        problem = why_not_allowed(example.calls, example.tools)
    except DataError as error:  # such as a $ref to a parameter that has another name now
        return str(error)
    if problem is not None:
        return problem.message
    if not example.calls:
        return None
    try:
        parsed = parse_calls(example.reply, mode="strict")
    except ParseError as error:
        return str(error)
    return None if same_calls(parsed, example.calls) else "the reply says other calls than the example"


def _make(example: Example, name: str, index: int, method: Method, run_seed: int) -> Example | Reject:
    seed = int(content_id(run_seed, example.id, name, index), 16) % 2**31
    made = method(example, Random(seed), seed)
    if made is None:
        return _reject(example, name, "not_applicable", f"method {name} finds nothing it can change exactly")
    wrong = why_wrong(made)
    return made if wrong is None else _reject(example, name, "failed_verification", wrong)


def _reject(example: Example, method: str, reason: str, detail: str) -> Reject:
    return Reject(
        id=content_id(example.id, method, reason, detail), reason=reason, detail=f"{method}: {detail}", source=None
    )


def _request_key(example: Example) -> str:
    return content_id([[message.role, message.content] for message in example.messages])


def _capped(examples: Sequence[Example], limit: int) -> tuple[list[Example], list[Reject]]:
    """The originals, then new examples in an order that is random but fixed, up to the limit."""
    originals = [example for example in examples if example.lineage is None]
    new = sorted(
        (example for example in examples if example.lineage is not None),
        key=lambda example: content_id("cap", example.id),
    )
    ordered = [*originals, *new]
    detail = f"augment.max_examples is {limit}"
    over = [
        _reject(example, example.lineage.method if example.lineage else "original", "over_limit", detail)
        for example in ordered[limit:]
    ]
    return ordered[:limit], over
