"""What every GPU test needs: accelerate without the settings of the test before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _accelerate_starts_anew() -> Iterator[None]:
    """Accelerate keeps its choice of device and precision in a global."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
