"""What the tests of sources and publishing share: buckets on an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.s3_server import s3_server


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """A boto3 client of the server that `s3://` leads to."""
    with s3_server() as client:
        yield client


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    """The name of an empty bucket of the test's own."""
    name = f"b{abs(hash(request.node.nodeid))}"
    s3.create_bucket(Bucket=name)
    return name
