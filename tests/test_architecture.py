"""Imports point down through the layers of the design, stages do not know each other, and what must be light loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "distill"
LAYERS = {
    "distill.records": 0, "distill.config": 0, "distill.run_dir": 0,
    "distill.calls": 1, "distill.chat": 1, "distill.instructions": 1, "distill.json_schema": 1, "distill.reading": 1, "distill.native_tools": 1,
    "distill.sources": 2, "distill.engines": 2, "distill.augmentation": 2, "distill.training": 2, "distill.evaluation": 2,
    "distill.embedded": 2, "distill.publish": 2,
    "distill.stages": 3, "distill.scoring": 3, "distill.validation": 3, "distill.export": 3, "distill.export_formats": 3,
    "distill.cli": 4, "distill.embedded.demo": 4,
}  # fmt: skip
PURE = ("distill.calls",)
LIGHT = (
    "distill.records",
    "distill.config",
    "distill.run_dir",
    "distill.cli",
    "distill.scoring",
    "distill.export",
    "distill.export_formats",
    "distill.chat",
    "distill.instructions.jobs",
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if module_name(path) != "distill"}


def layer_of(module: str) -> int:
    """The layer of the longest prefix that has one. Raises ValueError for a module that stands in no layer."""
    return LAYERS[max((name for name in LAYERS if f"{module}.".startswith(f"{name}.")), key=len)]


def imports_of(module: str) -> Iterator[str]:
    """Absolute names of what a module imports, also inside functions and for type checkers only."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            name = node.module or ""
            yield from {f"{name}.{alias.name}" if f"{name}.{alias.name}" in MODULES else name for alias in node.names}


def own_imports(module: str) -> list[str]:
    return [name for name in imports_of(module) if name.split(".")[0] == "distill"]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    upward = [name for name in own_imports(module) if layer_of(name) > layer_of(module)]
    assert upward == []


def test_a_stage_imports_no_other_stage() -> None:
    stages = [module for module in MODULES if module.startswith("distill.stages.")]
    assert {
        module: [name for name in own_imports(module) if name.startswith("distill.stages")] for module in stages
    } == {module: [] for module in stages}


def test_the_language_of_calls_needs_the_standard_library_and_the_records_only() -> None:
    for module in MODULES:
        if module.startswith(PURE):
            foreign = {name for name in imports_of(module) if name.split(".")[0] not in sys.stdlib_module_names}
            assert all(name == "distill.records" or name.startswith(PURE) for name in foreign), (module, foreign)


def test_what_must_be_light_loads_no_torch() -> None:
    light = [*LIGHT, *(module for module in MODULES if module.startswith("distill.calls"))]
    code = f"import sys, {', '.join(light)}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]"


def test_who_asks_a_server_waits_for_no_torch() -> None:
    code = """
import sys, distill.stages.annotate
from distill.engines.tokenizer import load_tokenizer
load_tokenizer("embedded:teacher")
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "False"
