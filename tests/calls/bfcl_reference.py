"""BFCL's files -> records; the installed `bfcl-eval` -> its own decoder and checker to compare with."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from distill.calls.match import Language
from distill.records import Category, ExpectedCall, Tool

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "bfcl"
CATEGORIES: dict[str, Category] = {
    "simple_python": "simple",
    "multiple": "multiple",
    "parallel": "parallel",
    "parallel_multiple": "parallel_multiple",
    "live_simple": "simple",
    "live_multiple": "multiple",
    "live_parallel": "parallel",
    "live_parallel_multiple": "parallel_multiple",
}
"""BFCL's Python categories with answers, and what we call them."""
OTHER_LANGUAGES: dict[str, Language] = {"simple_java": "java", "simple_javascript": "javascript"}
"""BFCL's categories in other languages, all of them simple."""


@dataclass(frozen=True)
class Record:
    """One BFCL question with its answer, raw as in the files and as our records."""

    id: str
    bfcl_category: str
    functions: list[dict[str, Any]]
    answer: list[dict[str, dict[str, Any]]]

    @property
    def category(self) -> Category:
        return CATEGORIES.get(self.bfcl_category, "simple")

    @property
    def language(self) -> Language:
        return OTHER_LANGUAGES.get(self.bfcl_category, "python")

    @property
    def tools(self) -> tuple[Tool, ...]:
        return as_tools(self.functions)

    @property
    def expected(self) -> tuple[ExpectedCall, ...]:
        return as_expected(self.answer)


def as_tools(functions: Sequence[dict[str, Any]]) -> tuple[Tool, ...]:
    return tuple(Tool(name=f["name"], description=f["description"], parameters=f["parameters"]) for f in functions)


def as_expected(answer: Sequence[dict[str, dict[str, Any]]]) -> tuple[ExpectedCall, ...]:
    return tuple(ExpectedCall(name=name, options=options) for call in answer for name, options in call.items())


@dataclass(frozen=True)
class Reference:
    """The installed `bfcl-eval`: its decoder, its checker, and its runner's way of joining the two."""

    decode: Callable[..., list[dict[str, Any]]]
    is_call_list: Callable[[Any], bool]
    decode_llama_json: Callable[[str], list[dict[str, Any]]]
    decode_hermes: Callable[[str], list[dict[str, Any]]]
    check: Callable[..., dict[str, Any]]
    convert: dict[Language, Callable[..., Any]]
    languages: Any
    return_formats: Any
    evaluated: list[str]
    """Sources the decoder wanted to evaluate that are no arithmetic of literals; filled while it runs."""

    def decode_in(self, language: Language, text: str) -> Any:
        return self.decode(text, self.return_formats(language))

    def score(
        self, text: str, functions: Any, answer: Any, bfcl_category: str, language: Language = "python"
    ) -> str | None:
        """None for a valid output, else the error type, as `_evaluate_single_ast_entry` gives it."""
        try:
            decoded = self.decode_in(language, text)
        except Exception:
            return "ast_decoder:decoder_failed"
        if not self.is_call_list(decoded):
            return "ast_decoder:decoder_wrong_output_format"
        return self.score_decoded(decoded, functions, answer, bfcl_category, language)

    def score_decoded(
        self, decoded: Any, functions: Any, answer: Any, bfcl_category: str, language: Language = "python"
    ) -> str | None:
        try:
            result = self.check(functions, decoded, answer, self.languages(language), bfcl_category, "model")
        except Exception:
            return "checker:exception"
        return None if result["valid"] else result["error_type"]


def read_records(categories: Iterable[str] = CATEGORIES) -> list[Record] | None:
    """All records of the categories, by default the Python ones; None where there is no data."""
    directory = DATA if DATA.is_dir() else _package_data()
    if directory is None:
        return None
    return [record for category in categories for record in _read(directory, category)]


def load_reference(scratch: Path) -> Reference | None:
    """The installed `bfcl-eval` without what it requires, its import's folders under `scratch`; None where it is not installed."""
    if importlib.util.find_spec("bfcl_eval") is None:
        return None
    os.environ.setdefault("BFCL_PROJECT_ROOT", str(scratch))
    stubs = _stubs()
    sys.modules.update(stubs)
    try:
        checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
        utils: Any = importlib.import_module("bfcl_eval.model_handler.utils")
        enums = importlib.import_module("bfcl_eval.constants.enums")
        llama: Any = importlib.import_module("bfcl_eval.model_handler.local_inference.llama_3_1")
        qwen: Any = importlib.import_module("bfcl_eval.model_handler.local_inference.qwen_fc")
    finally:
        for name in stubs:
            del sys.modules[name]
    evaluated: list[str] = []

    def literal_eval(source: str) -> Any:
        # Model output is never run, by the reference neither: what is more than arithmetic of literals is noted and refused.
        if not _is_arithmetic(ast.parse(source.lstrip(" \t"), mode="eval").body):
            evaluated.append(source)
            raise ValueError("not evaluated")
        return eval(source, {"__builtins__": {}})

    utils.eval = llama.eval = literal_eval  # a module's global hides the builtin of the same name
    if importlib.util.find_spec("tree_sitter") is not None:
        _load_source_parsers(utils)
    qwen_handler = object.__new__(qwen.QwenFCHandler)
    return Reference(
        decode=utils.default_decode_ast_prompting,
        decode_llama_json=lambda text: llama.LlamaHandler_3_1.decode_ast(None, text, None, False),
        decode_hermes=lambda text: qwen_handler.decode_ast(text, None, False),
        is_call_list=utils.is_function_calling_format_output,
        check=checker.ast_checker,
        convert={"java": checker.java_type_converter, "javascript": checker.js_type_converter},
        languages=enums.Language,
        return_formats=enums.ReturnFormat,
        evaluated=evaluated,
    )


def _load_source_parsers(utils: Any) -> None:
    """The reference's own decoders of Java and JavaScript, on the installed tree-sitter behind the interface they were written for."""
    stub: Any = _tree_sitter_0_21()
    installed = sys.modules.pop("tree_sitter", None)
    sys.modules["tree_sitter"] = stub
    try:
        java: Any = importlib.import_module("bfcl_eval.model_handler.parser.java_parser")
        javascript: Any = importlib.import_module("bfcl_eval.model_handler.parser.js_parser")
    finally:
        del sys.modules["tree_sitter"]
        if installed is not None:
            sys.modules["tree_sitter"] = installed
    utils.parse_java_function_call = java.parse_java_function_call
    utils.parse_javascript_function_call = javascript.parse_javascript_function_call


def _tree_sitter_0_21() -> types.ModuleType:
    tree_sitter: Any = importlib.import_module("tree_sitter")

    def language(table: Any, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return tree_sitter.Language(table)

    class Parser:
        def set_language(self, language: Any) -> None:
            self.parser = tree_sitter.Parser(language)

        def parse(self, source: bytes) -> Any:
            tree = self.parser.parse(source)
            root = tree.root_node
            return types.SimpleNamespace(
                root_node=types.SimpleNamespace(type=root.type, children=root.children, sexp=lambda: str(root)),
                tree=tree,
            )

    stub: Any = types.ModuleType("tree_sitter")
    stub.Language, stub.Parser = language, Parser
    return cast(types.ModuleType, stub)


_ARITHMETIC = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.List, ast.Tuple, ast.Dict, ast.expr_context)


def _is_arithmetic(tree: ast.expr) -> bool:
    """Whether `tree` is what our reader computes: no names, no repetition of a sequence, no formatting of a string."""
    for node in ast.walk(tree):
        if not isinstance(node, (*_ARITHMETIC, ast.operator, ast.unaryop)):
            return False
        if (
            isinstance(node, ast.BinOp)
            and not isinstance(node.op, ast.Add)
            and (_is_sequence(node.left) or _is_sequence(node.right))
        ):
            return False
    return True


def _is_sequence(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_sequence(node.left) or _is_sequence(node.right)
    return isinstance(node, ast.List | ast.Tuple | ast.Dict) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _stubs() -> dict[str, types.ModuleType]:
    """Stand-ins for what the reference imports and the Python checker does not use."""

    class AnyModel(dict[str, Any]):
        def __missing__(self, key: str) -> Any:
            return types.SimpleNamespace(underscore_to_dot=False)

    nothing = lambda *args, **kwargs: None  # noqa: E731
    contents: dict[str, dict[str, Any]] = {
        "bfcl_eval.constants.model_config": {"MODEL_CONFIG_MAPPING": AnyModel()},
        "bfcl_eval.model_handler.parser.java_parser": {"parse_java_function_call": None},
        "bfcl_eval.model_handler.parser.js_parser": {"parse_javascript_function_call": None},
        "tenacity": dict.fromkeys(
            ("retry", "retry_if_exception_message", "retry_if_exception_type", "wait_random_exponential"), nothing
        ),
        "filelock": {"FileLock": object},
        "overrides": {"override": lambda method: method},
        "bfcl_eval.model_handler.local_inference.base_oss_handler": {"OSSHandler": object},
    }
    stubs = {}
    for name, values in contents.items():
        if name not in sys.modules:
            stubs[name] = types.ModuleType(name)
            stubs[name].__dict__.update(values)
    return stubs


def _package_data() -> Path | None:
    spec = importlib.util.find_spec("bfcl_eval")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "data"


def _read(directory: Path, category: str) -> Iterator[Record]:
    name = f"BFCL_v4_{category}.json"
    with (directory / name).open() as questions, (directory / "possible_answer" / name).open() as answers:
        for question, answer in zip(map(json.loads, questions), map(json.loads, answers), strict=True):
            assert question["id"] == answer["id"]
            yield Record(question["id"], category, question["function"], answer["ground_truth"])
