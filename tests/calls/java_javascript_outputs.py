"""A BFCL record in Java or JavaScript -> what a model would write for it, right or seeded wrong, as text and as decoded arguments."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from distill.calls.match import Language

Arguments = list[tuple[str, str]]
"""A call's arguments in order, each value as source text; a name may stand twice."""

JAVA_VALUES = (
    "true", "false", "null", "5", "-5", "- 5", "+5", "5L", "-5l", "5L\n", "05", "1_000", "0x1F", "٣", "5.0", "5f", "5.0F", "-1e3", "1e3f", "1.e3", ".5",
    "5.0d", "1e999", "NaN", "inf", "'a'", "'\\n'", "''", '""', '"a b"', '"A-b"', '"it\'s"', '"é"', '"a, b"', '"a;b"', '"\\u0041"', '"ß"',
    "x", "a.b", "a.b.C", "C.class", "int.class", "this", "f()", "f(1)", "o.f(g(x))", "a.b().c()", "(int) 5", "(x)", "a ? b : c", "1 + 2", "!x",
    "x -> x", "A::b", "new Object()", "new int[5]", "new int[]{}", "new int[] { 1 , 2 }", "new int[]{1,,2}", "new int[][]{{1}, {2}}", 'new String[]{"a"}',
    'new String[]{"a", "b"}', "new char[]{'a', 'b'}", "new Object[]{1, true, \"a\"}", "new Point[]{new Point(1, 2)}", "new Point(1, 2)", "{1, 2}",
    "new boolean[]{true,false}", "new long[]{1L, 2L}", "new double[]{1.0, 2}", "new  float[]\n{1f\n,2f}", "new int[]{1, /* c */ 2}", "new a.B[]{c}",
    "new ArrayList<>()", "new ArrayList<String>()", "new ArrayList<>(Arrays.asList(1, 2))", 'new ArrayList<String>(Arrays.asList("a", "b"))',
    "new ArrayList<>(Arrays.asList())", "new ArrayList<>(Arrays.asList( ))", "new ArrayList<List<String>>(Arrays.asList(1))", "Arrays.asList(1, 2)",
    "new ArrayList<>(){{}}", "new ArrayList<>(){{ }}", "new ArrayList<Integer>() {{ add(1); add(2); }}", 'new ArrayList<>(){{add("a");\nadd("b");}}',
    "new ArrayList<>() {{ add()); }}", "new ArrayList<>() {{ add(f(1)); }}", "new ArrayList<>(Arrays.asList('a', f(2), 3))", "new ArrayList(List.of(1))",
    "new HashMap<>()", "new HashMap<>() {}", "new HashMap<>() {{}}", "new HashMap<String, Object>()", "new HashMap<>(){ { } }", "Map.of(\"a\", 1)",
    'new HashMap<String, Object>() {{ put("limit", 50); put("schemaFilter", "public"); }}', 'new HashMap<>(){{put("a", 1L);put("b",\n2f);}}',
    'new HashMap<>() {{ put("a", b); put("a", true); }}', 'new HashMap<>() {{ put("a,b", f(1)); put("c"); put("d",) }}', 'new HashMap<>()\n{{ put("x", 1e5)',
    'new HashMap<List<A>, B>() {{ put("k", "v"', "new HashMap<String,\nInteger>()", "(a) -> { return 1; }", "new A() { int x = 1; }", "@A", "a = b",
    '"""\ntext"""', "a[0]", "a++", "-x", "(String) null", "new int[3]{1}", "List.<A>of()", "switch (x) { default -> 1; }",
)  # fmt: skip
JAVASCRIPT_VALUES = (
    "true", "false", "null", "undefined", "5", "-5", "- 5", "+5", "5n", "-5n", "5n\n", "05", "1_000", "0x1F", "٣", "5.0", "-0.5", ".5", "5.", "1e3", "NaN",
    "Infinity", "'a'", '"a"', "'a\"", '""', "''", "`a`", "`a${b}c`", '"a b"', '"A-b"', '"it\'s"', "'it\\'s'", '"é"', '"a, b"', '"a: b"', "/re/g", "'ß'",
    "x", "a.b", "a[0]", "f()", "f(1)", "a.b(c)(d)", "new Date()", "x => x", "(a, b) => a", "() => { return 1; }", "function () {}", "async () => {}",
    "class {}", "a ? b : c", "1 + 2", "!x", "typeof x", "a ?? b", "a?.b", "...x", "await x", "(x)", "a = b", "a += 1", "<b>c</b>",
    "[]", "[ ]", "[1]", "[1, 2]", "[1.0, 2]", "[1.5,2.5]", "['a']", "['a', 'b']", '["a", "b"]', "[a, b]", "[true, false]", "[1n, 2n]", "[1,,2]", "[1, 2,]",
    "[[1, 2], [3, 4]]", "[ [ 1, 2 ], [ 3 ] ]", "[[1], 2]", "[1, [2]]", "[[]]", "[[], []]", "[[1]]", "[[[1]]]", "[[[1], [2]], [[3]]]", "[[1\n], [2]]",
    "[\n[1],\n[2]\n]", "[['a]', 'b'], ['c']]", "[[1], [2]", "[[1] , x, [2]]", "[{}, {}]", "[{a: 1}, {b: 2}]", "['a', {b: 'c, d'}]", "['a' , ]", "[1\n,2]",
    "new Array()", "new Array(1, 2)", "new Array('a', 'b')", "new Array([1, 2], [3])", "new Array( [1] )", "new  Array(f(1), 2)", "new Arrays(1)",
    "{}", "{ }", "{a: 1}", "{'a': 1, \"b\": 'c'}", "{a: 'b', c: [1, 2]}", "{a: [1, 2], b: 3}", "{a: {b: 1}}", "{a: {b: 1}, c: 2}", "{a: b, c}", "{a}",
    "{a: 'x, y: z'}", "{a: 'x, y'}", "{a: 'b:c'}", "{a: 1, : 2}", "{: 1}", "{a : 1 , b : 2 }", "{\na: 1\n}", "{a: true, b: null}", "{a: '5', b: 5.0}",
    "{'a': \"it's\"}", "{...a}", "{a() {}}", "{[a]: 1}", "{a: () => 1}", "{a: 1,, b: 2}", "{a:1,b:2,}", "{a: ['x', 'y'], b: ['z']}", "{a: 1, \xa0:2}",
)  # fmt: skip
TOKENS = (
    "[", "]", "(", ")", "{", "}", "[[", "]]", "{{", "}}", "<", ">", ",", "=", "'", '"', "`", ".", ":", ";", " ", "  ", "\n", "\t", "\r\n", "-", "+", "\\", "/",
    "//", "/*", "*/", "#", "@", "$", "0", "7", "L", "f", "n", "e", "a", "_", "é", "😀", "\x00", "\u2028", "\x1c", "\x85", "new ", "new Array(", "add(", 'put("', '", ',
    "Arrays.asList(", "new ArrayList<", "new HashMap<", "() {", "=>", "?.", "...", "true", "class ", "import x;", "return ", "if (x) ", "function ",
)  # fmt: skip
AROUND = (
    "[{}", "{}]", "{}", "```{}```", "```java\n{}```", "```javascript\n{}\n```", " \n{}\n ", "\t{}", "Sure: {}", "{} done", "{}, {}", "{}\n{}", "[{}]", "({})", "{};",
    "{};{}", "[[{}]]", "{}[0]", "x = {}", "await {}", "// {}", "/* c */ {}", "return {}", "new {}", "class A { void f() { {}; } }", "() => {}", "{}.then(x)", "'{}'",
    "", "[]", "[", "]", "{{}}", "x", "I cannot do that.", "f", "f()", "a.f(x)", "f(x, y)", "f(true)", "f?.({})", "f`x`", "<|python_tag|>{}", "\ud800{}",
)  # fmt: skip
JAVA_TYPES = (
    "byte", "short", "integer", "float", "double", "long", "boolean", "char", "Array", "ArrayList", "Set", "HashMap", "Hashtable", "Queue", "Stack", "String", "any",
    "string", "array", "tuple",
)  # fmt: skip
JAVASCRIPT_TYPES = ("String", "integer", "float", "Bigint", "Boolean", "dict", "array", "any", "string", "tuple")

_CODE = re.compile(r"[A-Za-z_][\w.]*(::\w+|\(.*\))?|new .*\)", re.DOTALL)


def write_call(name: str, arguments: Arguments) -> str:
    return f"[{name}({', '.join(f'{key}={value}' for key, value in arguments)})]"


def gold_arguments(
    function: dict[str, Any], options: dict[str, list[Any]], language: Language, random: Random | None = None
) -> Arguments:
    """Arguments the answer accepts: its first options, or, with `random`, any of them, omitting what may be omitted."""
    arguments = []
    for parameter, allowed in options.items():
        schema = function["parameters"]["properties"].get(parameter, {"type": "any"})
        given = [option for option in allowed if option != ""]
        required = parameter in function["parameters"]["required"]
        if not given or ("" in allowed and not required and (random is None or random.random() < 0.5)):
            continue
        option = given[0] if random is None else random.choice(given)
        arguments.append((parameter, write_value(option, schema, language, random)))
    if random is not None and random.random() < 0.2:
        random.shuffle(arguments)
    return arguments


def write_value(option: Any, schema: dict[str, Any], language: Language, random: Random | None = None) -> str:
    """One option as source text: what is no text where text is declared, and text where none is, is written as code."""
    declared = schema["type"]
    if isinstance(option, str):
        quoted = declared in ("String", "string") or not _CODE.fullmatch(option)
        return f'"{option}"' if quoted or (random is not None and random.random() < 0.1) else option
    write = _java_value if language == "java" else _javascript_value
    return write(option, declared, schema.get("items", {}).get("type"), random)


def mutate_arguments(arguments: Arguments, function: dict[str, Any], language: Language, random: Random) -> Arguments:
    arguments = list(arguments)
    values = JAVA_VALUES if language == "java" else JAVASCRIPT_VALUES
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        kind = random.randrange(8)
        if kind == 0 and arguments:
            arguments.pop(random.randrange(len(arguments)))
        elif kind == 1:
            names = [*function["parameters"]["properties"], "x", "X", "é"]
            arguments.insert(random.randrange(len(arguments) + 1), (random.choice(names), random.choice(values)))
        elif arguments:
            place = random.randrange(len(arguments))
            key, value = arguments[place]
            arguments[place] = (key, random.choice(values) if kind < 5 else mutate_source(value, random))
    return arguments


def mutate_source(text: str, random: Random) -> str:
    """Characters and tokens lost, added, doubled and moved."""
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(text) + 1)
        end = place + random.randrange(1, 12)
        text = random.choice(
            (
                text[:place] + text[place + 1 :],
                text[:place] + random.choice(TOKENS) + text[place:],
                text[:place] + random.choice(TOKENS) + text[end:],
                text[:end] + text[place:],
                text[:place] + text[end:] + text[place:end],
                text.replace(random.choice(" ,;\"'()[]{}="), random.choice(TOKENS), random.choice((1, -1))),
                text[:place],
            )
        )
    return text[:2_000]


def mutate_text(text: str, random: Random) -> str:
    """Raw text: the source mutated, or something around it."""
    if random.random() < 0.3:
        return random.choice(AROUND).replace("{}", text)
    return mutate_source(text, random)


def mutate_gold(
    function: dict[str, Any], options: dict[str, list[Any]], language: Language, random: Random
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Other types, requirements and options than the record has; an odd dataset must be judged alike, too."""
    types = JAVA_TYPES if language == "java" else JAVASCRIPT_TYPES
    properties = {name: dict(schema) for name, schema in function["parameters"]["properties"].items()}
    function = {**function, "parameters": {**function["parameters"], "properties": properties}}
    name = random.choice(list(options))
    kind = random.randrange(5)
    if kind < 3 and name in properties:
        properties[name]["type"] = random.choice(types)
        if random.random() < 0.9:
            properties[name]["items"] = {"type": random.choice(types)}
    elif kind == 3:
        function["parameters"]["required"] = [key for key in properties if random.random() < 0.5]
    if kind > 1:
        value = random.choice(
            ("", "a", 5, 5.0, True, None, [], [1, 2], ["a"], [["a"]], [1.5], {}, {"a": [1]}, [{"a": [1]}])
        )
        options = {**options, name: random.choice(([value], [value, *options[name]], [*options[name], value], []))}
    return function, options


def _java_value(value: Any, declared: str, item_type: str | None, random: Random | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        items = [_java_value(item, item_type or "any", None, random) for item in value]
        if declared == "Array":
            element = {"integer": "int", "long": "long", "double": "double", "char": "char"}.get(
                item_type or "", "String"
            )
            return f"new {element}[]{{{', '.join(items)}}}"
        if random is not None and random.random() < 0.5:
            return f"new ArrayList<>() {{{{ {' '.join(f'add({item});' for item in items)} }}}}"
        return f"new ArrayList<{'String' if item_type == 'String' else ''}>(Arrays.asList({', '.join(items)}))"
    if isinstance(value, dict):
        pairs = (f'put("{key}", {_java_value(item, "any", None, random)});' for key, item in _chosen(value, random))
        return f"new HashMap<String, Object>() {{{{ {' '.join(pairs)} }}}}"
    if isinstance(value, str):
        return f'"{value}"'
    return {"long": f"{value}L", "float": f"{value}f"}.get(declared, str(value))


def _javascript_value(value: Any, declared: str, item_type: str | None, random: Random | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        items = ", ".join(_javascript_value(item, item_type or "any", None, random) for item in value)
        return f"new Array({items})" if random is not None and random.random() < 0.2 else f"[{items}]"
    if isinstance(value, dict):
        pairs = (f"{key}: {_javascript_value(item, 'any', None, random)}" for key, item in _chosen(value, random))
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, str):
        return f'"{value}"' if random is None or random.random() < 0.7 else f"'{value}'"
    return {"float": repr(float(value)), "Bigint": f"{value}n"}.get(declared, str(value))


def _chosen(option: dict[str, Any], random: Random | None) -> list[tuple[str, Any]]:
    """A dict's keys, each with one of its options; an answer may also hold a bare value."""
    chosen = []
    for key, allowed in option.items():
        given = allowed if isinstance(allowed, list) and allowed else [allowed]
        chosen.append((key, given[0] if random is None else random.choice(given)))
    return chosen
