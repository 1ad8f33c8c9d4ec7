"""The `distill` command: parse arguments, load the configuration, run stages, turn bad input into one message and exit code 2."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from distill.config import Config, ConfigError, load_config
from distill.records import DataError, JsonValue
from distill.run_dir import STAGES, Stage, State, locked, read_status, save_resolved_config, set_state, write_json
from distill.scoring import row_lines, score_files, scores_json, table_lines

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run, such as configs/demo.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="settings that replace the file's")
]
Redo = Annotated[bool, typer.Option("--redo", help="do it again although it is done or its inputs changed")]
StageRunner = Callable[..., None]


def main() -> None:
    """Entry point of the console command."""
    sys.exit(call_cleanly(lambda: app(standalone_mode=False)))


def call_cleanly(command: Callable[[], Any]) -> int:
    """Run a command; its exit code. Bad input is one message on stderr and 2, an interruption 130, our own mistake a traceback and 1."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` leaves SIGHUP
            signal.signal(number, _interrupt)
    try:
        result = command()
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except typer.Exit as done:
        result = int(done.exit_code)
    except KeyboardInterrupt:
        result = 130
    except typer._click.exceptions.ClickException as error:
        error.show()
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    if result == 130:  # typer, too, makes this of an interruption
        print("stopped; the same command goes on from here", file=sys.stderr)
    return result if isinstance(result, int) else 0


def run_stage(stage: Stage, config: Config, *, redo: bool, limit: int | None = None) -> None:
    """Run one stage of a run and keep its state in `status.json` whatever happens. `limit` is for `annotate` alone."""
    run = Path(config.run.dir)
    try:
        _runner(stage)(run, config, redo=redo, **({} if limit is None else {"limit": limit}))
    except KeyboardInterrupt:
        _note_end(run, stage, "Stopped")
        raise
    except Exception as error:
        if not (run / stage / "manifest.json").exists():
            _note_end(run, stage, "Failed", message=str(error))
        raise
    if limit is not None and not (run / stage / "manifest.json").exists():
        print(f"{stage}: stopped after --limit {limit}; the same command without it goes on from here", file=sys.stderr)
        return
    set_state(run, stage, "Completed")
    print(f"{stage}: done, {run / stage}", file=sys.stderr)
    if config.run.publish_to is not None:
        _publish(run, stage, config.run.publish_to, replace=redo)


def run_all(config: Config, *, redo_from: Stage | None = None) -> None:
    """All stages in order; what is done is not done again. `redo_from` does that stage and all after it again."""
    first = STAGES.index(redo_from) if redo_from else len(STAGES)
    for index, stage in enumerate(STAGES):
        run_stage(stage, config, redo=index >= first)


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    redo: Annotated[
        str | None, typer.Option("--redo", metavar="STAGE", help="do this stage and all after it again")
    ] = None,
) -> None:
    """Run all stages; go on where an earlier run stopped."""
    if redo is not None and redo not in STAGES:
        raise ConfigError(f"--redo {redo}: not a stage; the stages are {', '.join(STAGES)}")
    loaded = load_config(config, overrides or [])
    with locked(Path(loaded.run.dir)):
        save_resolved_config(Path(loaded.run.dir), loaded)
        run_all(loaded, redo_from=redo)


def _stage_command(stage: Stage) -> Callable[..., None]:
    def command(config: ConfigPath, overrides: Overrides = None, redo: Redo = False) -> None:
        run_one(stage, config, overrides or [], redo=redo)

    command.__doc__ = f"Run the `{stage}` stage alone."
    return command


def run_one(stage: Stage, config: Path, overrides: list[str], *, redo: bool, limit: int | None = None) -> None:
    """One stage from a configuration file, under the run's lock: what `distill STAGE` and the scripts call."""
    loaded = load_config(config, overrides)
    with locked(Path(loaded.run.dir)):
        save_resolved_config(Path(loaded.run.dir), loaded)
        run_stage(stage, loaded, redo=redo, limit=limit)


def _annotate(
    config: ConfigPath,
    overrides: Overrides = None,
    redo: Redo = False,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="ask N prompts, print the answers, and leave the rest for later"),
    ] = None,
) -> None:
    """Run the `annotate` stage alone."""
    run_one("annotate", config, overrides or [], redo=redo, limit=limit)


for _stage in STAGES:
    app.command(_stage)(_annotate if _stage == "annotate" else _stage_command(_stage))


@app.command()
def status(run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder, such as runs/demo")]) -> None:
    """Print where a run stands."""
    if not (run / "status.json").exists():
        raise ConfigError(f"{run}: no status.json; give the folder of a run that was started")
    stages: Any = read_status(run)["stages"]
    for stage in STAGES:
        entry = stages[stage]
        done = f"{entry['done']}/{entry['total']} {entry['unit']}" if "total" in entry else ""
        eta = f"{entry['eta_s']:.0f} s left" if entry["state"] == "InProgress" and entry.get("eta_s") else ""
        print(f"{stage:<9} {entry['state']:<11} {done:<22} {eta} {entry.get('message', '')}".rstrip())


@app.command()
def score(
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS", help="BFCL's questions, such as BFCL_v4_live_multiple.json")
    ],
    answers: Annotated[
        str, typer.Argument(metavar="ANSWERS", help="its possible answers; - for irrelevance and relevance")
    ],
    outputs: Annotated[
        Path, typer.Argument(metavar="OUTPUTS", help="a BFCL result file, or JSON Lines with id and result")
    ],
    category: Annotated[str, typer.Option(metavar="NAME", help="BFCL's category, such as live_multiple")],
    call_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="how text writes calls: pythonic (Java and JavaScript: as there), llama_json, function_tag, hermes, openai",
        ),
    ] = "pythonic",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="write the rows there and print the table only")
    ] = None,
) -> None:
    """Score any model's outputs on one category of BFCL, as its own checker would, and say what is wrong in each."""
    answers_file = None if answers == "-" else Path(answers)
    scores = score_files(questions, answers_file, outputs, category=category, call_format=call_format)
    if json_file is None:
        print(*row_lines(scores), "", sep="\n")
    else:
        _write_json(json_file, scores_json(scores))
    # Flushed here, where a reader that has enough, such as `head`, ends the command without a word.
    print(*table_lines(scores), sep="\n", flush=True)


@app.command()
def validate(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="files, folders, globs or URLs")],
    prompt_format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="bedrock, logs, chat, dataset or bfcl; told by the first record"
        ),
    ] = None,
    multi_turn: Annotated[
        bool, typer.Option("--multi-turn", help="one prompt for each of the assistant's turns")
    ] = False,
    near_duplicates: Annotated[
        bool, typer.Option(help="name prompts that ask the same of the same tools in nearly the same words")
    ] = True,
    as_bedrock: Annotated[
        bool,
        typer.Option(
            "--as-bedrock", help="fail where Bedrock would: 100 to 15,000 prompts, 1 GiB, .jsonl, no toolConfig"
        ),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="write all counts there")] = None,
) -> None:
    """Check prompts before anything is spent on them: what is usable, and why the rest is not. Exit code 2 if nothing is."""
    from distill.sources.summary import table_lines  # late, as all that reads sources
    from distill.validation import FORMATS, validate

    if prompt_format is not None and prompt_format not in FORMATS:
        raise ConfigError(f"--format {prompt_format}: choose one of {', '.join(FORMATS)}")
    summary = validate(
        paths,
        prompt_format=prompt_format,
        multi_turn=multi_turn,
        near_duplicates=near_duplicates,
        as_bedrock=as_bedrock,
    )
    if json_file is not None:
        _write_json(json_file, summary.to_json())
    print(*table_lines(summary), f"accepted {summary.accepted}, rejected {summary.rejected}", sep="\n", flush=True)
    limits = summary.bedrock_limits()
    if as_bedrock and limits:
        raise DataError(f"Bedrock would refuse this: {'; '.join(limits)}")
    for limit in limits:
        print(f"note: {limit}; here it is no limit", file=sys.stderr)
    if not summary.accepted:
        raise DataError("no usable prompt; the reasons stand above")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder, such as runs/demo")],
    export_format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="openai, trl, axolotl or bedrock")],
    stage: Annotated[str | None, typer.Option(help="prompts, curate or augment; all that are finished")] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test; all")] = None,
    tools: Annotated[str, typer.Option(help="text: as the student sees them; native: fields of their own")] = "text",
    out: Annotated[
        Path | None, typer.Option(help="a folder, RUN/export/FORMAT without this; or a .jsonl file for one set")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace files that are there with other content")] = False,
) -> None:
    """Write a run's prompts and examples as another tool reads them."""
    from distill.export import export_run, summary_lines  # late: the sources' packages are no need of `score`

    files = export_run(run, export_format=export_format, stage=stage, split=split, tools=tools, out=out, force=force)
    print(*summary_lines(files), sep="\n")


@app.command()
def publish(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder, such as runs/demo")],
    url: Annotated[str, typer.Argument(metavar="URL", help="such as s3://bucket/runs/NAME")],
    stage: Annotated[str | None, typer.Option(help="one stage; all that are finished without this")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="replace other rows that were published there")] = False,
) -> None:
    """Copy finished stages of a run to another place; goes on where it was cut off."""
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"--stage {stage}: not a stage; the stages are {', '.join(STAGES)}")
    finished = [name for name in STAGES if (run / name / "manifest.json").exists() or name == stage]
    if not finished:
        raise ConfigError(f"{run}: no finished stage to publish; give the folder of a run such as runs/demo")
    with locked(run):
        for name in finished:
            if stage in (None, name):
                _publish(run, name, url, replace=replace)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="where to run it")] = Path("runs/demo"),
    overrides: Overrides = None,
) -> None:
    """Distil the embedded teacher into the embedded student on a made-up customer's prompts; needs no GPU, no weights, no hub."""
    from distill.embedded.demo import run_demo  # late: loads torch, which `status` must not wait for

    run_demo(folder, overrides or [])


def _note_end(run: Path, stage: Stage, state: State, **fields: JsonValue) -> None:
    """On a full disk the state stays as it was: what ended the stage is the message."""
    with suppress(DataError, OSError):
        set_state(run, stage, state, **fields)


def _publish(run: Path, stage: Stage, url: str, *, replace: bool) -> None:
    from distill.publish import publish_stage  # late: fsspec

    done = publish_stage(run, stage, url, replace=replace)
    print(
        f"{stage}: {len(done.uploaded)} files uploaded, {len(done.unchanged)} there already, {done.url}",
        file=sys.stderr,
    )


def _write_json(path: Path, value: JsonValue) -> None:
    try:
        write_json(path, value)
    except OSError as error:
        raise DataError(f"--json {path}: cannot write there ({error.strerror}); give another path") from None


def _runner(stage: Stage) -> StageRunner:
    """The stage's function, imported only when it runs: `distill status` and `--help` must not load torch."""
    from importlib import import_module

    runner: StageRunner = getattr(import_module(f"distill.stages.{stage}"), f"run_{stage}")
    return runner


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
