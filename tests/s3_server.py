"""A server that speaks S3 on this machine, reached by fsspec through the environment and by boto3 as the other side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config
from fsspec import AbstractFileSystem
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server() -> Iterator[Any]:
    """A boto3 client of a fresh server; while it lasts, `s3://` URLs lead there, also in child processes."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.delenv("AWS_PROFILE", raising=False)
            for name, value in settings.items():
                environment.setenv(name, value)
            AbstractFileSystem.clear_instance_cache()
            yield boto3.client("s3", config=Config(max_pool_connections=16))
    finally:
        AbstractFileSystem.clear_instance_cache()
        server.stop()
