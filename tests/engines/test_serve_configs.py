"""Every file in `configs/serve/` is read by vLLM's own argument parser, and says what this project needs of a server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.vllm_server import VLLM_ENVIRONMENT

CONFIGS = sorted((Path(__file__).parents[2] / "configs/serve").glob("*.yaml"))
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

parsed = {}
for path in sys.argv[1:]:
    parser = make_arg_parser(FlexibleArgumentParser())
    flags = {flag for action in parser._actions for flag in action.option_strings}
    try:
        unknown = [flag for flag in parser.load_config_file(path) if flag.startswith("--") and flag not in flags]
        arguments = parser.parse_args(["--config", path])
        validate_parsed_serve_args(arguments)
        if arguments.tool_call_parser not in (None, *ToolParserManager.list_registered()):
            sys.exit("the parser's name is looked up when the server starts")
        parsed[path] = {name: value for name, value in vars(arguments).items() if isinstance(value, (str, int, float, dict))}
        parsed[path]["unknown"] = unknown
    except SystemExit:
        parsed[path] = None
print(json.dumps(parsed))
"""


def parse_all(*paths: Path) -> dict[Path, Any]:
    """What vLLM makes of each file: None where it refuses; `unknown` are flags that it takes only as abbreviations."""
    if not (VLLM_ENVIRONMENT / ".ready").exists():
        pytest.skip("no vLLM in .venv-vllm; `make vllm` installs it, or says why there is none for this machine")
    command = [str(VLLM_ENVIRONMENT / "bin/python"), "-c", PARSE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return {Path(path): parsed for path, parsed in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vllm_parses_every_shipped_config_and_refuses_a_misspelled_one(tmp_path: Path) -> None:
    misspelled = tmp_path / "misspelled.yaml"
    misspelled.write_text(CONFIGS[0].read_text(encoding="utf-8") + "max-modle-len: 16384\n", encoding="utf-8")
    no_parser = tmp_path / "no-parser.yaml"
    no_parser.write_text("model: a/b\nenable-auto-tool-choice: true\ntool-call-parser: hermess\n", encoding="utf-8")

    parsed = parse_all(*CONFIGS, misspelled, no_parser)

    assert parsed.pop(misspelled) is None
    assert parsed.pop(no_parser) is None
    assert len(parsed) == len(CONFIGS) >= 10
    for path, arguments in parsed.items():
        assert arguments is not None, f"vLLM refuses {path}"
        assert arguments["unknown"] == [], path
        for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            parsed_value = arguments[name.replace("-", "_")]
            assert parsed_value == (2**30 if value == "1G" else value), (path, name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_has_what_annotation_needs(path: Path) -> None:
    flags = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert flags["max-logprobs"] > 20, "token-level distillation asks for more than vLLM's 20"
    assert flags["enable-prefix-caching"] is True
    assert flags["enable-prompt-tokens-details"] is True, "cached tokens are told and priced"
    assert flags["max-model-len"] >= 8192
    assert not {"host", "port", "api-key", "served-model-name", "trust-remote-code"} & set(flags)
    assert ("tool-call-parser" in flags) == (flags.get("enable-auto-tool-choice") is True)
