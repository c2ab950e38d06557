"""Imports run along the architecture's arrows only, imports inside functions included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"configs": set(), "training": {"configs"}, "ppo": {"training", "configs"}, "runner": {"configs"}}
CONFIGS_MAY_USE = {"pydantic", "yaml"}
RUNNER_MUST_NOT_USE = {"torch", "numpy", "pandas", "numba", "gymnasium", "stable_baselines3"}
PROBES = {"runner/preflight/gpu_probe.py"}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def imports_of(package: str) -> list[tuple[str, str]]:
    return [
        (path.relative_to(ROOT).as_posix(), name)
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in sorted(imported_packages(path))
    ]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_its_layer_allows(package):
    forbidden = MAY_IMPORT.keys() - MAY_IMPORT[package] - {package}
    assert not [(path, name) for path, name in imports_of(package) if name in forbidden]


def test_configs_needs_only_pydantic_and_yaml_beside_the_standard_library():
    import sys

    allowed = CONFIGS_MAY_USE | set(sys.stdlib_module_names) | {"configs"}
    assert not [(path, name) for path, name in imports_of("configs") if name not in allowed]


def test_the_runner_never_imports_a_numeric_library():
    assert not [
        (path, name) for path, name in imports_of("runner") if name in RUNNER_MUST_NOT_USE and path not in PROBES
    ]


def test_every_package_is_listed_in_pyproject():
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert present == listed
