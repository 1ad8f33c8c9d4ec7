"""`python scripts/annotate.py CONFIG [section.key=value ...] [--redo]`: the teacher's completions for the accepted prompts."""

from __future__ import annotations

import sys

from distill.cli import app, call_cleanly

if __name__ == "__main__":
    sys.exit(call_cleanly(lambda: app(["annotate", *sys.argv[1:]], standalone_mode=False)))
