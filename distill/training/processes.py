"""Work for one process in, its result (or its error) in every process out.

Whatever is decided by looking at the disk is decided once, by the main process: so no two processes can disagree, and bad input
stops all of them with the same error instead of leaving some waiting for the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

ResultT = TypeVar("ResultT")


def is_main_process() -> bool:
    """Whether this process writes and speaks for all. Usable before any process group exists."""
    return int(os.environ.get("RANK", "0")) == 0


def on_main(work: Callable[[], ResultT]) -> ResultT:
    """Run `work` in the main process alone; every process returns what it returned, or raises what it raised. Waits for all."""
    if PartialState().num_processes == 1:
        return work()
    outcome: list[object] = [None, None]
    if is_main_process():
        try:
            outcome[0] = work()
        except Exception as error:  # raised again below, in every process
            outcome[1] = error
    broadcast_object_list(outcome, from_process=0)
    if isinstance(outcome[1], Exception):
        raise outcome[1]
    return cast(ResultT, outcome[0])
