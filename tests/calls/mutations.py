"""A BFCL record -> a seeded, mostly slightly wrong model output for it, and slightly wrong gold data to check it against."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

Call = tuple[str, list[tuple[str, Any]]]
"""A call's name and its arguments in order; a name may stand twice."""

FRAGMENTS = (
    "true", "false", "null", "None", "True", "...", "+5", "-5", "not True", "~3", "- -3", "-x", "a.b", "g()", "g(1)", "g(h(2), 'x')",
    "g(x=1)", "g(1, x=[2])", "a[0]", "a['k'][1:2]", "1+2*3", "7//2", "2**-1", "2**10", "7%3", "1/0", "1/3", "(1+2)*3", "5-3j", "1<<3",
    "6&3", "'a'+'b'", "[1]+[2]", "(1,)+(2,)", "'a'*2", "'%s'%1", "x+1", "1+g()", "-(1+2)", "1-(-2)", "1+(not 2)", "0x10", "1_000", "007",
    "1e999", "1e5", "1j", "b'x'", "r'\\d'", "'\\d'", "'a' 'b'", "f'{x}'", "1 if 2 else 3", "1<2", "1 and 2", "lambda: 1", "[x for x in y]",
    "{1, 2}", "{}", "()", "(1)", "(1,)", "{1: 2}", "{(1,): [2]}", "{[1]: 2}", "{**a}", "{a: b}", "await x", "(yield)", "(x := 1)", "*a",
    "'''x'''", '"""x"""', "'it\\'s'", '"\\u00e9"', "'\\N{BULLET}'", "'\\x1'", "-'x'", "é", "ﬁ", "10**400", "[[['x']]]", "[{'a': [1]}]",
)  # fmt: skip
TOKENS = (
    "[", "]", "(", ")", "{", "}", ",", "=", "'", '"', ".", ":", ";", " ", "\n", "\t", "`", "```", "*", "**", "-", "+", "#", "\\", "@", "$",
    "0", "7", "a", "_", "é", "\x00", "\u2028", "\r", "python", "<|python_tag|>", "Sure! ", "lambda ", " if ", " for x in y", "1", "==",
)  # fmt: skip
AROUND = (
    "[{}", "{}]", "```{}```", "```python\n{}```", "'{}'", " \n{}\n ", "\t{}", "Sure: {}", "{} done", "{}, {}", "{}\n{}", "[{}]", "({})",
    "{};{}", "[{}][0]", "{}()", "{} # ]", "", "[]", "{{}}", "x",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 1.0, 0.5, 3.0, "", " ", "-", "a", "A", "1", "1.0", "True", [], [1], [1.0], ["a"], [["a"]], [None],
    (1, 2), (), {}, {"a": 1}, {"a": "b"}, {"a": ["b"]}, [{}], [{"a": 1}], 10**400, 1e300, float("inf"), b"x", 2j, "it's", 'say "x"', "a\tb",
)  # fmt: skip
TYPES = ("string", "integer", "float", "boolean", "array", "tuple", "dict", "any", "blob")


def gold_calls(
    functions: list[dict[str, Any]], answer: list[dict[str, Any]], random: Random | None = None
) -> list[Call]:
    """Calls the answer accepts: its first options, or, with `random`, any of them in any order, omitting what may be omitted."""
    calls = []
    for expected in answer:
        for name, options in expected.items():
            function = _find(functions, name)
            required = function["parameters"]["required"]
            arguments = []
            for parameter, allowed in options.items():
                given = [option for option in allowed if option != ""] or list(allowed)
                omit = "" in allowed and parameter not in required
                if not given or (omit and (random is None or random.random() < 0.5)):
                    continue
                option = given[0] if random is None else random.choice(given)
                schema = function["parameters"]["properties"].get(parameter, {})
                arguments.append((parameter, _value(option, schema, random)))
            if random is not None and random.random() < 0.2:
                random.shuffle(arguments)
            calls.append((name, arguments))
    return calls


def write_calls(calls: list[Call]) -> str:
    """As a model would write them: Python's own literals."""
    return (
        "["
        + ", ".join(f"{name}({', '.join(f'{key}={value!r}' for key, value in items)})" for name, items in calls)
        + "]"
    )


def write_json(calls: list[Call], call_format: str, random: Random) -> str:
    """As a model asked for JSON would write them, in one of the ways that models do."""
    key = "parameters" if call_format == "llama_json" else "arguments"
    objects = [{"name": name, key: dict(arguments)} for name, arguments in calls]
    texts = [json.dumps(item, default=repr) for item in objects]
    if call_format == "hermes":
        return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)
    tag = random.choice(("", "<|python_tag|>"))
    return tag + random.choice(("; ".join(texts), repr(objects), ", ".join(texts), texts[0] if texts else ""))


def mutate_calls(calls: list[Call], functions: list[dict[str, Any]], random: Random) -> list[Call]:
    calls = copy.deepcopy(calls)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        kind = random.randrange(10)
        if kind == 0 or not calls:
            _mutate_list(calls, functions, random)
            continue
        index = random.randrange(len(calls))
        name, arguments = calls[index]
        if kind == 1:
            others = [function["name"] for function in functions]
            name = random.choice((name.replace(".", "_"), name.upper(), name.split(".")[-1], name + "s", *others))
        elif kind == 2 and arguments:
            arguments.pop(random.randrange(len(arguments)))
        elif kind == 3:
            properties = [key for function in functions for key in function["parameters"]["properties"]] or ["x"]
            arguments.insert(random.randrange(len(arguments) + 1), (random.choice(properties), random.choice(VALUES)))
        elif kind == 4 and arguments:
            key, value = arguments[random.randrange(len(arguments))]
            arguments.append((random.choice((key, key + "_", key.lower())), value))
        elif arguments:
            place = random.randrange(len(arguments))
            key, value = arguments[place]
            arguments[place] = (key, mutate_value(value, random))
        calls[index] = (name, arguments)
    return calls


def mutate_value(value: Any, random: Random) -> Any:
    kind = random.randrange(6)
    if kind == 0:
        return random.choice(VALUES)
    if kind == 1:
        return random.choice(([value], (value,), {"a": value}, str(value), [value, value]))
    if isinstance(value, bool):
        return random.choice((not value, int(value), str(value), str(value).lower()))
    if isinstance(value, int | float) and abs(value) < 1e15:
        return random.choice((value + 1, -value, float(value), int(value), bool(value), str(value), value + 0.5))
    if isinstance(value, str):
        return _mutate_string(value, random)
    if isinstance(value, list | tuple):
        return _mutate_items(list(value), random)
    if isinstance(value, dict):
        return _mutate_dict(dict(value), random)
    return random.choice(VALUES)


def mutate_text(text: str, random: Random) -> str:
    """Raw text: characters and tokens lost, added and moved, expressions in place of values, text around the calls."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        kind = random.randrange(9)
        place = random.randrange(len(text) + 1)
        if kind == 0:
            text = text[:place] + text[place + 1 :]
        elif kind == 1:
            text = text[:place] + random.choice(TOKENS) + text[place:]
        elif kind == 2:
            text = text[:place] + random.choice(TOKENS) + text[place + random.randrange(1, 4) :]
        elif kind == 3:
            text = text[:place]
        elif kind == 4:
            text = random.choice(AROUND).replace("{}", text)
        else:
            text = _replace_value(text, random)
    return text


def mutate_gold(
    functions: list[dict[str, Any]], answer: list[dict[str, Any]], random: Random
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Other options, types and requirements than the record has; an odd dataset must be judged alike, too."""
    functions, answer = copy.deepcopy(functions), copy.deepcopy(answer)
    options = random.choice([options for expected in answer for options in expected.values()])
    properties = [property for function in functions for property in function["parameters"]["properties"].values()]
    kind = random.randrange(6)
    if kind == 0 and properties:
        property = random.choice(properties)
        property["type"] = random.choice(TYPES)
        if property["type"] in ("array", "tuple"):
            property["items"] = {"type": random.choice(TYPES)}
    elif kind == 1 and options:
        options[random.choice(list(options))].insert(0, random.choice(VALUES))
    elif kind == 2 and options:
        key = random.choice(list(options))
        options[key] = [random.choice(VALUES) for _ in range(random.randrange(3))]
    elif kind == 3 and options:
        key = random.choice(list(options))
        options[key] = [mutate_value(option, random) for option in options[key]]
    elif kind == 4 and options:
        options.pop(random.choice(list(options)))
    else:
        function = random.choice(functions)
        function["parameters"]["required"] = [
            key for key in function["parameters"]["properties"] if random.random() < 0.5
        ]
    return functions, answer


def _find(functions: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(function for function in functions if function["name"] == name)


def _value(option: Any, schema: dict[str, Any], random: Random | None) -> Any:
    """An option as a value: BFCL's dicts hold, for each key, a list of options again."""
    if schema.get("type") == "dict" and isinstance(option, dict):
        return _dict_value(option, random)
    if schema.get("items", {}).get("type") == "dict" and isinstance(option, list):
        return [_dict_value(item, random) if isinstance(item, dict) else item for item in option]
    if schema.get("type") == "tuple" and isinstance(option, list) and random is not None and random.random() < 0.5:
        return tuple(option)
    return option


def _dict_value(option: dict[str, Any], random: Random | None) -> dict[str, Any]:
    given = {key: [item for item in items if item != ""] for key, items in option.items() if isinstance(items, list)}
    return {
        key: items[0] if random is None else random.choice(items)
        for key, items in given.items()
        if items and not ("" in option[key] and (random is None or random.random() < 0.5))
    }


def _mutate_list(calls: list[Call], functions: list[dict[str, Any]], random: Random) -> None:
    kind = random.randrange(4)
    if kind == 0 and calls:
        calls.pop(random.randrange(len(calls)))
    elif kind == 1 and calls:
        calls.append(copy.deepcopy(random.choice(calls)))
    elif kind == 2:
        calls.append((random.choice(functions)["name"], []))
    else:
        random.shuffle(calls)


def _mutate_string(text: str, random: Random) -> str:
    place = random.randrange(len(text) + 1)
    changed = (
        text.upper(),
        text.lower(),
        text.replace(" ", ""),
        text.replace(" ", "-"),
        text + ".",
        f" {text}",
        text.replace("'", '"'),
    )
    return random.choice((*changed, text[:place], text[:place] + random.choice(TOKENS[:30]) + text[place:]))


def _mutate_items(items: list[Any], random: Random) -> Any:
    kind = random.randrange(5)
    if kind == 0:
        random.shuffle(items)
    elif kind == 1 and items:
        items.pop(random.randrange(len(items)))
    elif kind == 2:
        items.append(random.choice(VALUES))
    elif kind == 3:
        return tuple(items)
    elif items:
        place = random.randrange(len(items))
        items[place] = mutate_value(items[place], random)
    return items


def _mutate_dict(values: dict[Any, Any], random: Random) -> dict[Any, Any]:
    kind = random.randrange(4)
    if kind == 0 and values:
        values.pop(random.choice(list(values)))
    elif kind == 1:
        values[random.choice(("a", "b", 1, None))] = random.choice(VALUES)
    elif values:
        key = random.choice(list(values))
        values[key] = mutate_value(values[key], random)
    return values


def _replace_value(text: str, random: Random) -> str:
    """Something else, where a value stands after `=` or between brackets and commas."""
    places = [index for index, character in enumerate(text) if character in "=[,("]
    if not places:
        return text + random.choice(FRAGMENTS)
    start = random.choice(places) + 1
    end = min((found for found in (text.find(mark, start) for mark in ",)]") if found >= 0), default=len(text))
    return text[:start] + random.choice(FRAGMENTS) + text[end if random.random() < 0.8 else start :]
