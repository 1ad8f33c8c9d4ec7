"""A YAML file plus `section.key=value` overrides in, one typed and frozen `Config` out; no torch.

One section per stage, named as the stage; `run`, `teacher` and `student` say what several stages share. Every default stands here
and nowhere else. An unknown key, a wrong type and a missing key each fail by name with the file they stand in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

EMBEDDED_MODELS = ("teacher", "student")

PromptFormat = Literal["bedrock", "logs", "chat", "dataset", "bfcl"]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(gt=0)]
Temperature = Annotated[float, Field(ge=0.0)]

OWN_SETTINGS = {
    "model": "teacher.model",
    "n": "annotate.num_samples",
    "temperature": "annotate.sampling_temperature",
    "max_tokens": "annotate.max_new_tokens",
    "max_completion_tokens": "annotate.max_new_tokens",
    "logprobs": "annotate.num_logprobs",
    "top_logprobs": "annotate.num_logprobs",
    "prompt_logprobs": "annotate.mode: score",
    "seed": "run.seed",
    "prompt": "made of the prompts",
    "messages": "made of the prompts",
    "tools": "made of the prompts",
    "stop_token_ids": "the end of turn",
    "return_token_ids": "set where it is needed",
    "return_tokens_as_token_ids": "set where it is needed",
    "tool_choice": "`auto`",
    "best_of": "of no use here",
    "stream": "of no use here",
    "stream_options": "of no use here",
    "echo": "of no use here",
}
"""Fields of a request that `annotate.sampling_parameters` may not set, and what sets them."""


class ConfigError(Exception):
    """A configuration that cannot be run. The message says where, what was found, what is allowed, and what to do."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are not coerced, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RunConfig(Section):
    """Where the run lives and the seed all randomness is derived from.

    Each finished stage is copied to the URL `publish_to` (`s3://bucket/runs/NAME`, or anything of fsspec's) if one is given.
    """

    dir: str
    seed: int = 0
    publish_to: str | None = None


class PromptSource(Section):
    """Where prompts come from: a file, a folder, a glob or a URL, in a format of `docs/prompts.md`. A bare path is one, too.

    Without `format` the first record tells it. With `multi_turn` a conversation is one prompt for each of the assistant's turns. For
    `logs`: `filters` selects records as Bedrock's `requestMetadataFilters` does, and with `use_prompt_response` the logged answers of
    `logged_model` (a model's id, profile id or ARN; `teacher.model` unless given) stand in for the teacher's. For `dataset`: `split`.
    `answers` holds expected calls in BFCL's shape: one line per record for `bedrock`, matched by id for `bfcl`, which otherwise
    finds them in `possible_answer/` beside the questions.
    """

    path: Annotated[str, Field(min_length=1)]
    format: PromptFormat | None = None
    multi_turn: bool = False
    filters: dict[str, Any] | None = None
    use_prompt_response: bool = False
    logged_model: str | None = None
    split: str | None = None
    answers: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class TestSet(PromptSource):
    """Test prompts under a name. Their expected calls are `answers`, or the replies that the records bring."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class SplitConfig(Section):
    """How train, validation and test are separated: whole groups of prompts, never single near-copies.

    A group shares its tool list (`tools`), its messages but the last (`conversation`) or its last user message (`request`).
    """

    group_by: Literal["tools", "conversation", "request"] = "tools"
    validation_share: Share = 0.1
    test_share: Share = 0.0

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> SplitConfig:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share ({self.validation_share}) and test_share ({self.test_share}) leave no training prompts; "
                "their sum must be below 1"
            )
        return self


class PromptsConfig(Section):
    """The `prompts` stage: records of any format in, checked prompts out.

    Training prompts that ask the same as an earlier one in other frills are rejected (`drop_near_duplicates`), and those that a
    validation, test or `benchmarks` prompt stands in (`drop_contaminated`). `max_prompt_tokens` counts the student's tokens.
    """

    train: Annotated[list[PromptSource], Field(min_length=1)]
    validation: list[PromptSource] = []
    test: list[TestSet] = []
    benchmarks: list[PromptSource] = []
    split: SplitConfig = SplitConfig()
    max_prompt_tokens: Positive = 8192
    drop_near_duplicates: bool = True
    drop_contaminated: bool = True


class ServeConfig(Section):
    """A vLLM server that is started for the run and stopped at its end; `teacher.base_url` is then left out.

    `config` is a file in vLLM's own format, such as those in `configs/serve/`; `arguments` are vLLM's flags by name that replace the
    file's (`{model: /data/llama, port: 8001}`). `python` belongs to the environment that vLLM is installed in, `environment` adds
    variables. The server may take `start_timeout_s` until it answers, and is started again after a crash `max_restarts` times.
    """

    config: str
    python: str = ".venv-vllm/bin/python"
    arguments: dict[str, str | int | float | bool] = {}
    environment: dict[str, str] = {}
    start_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    max_restarts: Annotated[int, Field(ge=0)] = 2


class PriceConfig(Section):
    """What the teacher costs: GPUs by the hour, or tokens by the million, in US dollars. What is None is not counted."""

    num_gpus: Positive = 1
    usd_per_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    usd_per_million_prompt_tokens: Annotated[float, Field(ge=0)] | None = None
    usd_per_million_cached_tokens: Annotated[float, Field(ge=0)] | None = None
    usd_per_million_completion_tokens: Annotated[float, Field(ge=0)] | None = None


class TeacherConfig(Section):
    """Who annotates: a model in this process (`transformers`) or an OpenAI-compatible server such as vLLM (`server`).

    `model` is a folder, a hub name or `embedded:teacher`. For a server it is the served model's name, and `tokenizer` the folder
    or hub name whose tokenizer renders the prompts. A server runs already at `base_url` (several addresses of the same model share
    the work), or is started as `serve` says. The key is read from the environment variable `api_key_env`.

    `prompt_format` `token_ids` sends Llama 3's tokens as rendered here, with `date_line` (such as `26 Jul 2024`) if one is given;
    `messages` lets the server render, for models of other families, with the tools where they stand in the text or in the `tools`
    field (`native`). At most `max_concurrency` requests are under way at each address; how many the server can take is found out.
    An attempt ends after `request_timeout_s`, a request after `max_attempts` of them. A server that is gone is waited for
    `wait_for_server_s`.
    """

    model: str
    engine: Literal["transformers", "server"] = "transformers"
    tokenizer: str | None = None
    base_url: str | Annotated[list[str], Field(min_length=1)] | None = None
    serve: ServeConfig | None = None
    api_key_env: str = "OPENAI_API_KEY"
    prompt_format: Literal["token_ids", "messages"] = "token_ids"
    tools: Literal["text", "native"] = "text"
    date_line: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    batch_tokens: Positive = 32768
    max_concurrency: Positive = 256
    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    max_attempts: Positive = 8
    wait_for_server_s: Annotated[float, Field(ge=0)] = 300.0
    price: PriceConfig = PriceConfig()

    @model_validator(mode="after")
    def _server_needs_address(self) -> TeacherConfig:
        if self.engine == "server" and (self.base_url is None) == (self.serve is None):
            raise ValueError(
                "engine is `server`: give either base_url, the address of a running server such as http://localhost:8000/v1, "
                "or serve, to have one started"
            )
        if self.engine == "transformers":
            needless = [name for name in ("base_url", "serve") if getattr(self, name) is not None]
            if needless or self.prompt_format == "messages":
                raise ValueError(
                    f"{' and '.join(needless) or 'prompt_format messages'} goes with engine `server`; the engine is `transformers`"
                )
        if self.prompt_format == "token_ids" and self.tools == "native":
            raise ValueError("tools `native` goes with prompt_format `messages`; as token ids, tools stand in the text")
        if self.prompt_format == "messages" and self.date_line is not None:
            raise ValueError(
                "date_line goes with prompt_format `token_ids`; as messages, the server's chat template decides"
            )
        return self


class AnnotateConfig(Section):
    """The `annotate` stage: how the teacher is sampled.

    Each prompt gets `num_samples` completions at each temperature of `sampling_temperature`, `max_new_tokens` long at most (Bedrock's
    `maxResponseLengthForInference`). `sampling_parameters` are vLLM's own, by name, such as `top_p`. With `num_logprobs` the K likeliest
    tokens at each place and their log-probabilities are kept. In mode `score` nothing is written: the log-probabilities of the answers
    that prompts bring along are asked for.

    `golden` says what becomes of a user's own answers: `ignore` asks the teacher all the same, `answers` takes them in its place,
    `few_shot` shows up to `num_few_shot` of them for the same tools before the request of another prompt.

    Before all others `smoke_prompts` prompts are asked, and the stage stops if fewer than `min_usable` of the answers are usable. It
    stops, too, where the teacher fails on more than `max_error_rate` of the prompts.
    """

    mode: Literal["complete", "score"] = "complete"
    num_samples: Positive = 1
    sampling_temperature: Temperature | Annotated[list[Temperature], Field(min_length=1)] = 0.0
    sampling_parameters: dict[str, Any] = {}
    max_new_tokens: Positive = 512
    num_logprobs: Annotated[int, Field(ge=0)] = 0
    golden: Literal["ignore", "answers", "few_shot"] = "ignore"
    num_few_shot: Positive = 3
    smoke_prompts: Annotated[int, Field(ge=0)] = 16
    min_usable: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    max_error_rate: Share = 0.1

    @property
    def temperatures(self) -> tuple[float, ...]:
        """One or several, in the order given."""
        given = self.sampling_temperature
        return tuple(given) if isinstance(given, list) else (given,)

    @model_validator(mode="after")
    def _samples_must_differ(self) -> AnnotateConfig:
        if self.num_samples > 1 and 0.0 in self.temperatures:
            raise ValueError(
                "num_samples > 1 at sampling_temperature 0 gives equal completions; set a temperature above 0"
            )
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError("sampling_temperature names one temperature twice; raise num_samples instead")
        return self

    @model_validator(mode="after")
    def _parameters_have_no_setting_of_their_own(self) -> AnnotateConfig:
        taken = sorted(set(self.sampling_parameters) & set(OWN_SETTINGS))
        if taken:
            raise ValueError(
                "sampling_parameters: "
                + "; ".join(f"{name} is {OWN_SETTINGS[name]}" for name in taken)
                + "; remove it here"
            )
        return self


class CurateConfig(Section):
    """The `curate` stage: which completions become examples."""

    min_agreement: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5


class AugmentConfig(Section):
    """The `augment` stage: how many new examples each method tries to make of every curated one."""

    values: Annotated[int, Field(ge=0)] = 4
    rename: Annotated[int, Field(ge=0)] = 2
    max_examples: Positive = 15000


class StudentConfig(Section):
    """The model that is trained: a folder, a hub name or `embedded:student`."""

    model: str


class TrainConfig(Section):
    """The `train` stage: LoRA on all linear layers. `students` are trained one after another, once per seed.

    `vanilla` learns from `curate`, `augmented` from `augment`. `batch_size` counts examples per optimizer step over all
    processes, `micro_batch_tokens` bounds the padded tokens of one forward pass. Either `max_steps` or `num_epochs` ends it.
    """

    students: Annotated[list[Literal["vanilla", "augmented"]], Field(min_length=1)] = ["augmented"]
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    lora_rank: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Share = 0.0
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_share: Share = 0.05
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Positive = 16
    micro_batch_tokens: Positive = 16384
    num_epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: Positive | None = None
    checkpoint_every: Positive = 50
    validate_every: Positive = 50
    max_length: Positive = 4096
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.num_epochs is None) == (self.max_steps is None):
            raise ValueError("give exactly one of num_epochs and max_steps")
        return self

    @model_validator(mode="after")
    def _longest_example_fits(self) -> TrainConfig:
        if self.micro_batch_tokens < self.max_length:
            raise ValueError(
                f"micro_batch_tokens ({self.micro_batch_tokens}) is less than max_length ({self.max_length}), so the longest "
                "example would not fit into a forward pass; raise the first or lower the second"
            )
        return self


class EvaluateConfig(Section):
    """The `evaluate` stage: base student, trained students and teacher on the test prompts, greedily.

    A prompt on which an engine fails counts as a wrong answer, so none may unless `max_error_rate` says so.
    """

    models: Annotated[list[Literal["base", "students", "teacher"]], Field(min_length=1)] = [
        "base",
        "students",
        "teacher",
    ]
    max_error_rate: Share = 0.0
    max_new_tokens: Positive = 512
    batch_tokens: Positive = 32768
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95


class ReportConfig(Section):
    """The `report` stage."""

    title: str = "Distillation report"
    headline_test_set: str | None = None
    num_wrong_answers: Annotated[int, Field(ge=0)] = 10


class Config(Section):
    """One complete run."""

    run: RunConfig
    prompts: PromptsConfig
    teacher: TeacherConfig
    annotate: AnnotateConfig = AnnotateConfig()
    curate: CurateConfig = CurateConfig()
    augment: AugmentConfig = AugmentConfig()
    student: StudentConfig
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _annotate_suits_the_teacher(self) -> Config:
        if self.annotate.sampling_parameters and (
            self.teacher.engine == "transformers" or self.annotate.mode == "score"
        ):
            raise ValueError(
                "annotate.sampling_parameters are for sampling by a server (teacher.engine: server); remove them"
            )
        others = [
            name
            for name, is_set in (
                ("annotate.golden few_shot", self.annotate.golden == "few_shot"),
                ("teacher.date_line", self.teacher.date_line is not None),
            )
            if is_set
        ]
        if self.annotate.num_logprobs and others:
            raise ValueError(
                f"annotate.num_logprobs with {' and '.join(others)}: the teacher would see other tokens than the student, which could not "
                "learn from the log-probabilities; leave one of them out"
            )
        if self.annotate.mode == "score" and self.teacher.prompt_format == "messages":
            raise ValueError(
                "annotate.mode `score` needs teacher.prompt_format `token_ids`: a text is scored token by token"
            )
        if self.annotate.mode == "score" and self.annotate.golden != "ignore":
            raise ValueError("annotate.mode `score` scores golden answers; leave annotate.golden out")
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply overrides of the form `section.key=value` (value in YAML), and check all of it.

    Raises `ConfigError` naming the file and each offending key.
    """
    values = _read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_where(problem['loc'])}: {_what(problem)}" for problem in error.errors())
        raise ConfigError(f"{path}: {error.error_count()} problem(s) in the configuration\n{problems}") from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; loading it gives an equal `Config`."""
    return yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def model_path(name: str) -> str:
    """What to hand to `from_pretrained`: the packaged folder for `embedded:teacher|student`, any other name as it is."""
    if not name.startswith("embedded:"):
        return name
    short = name.removeprefix("embedded:")
    if short not in EMBEDDED_MODELS:
        raise ConfigError(
            f"model {name!r}: the embedded models are {', '.join('embedded:' + m for m in EMBEDDED_MODELS)}"
        )
    return str(Path(__file__).parent / "embedded" / short)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a repeated key is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: key {key!r} is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would take for a number."""


# YAML 1.1, which PyYAML reads, takes 2e-4 for text, since there is no point in it. Nobody who writes a learning rate means that.
for _class in (_UniqueKeyLoader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the configuration ({error.strerror}); give the path of a YAML file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; give the path of a YAML file") from None
    try:
        values = yaml.load(text, _UniqueKeyLoader)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-02-30
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections such as run, prompts, teacher; found {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise ConfigError(f"override {override!r}: write section.key=value, such as train.max_steps=100")
    try:
        value = yaml.load(text, _UniqueKeyLoader)
    except (ConfigError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None
    target = values
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise ConfigError(f"override {override!r}: {key} is a value, not a section")
    target[keys[-1]] = value


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(whole file)"


def _what(problem: Any) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        return "unknown key; check the spelling, or remove it"
    if kind == "missing":
        return "missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    return message if kind == "value_error" else f"{message}; found {problem['input']!r}"
