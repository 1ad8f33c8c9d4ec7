"""BFCL's records and its own decoder and checker, as fixtures; tests that need them skip where they are absent."""

from __future__ import annotations

import pytest
from bfcl_reference import Record, Reference, load_reference, read_records


@pytest.fixture(scope="session")
def bfcl_records() -> list[Record]:
    records = read_records()
    if records is None:
        pytest.skip("no BFCL data beside the repository and no bfcl-eval installed")
    return records


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    loaded = load_reference(tmp_path_factory.mktemp("bfcl"))
    if loaded is None:
        pytest.skip("bfcl-eval is not installed (pip install --no-deps bfcl-eval==2026.3.23)")
    return loaded
