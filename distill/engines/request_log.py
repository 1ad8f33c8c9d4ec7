"""Requests and an engine in, answers out, each on disk before it counts: the durable log that every stage asks models through.

One JSON line per answered request, found again by the request's key. A start after a kill asks only for what is missing; a torn
last line is cut off. Failed requests are not logged, so the next start tries them again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distill.engines.protocol import Answer, Engine, Request
from distill.records import Completion, DataError, to_json


def complete_durably(
    engine: Engine, requests: Sequence[Request], log_path: Path, on_answer: Callable[[Answer], None] | None = None
) -> dict[str, Answer]:
    """Answers by request key. `on_answer` is called for each, those found in the log first. Equal requests are asked once."""
    logged = read_log(log_path)
    answers: dict[str, Answer] = {}
    missing: dict[str, Request] = {}
    for request in requests:
        if request.key in logged:
            answers[request.key] = Answer(request=request, completions=logged[request.key], error=None)
            if on_answer:
                on_answer(answers[request.key])
        else:
            missing[request.key] = request
    if missing:
        for answer in _ask_and_log(engine, list(missing.values()), log_path):
            answers[answer.request.key] = answer
            if on_answer:
                on_answer(answer)
    return answers


def read_log(log_path: Path) -> dict[str, tuple[Completion, ...]]:
    """What is logged, by key. A torn last line is cut off the file; any other broken line raises `DataError`."""
    if not log_path.exists():
        return {}
    _mend(log_path)
    logged: dict[str, tuple[Completion, ...]] = {}
    with log_path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                entry = json.loads(line)
                logged[entry["key"]] = tuple(Completion.from_json(completion) for completion in entry["completions"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{log_path}:{number}: not a logged answer ({error}); remove the line to ask for it again"
                ) from None
    return logged


def _ask_and_log(engine: Engine, missing: Sequence[Request], log_path: Path) -> Iterator[Answer]:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("a", encoding="utf-8", errors="surrogatepass") as handle:
        for answer in engine.complete(missing):
            if answer.error is None:
                completions = [to_json(completion) for completion in answer.completions]
                entry = {"key": answer.request.key, "prompt_id": answer.request.prompt_id, "completions": completions}
                handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
            yield answer


def _mend(log_path: Path) -> None:
    """Cut off what stands behind the last newline."""
    with log_path.open("rb+") as handle:
        content = handle.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            handle.truncate(end)
            handle.flush()
            os.fsync(handle.fileno())
