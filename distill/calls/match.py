"""Predicted calls against expected calls -> a verdict and its reason, by the rules of BFCL's checker.

Source: `ast_checker` and `eval_runner` of bfcl-eval 2026.3.23. Their error types are ours, word for word; where they raise, the
verdict is `error` and the error type `checker:exception`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from distill.calls.canonical import canonical_value
from distill.calls.parse import CallFormat, ParseError, parse_calls
from distill.records import Category, ExpectedCall, FinishReason, Tool, ToolCall, Verdict

Language: TypeAlias = Literal["python", "java", "javascript"]
"""What the tools' types and a model's values are written in."""

BFCL_CATEGORIES: dict[str, tuple[Category, Language]] = {
    "simple_python": ("simple", "python"),
    "simple_java": ("simple", "java"),
    "simple_javascript": ("simple", "javascript"),
    "multiple": ("multiple", "python"),
    "parallel": ("parallel", "python"),
    "parallel_multiple": ("parallel_multiple", "python"),
    "irrelevance": ("irrelevance", "python"),
    "live_simple": ("simple", "python"),
    "live_multiple": ("multiple", "python"),
    "live_parallel": ("parallel", "python"),
    "live_parallel_multiple": ("parallel_multiple", "python"),
    "live_irrelevance": ("irrelevance", "python"),
    "live_relevance": ("relevance", "python"),
}
"""BFCL's names of its single-turn categories, what we call them, and the language of their calls."""

EXCEPTION = "checker:exception"
ENGINE_ERROR = "completion:error"
NO_CALL = "relevance_error:decoder_failed"


def has_answers(bfcl_category: str) -> bool:
    """Whether BFCL has possible answers for this category of its own; elsewhere it matters only whether anything is called."""
    return BFCL_CATEGORIES[bfcl_category][0] not in ("irrelevance", "relevance")


@dataclass(frozen=True, slots=True)
class Match:
    """The verdict, BFCL's error type (None when correct), and the first difference in words."""

    verdict: Verdict
    bfcl_error: str | None
    explanation: str


CORRECT = Match("correct", None, "")


def match(
    predicted: Sequence[ToolCall],
    expected: Sequence[ExpectedCall],
    *,
    tools: Sequence[Tool],
    category: Category,
    language: Language = "python",
) -> Match:
    """Whether `predicted` is right for `expected`, as BFCL decides it. Raises nothing.

    `irrelevance` is right when nothing was called and `relevance` when anything was, whatever `expected` says. In the parallel
    categories the order of calls is free and the search is BFCL's greedy one. Where BFCL knows no type for a parameter of JSON Schema
    (`number`, `object`, a list of types, no type, an array without `items`) it would raise; here `number` is `float`, `object` is
    `dict`, and a parameter without one type takes the type of its first option.

    In Java and JavaScript each argument is source text, converted to the parameter's type before it is compared. The tools
    carry BFCL's types of that language (JAVA_TYPES, JAVASCRIPT_TYPES), not the strings that BFCL makes of them in its prompts; another
    type is an error.
    """
    try:
        if category == "irrelevance":
            return _match_nothing(predicted)
        if category == "relevance":
            return CORRECT if predicted else Match("wrong_count", NO_CALL, "no call; expected at least one")
        if category in ("parallel", "parallel_multiple"):
            return _match_unordered(predicted, expected, tools, language)
        checker = "multiple" if category == "multiple" else "simple"
        # A multiple record has one answer; a simple one is asked for one call whatever its answers are.
        wanted = len(expected) if category == "multiple" else 1
        if len(predicted) != wanted:
            return _wrong_count(f"{checker}_function_checker:wrong_count", len(predicted), wanted)
        tool = _find_tool(tools, expected[0].name) if category == "multiple" else tools[0]
        return _match_call(predicted[0], expected[0], tool, language)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        return Match("error", EXCEPTION, f"the checker cannot compare these: {type(error).__name__}: {error}")


def score_text(
    text: str,
    expected: Sequence[ExpectedCall],
    *,
    tools: Sequence[Tool],
    category: Category,
    finish_reason: FinishReason,
    call_format: CallFormat = "pythonic",
    language: Language = "python",
) -> Match:
    """Whether a completion's text is right, as BFCL decides it: decoded in bfcl mode, then matched.

    What cannot be decoded is malformed, or truncated when the model was cut off. In `irrelevance` it is right, cut off or not,
    because BFCL takes whatever it cannot decode for a refusal to call. A completion that failed in its engine is an error.

    In Java and JavaScript a `pythonic` text is in the syntax of that language; the other formats are decoded as ever. Raises
    DataError where that syntax is to be read and the extra `java-js` is not installed, and nothing else.
    """
    if finish_reason == "error":
        return Match("error", ENGINE_ERROR, "the engine returned an error instead of a completion")
    try:
        if language == "python" or call_format != "pythonic":
            predicted = parse_calls(text, mode="bfcl", call_format=call_format)
        else:
            predicted = _foreign(language).decode(text)
    except ParseError as error:
        if category == "irrelevance":
            return CORRECT
        kind = "decoder_wrong_output_format" if error.reason == "wrong_shape" else "decoder_failed"
        bfcl_error = NO_CALL if category == "relevance" else f"ast_decoder:{kind}"
        return Match("truncated" if finish_reason == "length" else "malformed", bfcl_error, str(error))
    return match(predicted, expected, tools=tools, category=category, language=language)


def exactly(call: ToolCall, *, tool: Tool) -> ExpectedCall:
    """The expected call that `call` is right for, and whatever BFCL takes for the same (see `match`).

    In BFCL's answers a dict declared as such, alone or in a list, holds for each key a list of options; hence the tool.
    An empty string cannot be required: BFCL reads it as "may be omitted".
    """
    properties: Mapping[str, Any] = tool.parameters.get("properties") or {}  # type: ignore[assignment]  # a JSON object
    options = {name: [_as_option(value, properties.get(name, {}))] for name, value in call.arguments.items()}
    return ExpectedCall(name=call.name, options=options)


def same_calls(a: Sequence[ToolCall], b: Sequence[ToolCall]) -> bool:
    """Whether two answers make the same calls: equal canonical keys.

    That is the optimal assignment. Calls are the same or not, with nothing between and no option that suits two of them, so one-to-one
    assignments of like calls exist exactly where both answers hold each call equally often, which sorting compares.
    """
    return canonical_key(a) == canonical_key(b)


def canonical_key(calls: Sequence[ToolCall]) -> str:
    """A text equal for two answers exactly when they make the same calls, for votes and agreement.

    The order of calls and of arguments is free, 2 is 2.0, everything else is exact: True is not 1, "a" is not "A", a list is ordered.
    """
    return ";".join(sorted(f"{canonical_value(call.name)}({canonical_value(call.arguments)})" for call in calls))


# BFCL's type names and, from `number` on, JSON Schema's spellings of the same.
_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
    "number": float,
    "object": dict,
}
_IGNORED_PUNCTUATION = str.maketrans("", "", " ,./-_*^")


class _Failure(Exception):
    """One call does not match: BFCL's error type, and why."""

    def __init__(self, error_type: str, explanation: str) -> None:
        super().__init__(error_type)
        self.error_type = error_type
        self.explanation = explanation


def _wrong_count(error_type: str, found: int, wanted: int) -> Match:
    return Match("wrong_count", error_type, f"{found} calls; expected {wanted}")


def _match_nothing(predicted: Sequence[ToolCall]) -> Match:
    if not predicted:
        return CORRECT
    names = ", ".join(str(call.name) for call in predicted)
    return Match("wrong_count", "irrelevance_error:decoder_success", f"called {names}; expected no call")


def _match_call(call: ToolCall, expected: ExpectedCall, tool: Tool, language: Language) -> Match:
    try:
        _check_call(call, expected, tool, language)
    except _Failure as failure:
        wrong_tool = failure.error_type == "simple_function_checker:wrong_func_name"
        return Match("wrong_tool" if wrong_tool else "wrong_arguments", failure.error_type, failure.explanation)
    return CORRECT


def _match_unordered(
    predicted: Sequence[ToolCall], expected: Sequence[ExpectedCall], tools: Sequence[Tool], language: Language
) -> Match:
    """Each expected call takes the first unused predicted one that fits; no assignment is revised."""
    if len(predicted) != len(expected):
        return _wrong_count("parallel_function_checker_no_order:wrong_count", len(predicted), len(expected))
    unused = list(predicted)
    for wanted in expected:
        tool = _find_tool(tools, wanted.name)
        failures: list[Match] = []
        for index, call in enumerate(unused):
            result = _match_call(call, wanted, tool, language)
            if result.verdict == "correct":
                del unused[index]
                break
            failures.append(result)
        else:
            # The nearest miss says most: a call of the right tool, if there was one.
            nearest = next((failure for failure in failures if failure.verdict == "wrong_arguments"), failures[0])
            explanation = f"no call matches the expected {wanted.name}: {nearest.explanation}"
            return Match(nearest.verdict, "parallel_function_checker_no_order:cannot_find_match", explanation)
    return CORRECT


def _find_tool(tools: Sequence[Tool], name: str) -> Tool:
    for tool in tools:
        if tool.name == name:
            return tool
    raise LookupError(f"no tool is named {name!r}")


def _check_call(call: ToolCall, expected: ExpectedCall, tool: Tool, language: Language) -> None:
    if call.name != tool.name:
        raise _Failure("simple_function_checker:wrong_func_name", f"called {call.name!r}; expected {tool.name!r}")
    arguments = call.arguments
    schema: Mapping[str, Any] = tool.parameters
    for name in schema.get("required", ()):
        if name not in arguments:
            raise _Failure("simple_function_checker:missing_required", f"the required argument {name!r} is missing")
    properties = schema.get("properties", {})
    for name, value in arguments.items():
        if name not in properties or name not in expected.options:
            raise _Failure("simple_function_checker:unexpected_param", f"the argument {name!r} is not expected")
        _check_argument(name, value, expected.options[name], properties[name], language)
    for name, options in expected.options.items():
        if name not in arguments and "" not in options:
            raise _Failure(
                "simple_function_checker:missing_optional", f"the argument {name!r} is missing; expected {options}"
            )


def _check_argument(
    name: str, value: Any, options: Sequence[Any], schema: Mapping[str, Any], language: Language
) -> None:
    option_type = _option_type(options)
    if language == "python":
        wanted, item_type = _wanted_types(schema, option_type)
        if schema.get("type") == "tuple" and type(value) is tuple:
            value = list(value)
        elif wanted is float and type(value) is int:
            value = float(value)
    else:
        value, wanted, item_type = _convert(name, value, schema, language)
    if not _has_option_type(name, value, options, wanted, item_type, option_type):
        # An option of another type than the declared one is a variable's name, or a value of that type, and is compared as it is.
        if wanted is dict:
            return _check_dict(name, value, options)
        if wanted is list and item_type is dict:
            return _check_list_of_dicts(name, value, options)
        if wanted is str:
            return _check_string(name, value, options)
        if wanted is list:
            return _check_list(name, value, options)
    if value not in options:
        raise _Failure("value_error:others", _wrong_value(name, value, options))
    return None


def _wanted_types(schema: Mapping[str, Any], option_type: type | None) -> tuple[type | None, type | None]:
    """Python's types for a declared parameter and, for an array or tuple, for its items."""
    declared = schema.get("type")
    if isinstance(declared, list):
        names = [name for name in declared if name != "null"]
        declared = names[0] if len(names) == 1 else None
    if declared is None:
        return option_type, None
    wanted = _TYPES[declared]
    if wanted is not list:
        return wanted, None
    items = schema.get("items")
    item_type = items.get("type") if isinstance(items, dict) else None
    return list, _TYPES[item_type] if isinstance(item_type, str) else None


def _convert(
    name: str, value: Any, schema: Mapping[str, Any], language: Literal["java", "javascript"]
) -> tuple[Any, type, type | None]:
    """An argument's text -> its value as the declared type, that type, and its items' type; text stays where it is no such value."""
    foreign = _foreign(language)
    declared, item_name, item_type = schema["type"], None, None
    wanted = _named(declared, foreign.types)
    if type(value) is not str:
        raise _Failure(foreign.error_type, f"{name!r} is a {type(value).__name__} ({value!r}); expected source text")
    if wanted is list and declared in ("Array", "ArrayList", "array"):
        item_name = schema["items"]["type"]
        item_type = _named(item_name, foreign.types)
    return foreign.convert(value, declared, item_name), wanted, item_type


def _named(name: str, types: Mapping[str, type]) -> type:
    if name not in types:
        raise LookupError(f"the type {name!r} is none of {', '.join(types)}")
    return types[name]


@dataclass(frozen=True, slots=True)
class _Foreign:
    """How a language other than Python is read: its types, its values, its calls, and BFCL's error for a value that is no text."""

    types: Mapping[str, type]
    convert: Callable[[str, str, str | None], Any]
    decode: Callable[[str], tuple[ToolCall, ...]]
    error_type: str


@cache
def _foreign(language: Literal["java", "javascript"]) -> _Foreign:
    # Imported where they are needed: most who import this module read Python only.
    if language == "java":
        from distill.calls.java import JAVA_TYPES, convert_java, decode_java

        return _Foreign(JAVA_TYPES, convert_java, decode_java, "type_error:java")
    from distill.calls.javascript import JAVASCRIPT_TYPES, convert_javascript, decode_javascript

    return _Foreign(JAVASCRIPT_TYPES, convert_javascript, decode_javascript, "type_error:js")


def _as_option(value: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        wanted, _ = _wanted_types(schema, dict)
        return {key: [item] for key, item in value.items()} if wanted is dict else value
    if isinstance(value, list):
        wanted, item_type = _wanted_types(schema, list)
        if wanted is list and item_type is dict:
            return [{key: [part] for key, part in item.items()} if isinstance(item, dict) else item for item in value]
    return value


def _option_type(options: Sequence[Any]) -> type | None:
    """The type of the first option that is not the marker of an argument that may be omitted."""
    for option in options:
        if option != "":
            return type(option)
    return None


def _has_option_type(
    name: str,
    value: Any,
    options: Sequence[Any],
    wanted: type[Any] | None,
    item_type: type | None,
    option_type: type | None,
) -> bool:
    """Whether the value is to be compared as it is, because its options have another type than declared; raises on a wrong type."""
    if type(value) is wanted:
        if item_type is not None and not any(_items_fit(value, option, item_type) for option in options):
            kind = "nested" if options else "simple"
            raise _Failure(f"type_error:{kind}", f"the items of {name!r} are not all {item_type.__name__}: {value!r}")
        return option_type is not None and option_type is not wanted
    if option_type is not None and type(value) is option_type:
        return True
    wanted_name = "the type of its options" if wanted is None else wanted.__name__
    raise _Failure("type_error:simple", f"{name!r} is a {type(value).__name__} ({value!r}); expected {wanted_name}")


def _items_fit(items: Sequence[Any], option: Any, item_type: type) -> bool:
    if type(option) is not list:
        return True
    option_type = _option_type(option)
    return all(type(item) is item_type or (option_type is not None and type(item) is option_type) for item in items)


def _check_string(name: str, value: str, options: Sequence[Any]) -> None:
    if value in options:  # as it stands, mostly
        return
    if _plain_text(value) not in [_plain_text(option) for option in options if type(option) is str]:
        raise _Failure("value_error:string", _wrong_value(name, value, options))


def _check_list(name: str, value: Sequence[Any], options: Sequence[Any]) -> None:
    # An option that is a string is a list of its characters here; so the marker "" accepts an empty list.
    if _plain_items(value) not in [_plain_items(option) for option in options]:
        raise _Failure("value_error:list/tuple", _wrong_value(name, value, options))


def _check_dict(name: str, value: Mapping[Any, Any], options: Sequence[Any]) -> None:
    """Passes when one option allows the dict; raises what the last option tried found."""
    failure = _Failure("dict_checker:unclear", _wrong_value(name, value, options))
    for option in options:
        if option == "":
            continue
        found = _why_not_dict(name, value, option)
        if found is None:
            return
        failure = found
    raise failure


def _why_not_dict(name: str, value: Mapping[Any, Any], option: Any) -> _Failure | None:
    failure = None
    for key, item in value.items():
        if key not in option:
            failure = _Failure("value_error:dict_key", f"the key {key!r} of {name!r} is not expected")
            break
        if _plain(item) not in _plain_items(option[key]):
            failure = _Failure("value_error:dict_value", _wrong_value(f"{name}.{key}", item, option[key]))
            break
    for key, items in option.items():
        if key not in value and "" not in items:
            return _Failure("value_error:dict_key", f"the key {key!r} of {name!r} is missing")
    return failure


def _check_list_of_dicts(name: str, value: Sequence[Any], options: Sequence[Any]) -> None:
    """Passes when one option allows each dict at its place; raises what the last option tried found."""
    failure = _Failure("list_dict_checker:unclear", _wrong_value(name, value, options))
    for option in options:
        if len(value) != len(option):
            failure = _Failure(
                "value_error:list_dict_count", f"{name!r} has {len(value)} items; expected {len(option)}"
            )
            continue
        try:
            for index, item in enumerate(value):
                _check_dict(f"{name}[{index}]", item, [option[index]])
        except _Failure as found:
            failure = found
        else:
            return
    raise failure


def _plain_text(text: str) -> str:
    return text.translate(_IGNORED_PUNCTUATION).lower().replace("'", '"')


def _plain(value: Any) -> Any:
    return _plain_text(value) if type(value) is str else value


def _plain_items(items: Sequence[Any]) -> list[Any]:
    # By index, so that options that are no sequence are the error they are in the reference.
    return [_plain(items[index]) for index in range(len(items))]


def _wrong_value(name: str, value: Any, options: Sequence[Any]) -> str:
    return f"{name!r} is {value!r}; expected one of {options!r}"
