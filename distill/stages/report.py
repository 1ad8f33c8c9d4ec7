"""Stage `report`: finished stages in; `report.html`, `report.json`, `report.md` and plots of the same numbers out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from distill.config import Config, ConfigError
from distill.evaluation.accuracy import TestSetResult, results_by_test_set, seeded_model_name
from distill.evaluation.markdown import render_markdown
from distill.evaluation.page import render_page
from distill.evaluation.plots import Curve, draw_accuracy, draw_training
from distill.evaluation.summary import FunnelStage, Report, choose_wrong_answers, report_json
from distill.records import DataError, JsonObject, JsonValue, Prediction, Prompt, Reject
from distill.run_dir import (
    STAGES,
    Stage,
    finish_stage,
    read_json,
    read_rows,
    require_stage,
    set_state,
    stage_hash,
    start_stage,
    write_json,
    write_text,
)

READ_STAGES: tuple[Stage, ...] = tuple(stage for stage in STAGES if stage != "report")


def run_report(run: Path, config: Config, *, redo: bool) -> None:
    """Write the report of a run whose `prompts` and `evaluate` are finished; of the other stages those that are.

    Raises `ConfigError` for a headline test set without predictions, `DataError` for predictions that do not compare.
    """
    manifests = _manifests(run)
    if not start_stage(run, "report", _inputs(run, config, manifests), redo=redo):
        return
    set_state(run, "report", "InProgress")
    report = _read_report(run, config, manifests)
    folder = run / "report"
    drawings = {f"accuracy_{result.test_set}": draw_accuracy(result) for result in report.results}
    if report.curves:
        drawings["training"] = draw_training(report.curves)
    write_json(folder / "report.json", report_json(report))
    texts = {"report.md": render_markdown(report), "report.html": render_page(report, drawings)}
    texts |= {f"{name}.svg": svg for name, svg in drawings.items()}
    for name, text in texts.items():
        write_text(folder / name, _encodable(text))
    counts: dict[str, JsonValue] = {"test_sets": len(report.results), "wrong_answers": len(report.wrong_answers)}
    finish_stage(run, "report", counts=counts, files=["report.json", *texts])


def _manifests(run: Path) -> dict[Stage, JsonObject]:
    """Manifests of the finished stages in pipeline order."""
    for needed in ("prompts", "evaluate"):
        require_stage(run, needed)
    return {stage: require_stage(run, stage) for stage in READ_STAGES if (run / stage / "manifest.json").exists()}


def _inputs(run: Path, config: Config, manifests: dict[Stage, JsonObject]) -> dict[str, JsonValue]:
    return {
        **{stage: stage_hash(run, stage) for stage in manifests},
        **{f"report.{key}": value for key, value in config.report.model_dump().items()},
        "evaluate.confidence": config.evaluate.confidence,
    }


def _read_report(run: Path, config: Config, manifests: dict[Stage, JsonObject]) -> Report:
    predictions = list(read_rows(run / "evaluate" / "rows.jsonl", Prediction))
    prompts = {prompt.id: prompt for prompt in read_rows(run / "prompts" / "rows.jsonl", Prompt)}
    results = _headline_first(results_by_test_set(predictions, confidence=config.evaluate.confidence), config)
    versions = manifests["evaluate"]["versions"]
    assert isinstance(versions, dict)
    return Report(
        title=config.report.title,
        student=config.student.model,
        teacher=config.teacher.model,
        confidence=config.evaluate.confidence,
        results=results,
        funnel=tuple(_funnel_stage(run, stage, manifest) for stage, manifest in manifests.items()),
        prompts=_prompts(run),
        curves=_curves(run, config) if "train" in manifests else (),
        wrong_answers=choose_wrong_answers(results[0], predictions, prompts, number=config.report.num_wrong_answers),
        config=config.model_dump(mode="json"),
        versions=versions,
        hashes={stage: _outputs(manifest) for stage, manifest in manifests.items()},
    )


def _headline_first(results: dict[str, TestSetResult], config: Config) -> tuple[TestSetResult, ...]:
    if not results:
        raise DataError("evaluate: no predictions to report; give test prompts with expected answers and redo evaluate")
    configured = [test.name for test in config.prompts.test if test.name in results]
    headline = config.report.headline_test_set or [*configured, *results][0]
    if headline not in results:
        names = ", ".join(results)
        raise ConfigError(f"report.headline_test_set is {headline!r}, which has no predictions; name one of {names}")
    return (results[headline], *(result for name, result in results.items() if name != headline))


def _funnel_stage(run: Path, stage: Stage, manifest: JsonObject) -> FunnelStage:
    counts = manifest["counts"]
    assert isinstance(counts, dict)
    rejects = run / stage / "rejects.jsonl"
    reasons = Counter(reject.reason for reject in read_rows(rejects, Reject)) if rejects.exists() else Counter()
    rows = counts.get("rows")
    others = {name: count for name, count in counts.items() if name not in ("rows", "rejects")}
    return FunnelStage(
        stage=stage,
        rows=rows if isinstance(rows, int) else None,
        rejects=reasons.total(),
        reasons=dict(reasons.most_common()),
        counts={name: count for name, count in others.items() if isinstance(count, (int, float))},
    )


def _prompts(run: Path) -> JsonObject | None:
    """What stage `prompts` says of its sources; None for a run that was written before it said so."""
    path = run / "prompts" / "report.json"
    return read_json(path) if path.exists() else None


def _curves(run: Path, config: Config) -> tuple[Curve, ...]:
    names = [seeded_model_name(student, seed) for student in config.train.students for seed in config.train.seeds]
    return tuple(_curve(name, run / "train" / name / "metrics.jsonl") for name in names)


def _curve(name: str, path: Path) -> Curve:
    loss: list[tuple[int, float]] = []
    validation_loss: list[tuple[int, float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            for key, points in (("loss", loss), ("validation_loss", validation_loss)):
                if entry.get(key) is not None:
                    points.append((int(entry["step"]), float(entry[key])))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}:{number}: not a line of training metrics ({error!r}); redo train") from None
    return Curve(name=name, loss=tuple(loss), validation_loss=tuple(validation_loss))


def _outputs(manifest: JsonObject) -> JsonObject:
    outputs = manifest["outputs"]
    assert isinstance(outputs, dict)
    return outputs


def _encodable(text: str) -> str:
    """A model may write half a surrogate pair, which no page can carry; it shows as `?`. `report.json` keeps it."""
    return text.encode("utf-8", "replace").decode("utf-8")
