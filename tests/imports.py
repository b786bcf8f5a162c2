"""What the project's modules import, read from their source: imports inside functions count like all others."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of `vla` and `flows`."""
    files = [path for package in ("vla", "flows") for path in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def imported_by(path: Path) -> frozenset[str]:
    """Dotted names that a file imports; `from a import b` counts as `a.b`, which may be a module or a name in `a`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def own_imports(path: Path) -> set[str]:
    """The modules of the project that a file imports, without the packages above them."""
    known = modules()
    found = set()
    for name in imported_by(path):
        module = name if name in known else name.rpartition(".")[0]
        if module in known and module not in ("vla", "flows"):
            found.add(module)
    return found
