"""Train students: `accelerate launch scripts/train.py CONFIG [section.key=value ...] [--redo]`, or with plain `python`.

The same function as `distill train`, for any number of processes: the main one holds the run's lock, keeps its status and speaks;
the others follow. Bad input is one message on stderr and exit code 2.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch.distributed
import typer

from distill.cli import ConfigPath, Overrides, Redo, call_cleanly, run_one
from distill.config import ConfigError, load_config
from distill.records import DataError
from distill.stages.train import run_train
from distill.training.processes import is_main_process

WORD_S = 5.0  # a launcher ends all processes as soon as one of them exits; the main one is to have its word first

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def train(config: ConfigPath, overrides: Overrides = None, redo: Redo = False) -> None:
    if is_main_process():
        run_one("train", config, overrides or [], redo=redo)
    else:
        loaded = load_config(config, overrides or [])
        run_train(Path(loaded.run.dir), loaded, redo=redo)


def follow() -> int:
    """Exit code of a process that does not speak: bad input ends it without a word, since the main process says what is wrong."""
    try:
        app(standalone_mode=False)
    except (ConfigError, DataError, typer._click.exceptions.ClickException):
        time.sleep(WORD_S)
        return 2
    except typer.Exit as done:
        return int(done.exit_code)
    return 0


def main() -> int:
    try:
        return call_cleanly(lambda: app(standalone_mode=False)) if is_main_process() else follow()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
