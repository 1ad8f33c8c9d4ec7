"""`python scripts/pretrain_embedded.py teacher|student`: train an embedded model anew, resumably, on the CPU or a GPU.

With `--examine N` it trains nothing and says how the last checkpoint does on N prompts a category of the demo customer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from distill.embedded.examine import examine, report
from distill.embedded.pretrain import STEPS, load_checkpoint, pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("teacher", "student"))
    parser.add_argument("--out", type=Path, help="where the model goes (default: runs/pretrain/ROLE)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/pretrain"), help="checkpoints and logs; kept between starts"
    )
    parser.add_argument("--steps", type=int, help=f"optimizer steps (default: {STEPS})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--examine", type=int, metavar="N", help="examine the last checkpoint instead of training")
    arguments = parser.parse_args()
    if arguments.examine:
        model, tokenizer, step = load_checkpoint(arguments.role, arguments.work)
        print(f"step {step}")
        print(report(examine(model, tokenizer, per_category=arguments.examine, seed=arguments.seed)))
        return
    out = arguments.out or arguments.work / f"{arguments.role}-model"
    steps = arguments.steps or STEPS[arguments.role]
    pretrain(arguments.role, out, work=arguments.work, steps=steps, seed=arguments.seed, device=arguments.device)


if __name__ == "__main__":
    main()
