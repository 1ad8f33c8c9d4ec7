"""A folder in; the whole pipeline run on the embedded models and a made-up customer's prompts, its report in `FOLDER/report/`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from distill.cli import run_all
from distill.config import load_config
from distill.embedded.customer import write_customer_files
from distill.run_dir import locked, save_resolved_config

CONFIG = Path(__file__).parent / "demo.yaml"
DATA_SEED = 0


def run_demo(folder: Path, overrides: Sequence[str]) -> None:
    """Write the customer's files and run all stages; a second call goes on where the first one stopped."""
    data = folder / "data"
    tests = ", ".join(
        f"{{name: {name}, path: {data / name}.jsonl, answers: {data / name}.answers.jsonl}}"
        for name in ("same_tools", "new_tools")
    )
    settings = [
        f"run.dir={folder}",
        f"prompts.train=[{data / 'train.jsonl'}]",
        f"prompts.test=[{tests}]",
        f"train.dtype={_fastest_dtype()}",
    ]
    config = load_config(CONFIG, [*settings, *overrides])
    with locked(folder):
        if not (data / "new_tools.questions.jsonl").exists():
            write_customer_files(data, seed=DATA_SEED)
        save_resolved_config(folder, config)
        run_all(config)
    print(f"report: {folder / 'report' / 'report.html'}", file=sys.stderr)


def _fastest_dtype() -> str:
    import torch  # late: the command's help must not wait for it

    from distill.embedded.pretrain import is_bfloat16_fast

    return "bfloat16" if is_bfloat16_fast("cuda" if torch.cuda.is_available() else "cpu") else "float32"
