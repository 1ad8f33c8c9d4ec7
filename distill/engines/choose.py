"""The teacher's configuration in, an open engine out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from distill.chat import stop_ids
from distill.config import TeacherConfig
from distill.engines.protocol import Engine
from distill.engines.server import open_server
from distill.engines.serving import Serving, start_serving
from distill.engines.tokenizer import load_tokenizer
from distill.engines.transformers_engine import open_transformers


def open_teacher(teacher: TeacherConfig, folder: Path) -> Engine:
    """The in-process model, or the servers' client with the key from the environment. A server that we start logs in `folder`."""
    if teacher.engine == "transformers":
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


def teacher_tokenizer(teacher: TeacherConfig) -> PreTrainedTokenizerFast | None:
    """The tokenizer that renders the teacher's prompts; None where the server renders them."""
    return None if teacher.prompt_format == "messages" else load_tokenizer(teacher.tokenizer or teacher.model)


def _addresses(teacher: TeacherConfig, serving: Serving | None) -> Sequence[str]:
    if serving is not None:
        return [serving.base_url]
    assert teacher.base_url is not None
    return [teacher.base_url] if isinstance(teacher.base_url, str) else teacher.base_url
