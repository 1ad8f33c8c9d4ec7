"""What several folders of tests need: a vLLM server on any model folder, and a skip where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.vllm_server import VLLM_ENVIRONMENT, StartVllm, vllm_servers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def start_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartVllm]:
    """Starts vLLM on a model folder with flags such as `--dtype float32`; the servers end with the session."""
    if not (VLLM_ENVIRONMENT / ".ready").exists():
        pytest.skip("no vLLM in .venv-vllm; `make vllm` installs it, or says why there is none for this machine")
    with vllm_servers(tmp_path_factory.mktemp("vllm")) as start:
        yield start
