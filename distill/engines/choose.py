"""The teacher's configuration in, an open engine out."""

from __future__ import annotations

import os

from distill.chat import stop_ids
from distill.config import TeacherConfig
from distill.engines.protocol import Engine
from distill.engines.server import open_server
from distill.engines.tokenizer import load_tokenizer
from distill.engines.transformers_engine import open_transformers


def open_teacher(teacher: TeacherConfig) -> Engine:
    """The in-process model, or the server's client with the key from the environment."""
    if teacher.engine == "transformers":
        return open_transformers(teacher.model, dtype=teacher.dtype, batch_tokens=teacher.batch_tokens)
    assert teacher.base_url is not None
    return open_server(
        base_url=teacher.base_url,
        model=teacher.model,
        api_key=os.environ.get(teacher.api_key_env),
        max_concurrency=teacher.max_concurrency,
        request_timeout_s=teacher.request_timeout_s,
        stop_ids=stop_ids(load_tokenizer(teacher_tokenizer(teacher))),
    )


def teacher_tokenizer(teacher: TeacherConfig) -> str:
    """The model whose tokenizer renders the teacher's prompts."""
    return teacher.tokenizer or teacher.model
