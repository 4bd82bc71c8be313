"""The packages import only downwards, and the language packages stay out."""

import ast
import os
import pathlib
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PACKAGE = "official_maskrcnn"

# What each part may import; the cellar lies below all of them, and errors at its bottom.
_ALLOWED = {
    "configs": set(),
    "ops": set(),
    "modeling": {"ops", "configs"},
    "data": {"ops", "configs"},
    "evaluation": {"data", "ops", "configs"},
    "tasks": {"modeling", "data", "evaluation", "ops", "configs"},
    "inference": {"tasks", "modeling", "data", "evaluation", "ops", "configs"},
    "training": {"tasks", "modeling", "data", "evaluation", "ops", "configs"},
    "cli": {
        *("training", "inference", "tasks", "modeling", "data", "evaluation", "ops", "configs"),
    },
}
_CELLAR = {"errors", "files", "model_garden", "precision"}
_FORBIDDEN = {"tensorflow_text", "tensorflow_datasets", "sentencepiece", "keras"}


def _imports(path: pathlib.Path, module: str) -> set[str]:
    """Absolute names of all that a file imports, wherever in it the statement stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def _modules() -> dict[str, set[str]]:
    modules = {}
    for path in sorted((_ROOT / _PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = _imports(path, name)
    return modules


def _internal(modules: dict[str, set[str]], imported: str) -> str | None:
    """The module of the package that an imported name is, or is defined in."""
    if imported in modules:
        return imported
    parent = imported.rpartition(".")[0]
    return parent if parent in modules else None


def test_parts_import_only_what_lies_below_them():
    modules = _modules()
    wrong = []
    for module, imports in modules.items():
        part = module.partition(".")[2].split(".")[0]
        if part not in _ALLOWED:  # the package's own __init__, __main__ and the cellar
            continue
        for imported in sorted(imports):
            target = _internal(modules, imported)
            if target is None or target == _PACKAGE:
                continue
            target_part = target.split(".")[1]
            if target_part not in _ALLOWED[part] | _CELLAR | {part}:
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_the_cellar_imports_nothing_of_the_package_but_errors():
    modules = _modules()
    bottom = f"{_PACKAGE}.errors"
    for name in _CELLAR:
        found = {i for i in modules[f"{_PACKAGE}.{name}"] if i.startswith(_PACKAGE)}
        assert name != "errors" or not found
        assert all(_internal(modules, imported) == bottom for imported in found)


def test_every_part_has_its_place():
    parts = {path.parent.name for path in (_ROOT / _PACKAGE).glob("*/__init__.py")}
    assert parts and parts <= set(_ALLOWED)


def test_no_circles():
    modules = _modules()
    graph = {
        name: {_internal(modules, i) for i in imports} - {None, name, _PACKAGE}
        for name, imports in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert done == set(modules)


def test_no_language_package_and_no_keras_3():
    files = {f"{_PACKAGE}.train_py": _imports(_ROOT / "train.py", "train"), **_modules()}
    for module, imports in files.items():
        used = {imported.split(".")[0] for imported in imports} & _FORBIDDEN
        assert not used, f"{module} imports {used}"


def _loaded_after(statement: str) -> set[str]:
    watched = ("tensorflow", "tensorflow_text", "tensorflow_datasets", "sentencepiece", "keras")
    code = f"import sys; {statement}; print(*[m for m in {watched!r} if m in sys.modules])"
    environment = {name: v for name, v in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_the_package_is_light():
    assert _loaded_after("import official_maskrcnn; official_maskrcnn.UserError") == set()


def test_commands_leave_language_packages_and_keras_3_out():
    modules = ("cli.main", "cli.jobs", "cli.predict", "training.run", "tasks")
    load = "; ".join(f"import {_PACKAGE}.{module}" for module in modules)
    assert _loaded_after(load) == {"tensorflow"}
