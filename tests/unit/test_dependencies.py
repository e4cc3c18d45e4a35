"""What pyproject.toml asks for is what the package uses."""

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def used_modules() -> set[str]:
    """Top names of what the package imports, or asks for by a name in a string."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Constant) and node.value == "ziglang":
                found.add("ziglang")  # its compiler is run, nothing of it is imported
    return found


def test_dependencies_of_the_package_are_each_used_by_it() -> None:
    """Broken, every installation carries code that nothing runs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    modules: dict[str, set[str]] = {}
    for module, names in importlib.metadata.packages_distributions().items():
        for name in names:
            modules.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(module)
    asked = [re.split(r"[<>=]", line)[0] for line in project["dependencies"]]
    used = used_modules()
    assert [name for name in asked if not modules[name] & used] == []
