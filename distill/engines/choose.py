"""The teacher's configuration in, an open engine out; and what of it determines the answers, without opening anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerFast

from distill.chat import stop_ids
from distill.config import TeacherConfig, model_path
from distill.engines.fingerprint import fingerprint, model_label
from distill.engines.protocol import Answer, Engine, Request
from distill.engines.server import open_server
from distill.engines.serving import Serving, answering_flags, start_serving
from distill.engines.tokenizer import load_tokenizer
from distill.records import JsonObject, JsonValue, content_id


def open_teacher(teacher: TeacherConfig, folder: Path) -> Engine:
    """The in-process model, or the servers' client with the key from the environment. A server that we start logs in `folder`."""
    if teacher.engine == "transformers":
        from distill.engines.transformers_engine import open_transformers  # late: who asks a server needs no torch

        return open_transformers(teacher.model, dtype=teacher.dtype, batch_tokens=teacher.batch_tokens)
    api_key = os.environ.get(teacher.api_key_env)
    tokenizer = teacher_tokenizer(teacher)
    serving: Serving | None = None
    if teacher.serve is not None:
        serving = start_serving(teacher.serve, model=teacher.model, api_key=api_key, log=folder / "server.log")
    try:
        return open_server(
            base_urls=_addresses(teacher, serving),
            model=teacher.model,
            api_key=api_key,
            max_concurrency=teacher.max_concurrency,
            request_timeout_s=teacher.request_timeout_s,
            stop_ids=() if tokenizer is None else stop_ids(tokenizer),
            max_attempts=teacher.max_attempts,
            wait_for_server_s=teacher.wait_for_server_s,
            serving=serving,
        )
    except BaseException:
        if serving is not None:
            serving.stop()
        raise


def teacher_inputs(teacher: TeacherConfig) -> dict[str, JsonValue]:
    """What a stage that asks the teacher names among its inputs: whatever the answers depend on."""
    in_process = teacher.engine == "transformers"
    return {
        "teacher.model": teacher.model,
        "teacher.weights": fingerprint(model_path(teacher.model)) if in_process else None,
        "teacher.engine": teacher.engine,
        "teacher.dtype": teacher.dtype if in_process else None,
        "teacher.tokenizer": teacher.tokenizer,
        "teacher.prompt_format": teacher.prompt_format,
        "teacher.tools": teacher.tools,
        "teacher.date_line": teacher.date_line,
        "teacher.serve": _served_flags(teacher),
    }


def teacher_label(teacher: TeacherConfig) -> str:
    """The teacher's name in annotations and request keys: another model served under the same name has another label."""
    if teacher.engine == "transformers":
        return model_label(teacher.model)
    flags = _served_flags(teacher)
    return teacher.model if flags is None else f"{teacher.model}@{content_id(flags)[:12]}"


class LateEngine:
    """An engine that is opened when the first request is asked: where all is answered, no weights are loaded and no server is needed."""

    def __init__(self, model: str, open_engine: Callable[[], Engine]) -> None:
        self.model, self._open, self._engine = model, open_engine, cast("Engine | None", None)

    def complete(self, requests: Iterable[Request]) -> Iterator[Sequence[Answer]]:
        self._engine = self._engine or self._open()
        return self._engine.complete(requests)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def teacher_tokenizer(teacher: TeacherConfig) -> PreTrainedTokenizerFast | None:
    """The tokenizer that renders the teacher's prompts; None where the server renders them."""
    return None if teacher.prompt_format == "messages" else load_tokenizer(teacher.tokenizer or teacher.model)


def _addresses(teacher: TeacherConfig, serving: Serving | None) -> Sequence[str]:
    if serving is not None:
        return [serving.base_url]
    assert teacher.base_url is not None
    return [teacher.base_url] if isinstance(teacher.base_url, str) else teacher.base_url


def _served_flags(teacher: TeacherConfig) -> JsonObject | None:
    return None if teacher.serve is None else answering_flags(teacher.serve)
