"""`distill validate`: files of prompts in, of any format and without a configuration; what is usable and why the rest is not out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

from distill.config import ConfigError, PromptFormat, PromptSource, SplitConfig
from distill.sources.checks import PromptChecks
from distill.sources.collect import RoleOfSource, collect
from distill.sources.files import SkippedFile
from distill.sources.inputs import Advance, OpenedSource, open_source
from distill.sources.repeats import Repeats
from distill.sources.summary import Summary

FORMATS: tuple[PromptFormat, ...] = get_args(PromptFormat)
WHOLE = SplitConfig(group_by="tools", validation_share=0.0)


def validate(
    paths: Sequence[str],
    *,
    prompt_format: PromptFormat | None = None,
    multi_turn: bool = False,
    near_duplicates: bool = True,
    as_bedrock: bool = False,
    advance: Advance | None = None,
) -> Summary:
    """Read and check all records, as the stage `prompts` would without its limit of tokens.

    With `as_bedrock` what Bedrock does not take is not taken here either: files not called `.jsonl`, records with a `toolConfig`.
    Raises `ConfigError` if there is nothing to read, `DataError` for a file that cannot be read to its end.
    """
    if as_bedrock and multi_turn:
        raise ConfigError(
            "--as-bedrock and --multi-turn: Bedrock takes one user message and one reply; choose one of them"
        )
    sources = [PromptSource(path=path, format=prompt_format, multi_turn=multi_turn) for path in paths]
    opened = [open_source(source, where=source.path, teacher="") for source in sources]
    if as_bedrock:
        opened = [_as_bedrock(source) for source in opened]
    summary = Summary()
    checks = PromptChecks(group_by=WHOLE.group_by, token_limit=None, native_tools=not as_bedrock)
    repeats = Repeats(drop_near_duplicates=near_duplicates, drop_contaminated=False)
    roles = [RoleOfSource(source, "train") for source in opened]

    def read(advance: Advance) -> None:
        for _ in collect(roles, checks, repeats, WHOLE, summary, advance):
            pass

    if advance is not None:
        read(advance)
        return summary
    columns = (TextColumn("validate"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("validate", total=sum(source.size_bytes for source in opened))
        read(lambda num_bytes: progress.advance(task, num_bytes))
    return summary


def _as_bedrock(opened: OpenedSource) -> OpenedSource:
    if opened.format == "logs":
        return opened
    if opened.format != "bedrock":
        raise ConfigError(
            f"{opened.source.path}: format {opened.format}; Bedrock takes bedrock-conversation-2024 records or its own invocation "
            "logs. Write them with `distill export RUN --format bedrock`"
        )
    taken = tuple(file for file in opened.files if file.path.endswith(".jsonl"))
    skipped = tuple(
        SkippedFile(file.path, "Bedrock reads files whose names end in .jsonl")
        for file in opened.files
        if file not in taken
    )
    if not taken:
        raise ConfigError(
            f"{opened.source.path}: no file that ends in .jsonl, Bedrock would read nothing; unpack or rename it"
        )
    return replace(opened, files=taken, skipped=(*opened.skipped, *skipped))
