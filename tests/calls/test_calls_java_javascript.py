"""Java and JavaScript: our decoders, converters and checker against BFCL's own, and their time on texts made to take long."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Literal

import pytest
from bfcl_reference import OTHER_LANGUAGES, Record, Reference, as_expected, as_tools, read_records
from java_javascript_outputs import (
    JAVA_TYPES,
    JAVA_VALUES,
    JAVASCRIPT_TYPES,
    JAVASCRIPT_VALUES,
    gold_arguments,
    mutate_arguments,
    mutate_gold,
    mutate_source,
    mutate_text,
    write_call,
)

from distill.calls import java, javascript
from distill.calls.bounds import ParseError
from distill.calls.match import match, score_text
from distill.calls.syntax import MAX_ANGLE_BRACKETS, MAX_SOURCE_CHARS
from distill.records import Category, ToolCall

OtherLanguage = Literal["java", "javascript"]
LANGUAGES: tuple[OtherLanguage, ...] = ("java", "javascript")
DECODE = {"java": java.decode_java, "javascript": javascript.decode_javascript}
CONVERT: dict[str, Callable[..., Any]] = {"java": java.convert_java, "javascript": javascript.convert_javascript}
TYPES = {"java": JAVA_TYPES, "javascript": JAVASCRIPT_TYPES}
VALUES = {"java": JAVA_VALUES, "javascript": JAVASCRIPT_VALUES}
COLLECTIONS = {"java": ("Array", "ArrayList", "HashMap"), "javascript": ("array", "dict")}
OUR_BOUNDS = {"too_long", "too_deep"}

# BFCL's own answers that its checker refuses, written as Java has them: the items of these keep their quotes, and these maps lose
# what fills them in decoding, or hold a text where the checker wants options. Without quotes, two lists of mixed items remain.
QUOTES_STAY = {f"simple_java_{number}" for number in (35, 36, 65, 78, 83, 85, 86, 89, 90, 91)}
MAP_IS_EMPTIED = {"simple_java_1", "simple_java_67", "simple_java_68"}
OPTIONS_ARE_TEXT = {"simple_java_64"}
MIXED_ITEMS = {"simple_java_36", "simple_java_65"}

PIECES = {
    "java": (
        "new ArrayList<", "new HashMap<", "new HashMap<>(){", ">(Arrays.asList(", "new ArrayList<>(Arrays.asList(", "new ArrayList<>() {{", "new int[]{", "new ",
        "add(", "add(1)", "add(1);", 'put("', '",', 'put("a",', 'put("a",\n', 'put("a", 1);', "(", ")", "))", "()", "{", "}", "{{", "}}", "[]", "<", ">", '"', ",", ";",
        " ", "\n", "a", "1", "2L", "3f", "true",
    ),
    "javascript": (
        "[", "]", "[[", "]]", "],[", "] , [", "],\n[", "{", "}", "new Array(", ")", "new Array([", "])", ":", ": ", " :", "a: ", "b:1", ",", ", ", ":,", ", :", ",a:",
        '"', "'", " ", "\n", "a", "1", "5n", "true",
    ),
}  # fmt: skip
"""What collections are written of, shuffled to strings that almost are collections, or a million of the same."""

STARTS = {
    "java": ("", "new ArrayList<>() {{", "new HashMap<>(){", 'new HashMap<>() {{ put("', "new HashMap<", "new int[]{"),
    "javascript": ("", "[", "[[", "[ [1], [", "new Array([", "{", "{a: "),
}
SLOW_TO_PARSE = (
    "a=>", "a<", "<A", "<!--", "=>+;of ", "super>of =", "-,", "->", "if(x)", "f(a=1) ", "f(a=1);", "f(a=", "!", "a=", "x.", "`${", "/*", '"a" ', "\x00", "é", "\\",
    "class A{", "a b(",
)  # fmt: skip


@pytest.fixture(scope="module")
def other_records() -> list[Record]:
    records = read_records(OTHER_LANGUAGES)
    if records is None:
        pytest.skip("no BFCL data beside the repository and no bfcl-eval installed")
    return records


@pytest.fixture(scope="module")
def other_reference(reference: Reference) -> Reference:
    """The reference with its decoders, which need the extra as ours do."""
    pytest.importorskip("tree_sitter", reason="the extra java-js is not installed")
    return reference


def test_own_answers_are_as_correct_as_the_reference_finds_them(
    other_records: list[Record], other_reference: Reference
) -> None:
    assert len(other_records) == 150
    wrong: dict[str, set[str]] = {"text": set(), "decoded": set(), "without quotes": set()}
    for record in other_records:
        ((name, options),) = record.answer[0].items()
        arguments = gold_arguments(record.functions[0], options, record.language)
        if _score(write_call(name, arguments), record, other_reference) is not None:
            wrong["text"].add(record.id)
        decoded = {key: _unquoted(value) for key, value in arguments}
        bare = {key: value.replace('"', "") for key, value in arguments} if record.id in QUOTES_STAY else decoded
        for way, given in (("decoded", decoded), ("without quotes", bare)):
            if _match(ToolCall(name, dict(given)), record, other_reference) is not None:
                wrong[way].add(record.id)
    assert wrong == {
        "text": QUOTES_STAY | MAP_IS_EMPTIED,
        "decoded": QUOTES_STAY | OPTIONS_ARE_TEXT,
        "without quotes": MIXED_ITEMS | OPTIONS_ARE_TEXT,
    }


def test_mutated_outputs_get_the_verdict_of_the_reference(
    other_records: list[Record], other_reference: Reference
) -> None:
    _compare(other_records, other_reference, num_cases=2_000, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_mutated_outputs_get_the_verdict_of_the_reference(
    other_records: list[Record], other_reference: Reference
) -> None:
    _compare(other_records, other_reference, num_cases=20_000, seed=2)


@pytest.mark.parametrize("language", LANGUAGES)
def test_values_are_converted_as_the_reference_does(reference: Reference, language: OtherLanguage) -> None:
    random = Random(language)
    types = [name for name in TYPES[language] if name not in ("string", "array" if language == "java" else "", "tuple")]
    kinds: Counter[type] = Counter()
    for _ in range(20_000):
        if random.random() < 0.3:
            text, declared = random.choice(VALUES[language]), random.choice(types)
            text = mutate_source(text, random) if random.random() < 0.5 else text
        else:
            text = "".join(random.choice(PIECES[language]) for _ in range(random.randrange(1, 16)))
            declared = random.choice(COLLECTIONS[language])
        item_type = random.choice((None, *types))
        wanted = _outcome(reference.convert[language], text, declared, item_type)
        assert _outcome(CONVERT[language], text, declared, item_type) == wanted, (text, declared, item_type)
        kinds[type(wanted)] += 1
        if declared in COLLECTIONS[language] and wanted != repr(text):
            kinds[list] += 1
    assert kinds[list] > 2_000


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_value_takes_more_than_linear_time_to_convert(language: OtherLanguage) -> None:
    for declared in COLLECTIONS[language]:
        for start in STARTS[language]:
            for piece in PIECES[language]:
                text = (start + piece * (1_000_000 // len(piece)))[:1_000_000]
                begin_s = time.process_time()
                CONVERT[language](text, declared, "String")
                # The text read a few times over takes a tenth of that; in quadratic time it would be hours.
                assert time.process_time() - begin_s < 5, (declared, start, piece)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_takes_long_to_decode(language: OtherLanguage) -> None:
    pytest.importorskip("tree_sitter", reason="the extra java-js is not installed")
    decode = DECODE[language]
    with pytest.raises(ParseError, match="too_long"):
        decode("[[[[" * 250_000)
    for start in ("", "f(a="):
        for piece in (*PIECES[language], *SLOW_TO_PARSE):
            # As many as fit, and as many as the bound of angle brackets allows.
            for size in (
                MAX_SOURCE_CHARS,
                len(piece) * MAX_ANGLE_BRACKETS // max(1, piece.count("<") + piece.count(">")),
            ):
                text = (start + piece * MAX_SOURCE_CHARS)[: min(size, MAX_SOURCE_CHARS)]
                begin_s = time.process_time()
                calls: tuple[ToolCall, ...] = ()
                with contextlib.suppress(ParseError):
                    calls = decode(text)
                assert len(calls) <= 1
                assert time.process_time() - begin_s < 10, (start, piece)


def test_without_the_extra_the_message_says_what_to_install() -> None:
    script = """
import sys
sys.modules["tree_sitter"] = None
from distill.calls.match import match, score_text
from distill.records import DataError, ExpectedCall, Tool, ToolCall
tools = [Tool("f", "", {"properties": {"a": {"type": "integer"}}, "required": []})]
expected = [ExpectedCall("f", {"a": [1]})]
for language in ("java", "javascript"):
    given = {"tools": tools, "category": "simple", "language": language}
    assert match([ToolCall("f", {"a": "1"})], expected, **given).verdict == "correct"
    text = '{"name": "f", "parameters": {"a": "1"}}'
    assert score_text(text, expected, finish_reason="stop", call_format="llama_json", **given).verdict == "correct"
    try:
        score_text("[f(a=1)]", expected, finish_reason="stop", **given)
    except DataError as error:
        print(error)
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == [
        f"calls in {language}: tree_sitter is not installed, and without it their syntax cannot be read; "
        "install the extra: pip install 'distill[java-js]'"
        for language in LANGUAGES
    ]


def _compare(records: Sequence[Record], reference: Reference, *, num_cases: int, seed: int) -> None:
    random = Random(seed)
    as_text: Counter[str] = Counter()
    as_arguments: Counter[str] = Counter()
    for _ in range(num_cases):
        record = random.choice(records)
        function, (name, options) = record.functions[0], next(iter(record.answer[0].items()))
        arguments = gold_arguments(function, options, record.language, random)
        if random.random() < 0.6:
            arguments = mutate_arguments(arguments, function, record.language, random)
        if random.random() < 0.3:
            function, options = mutate_gold(function, options, record.language, random)
        judged = Record(record.id, record.bfcl_category, [function, *record.functions], [{name: options}])
        text = write_call(name, arguments)
        text = mutate_text(text, random) if random.random() < 0.3 else text
        category: Category = random.choice(("simple", "simple", "multiple", "parallel"))
        as_text[_score(text, judged, reference, category) or "valid"] += 1
        # Values that come through JSON are source text as it is written, and sometimes no text at all.
        given: dict[str, Any] = {
            key: random.choice((5, None, [1])) if random.random() < 0.02 else random.choice((value, _unquoted(value)))
            for key, value in arguments
        }
        call = ToolCall(random.choice((name, name, name, name, name + "s")), given)
        as_arguments[_match(call, judged, reference, category) or "valid"] += 1
    # The mutations reach what they are for: right and wrong, undecodable and every kind of error, and the bounds hardly ever.
    assert as_text["beyond our bounds"] < num_cases / 50
    assert num_cases / 10 < as_text["valid"] < num_cases / 2, as_text
    assert num_cases / 20 < as_text["ast_decoder:decoder_failed"] < num_cases / 2, as_text
    assert num_cases / 10 < as_arguments["valid"] < num_cases / 2, as_arguments
    assert len(as_text) >= 14, as_text
    assert len(as_arguments) >= 14, as_arguments


def _score(text: str, record: Record, reference: Reference, category: Category = "simple") -> str | None:
    """BFCL's error of a text, which must be ours; the decoded calls must be equal, too."""
    language = record.language
    assert language != "python"
    decoded: list[dict[str, Any]] | ParseError
    try:
        decoded = [{call.name: call.arguments} for call in DECODE[language](text)]
    except ParseError as error:
        if error.reason in OUR_BOUNDS:
            return "beyond our bounds"
        decoded = error
    wanted = reference.score(text, record.functions, record.answer, category, language)
    if isinstance(decoded, ParseError):
        shape = "decoder_wrong_output_format" if decoded.reason == "wrong_shape" else "decoder_failed"
        assert wanted == f"ast_decoder:{shape}", (text, decoded)
        assert 0 <= decoded.position <= len(text)
    else:
        assert repr(decoded) == repr(reference.decode_in(language, text)), text
    found = score_text(
        text,
        as_expected(record.answer),
        tools=as_tools(record.functions),
        category=category,
        finish_reason="stop",
        language=language,
    )
    assert found.bfcl_error == wanted, (record.id, text, found, wanted)
    assert (found.verdict == "correct") == (wanted is None)
    return wanted


def _match(call: ToolCall, record: Record, reference: Reference, category: Category = "simple") -> str | None:
    """BFCL's error of a decoded call, which must be ours."""
    calls = [{call.name: call.arguments}]
    wanted = reference.score_decoded(calls, record.functions, record.answer, category, record.language)
    found = match(
        [call],
        as_expected(record.answer),
        tools=as_tools(record.functions),
        category=category,
        language=record.language,
    )
    assert found.bfcl_error == wanted, (record.id, call, found, wanted)
    assert (found.verdict == "correct") == (wanted is None)
    return wanted


def _unquoted(value: str) -> str:
    return value[1:-1] if value[:1] == '"' == value[-1:] else value


def _outcome(convert: Callable[..., Any], *arguments: Any) -> str | None:
    """The value as Python prints it; None where the conversion raises."""
    try:
        return repr(convert(*arguments))
    except Exception:
        return None
