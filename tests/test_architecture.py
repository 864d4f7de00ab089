"""The road is one-way: no module knows what comes after it. The order of the module table is checked in test_docs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hero
from hero.registry import NOISES, REWARDS, SELECTORS, UPDATES

PACKAGE = Path(hero.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")

# What the labelling page and quick answers of the command line need.
WITHOUT_TORCH = (
    "hero",
    "hero.cli",
    "hero.config",
    "hero.errors",
    "hero.feedback",
    "hero.methods",
    "hero.registry",
    "hero.run",
    "hero.studio.server",
    "hero.web.process",
    "hero.tasks",
    "hero.types",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported(path: Path, *, at_once: bool) -> set[str]:
    """Modules of `hero` that a file imports: at run time, or only those that importing it imports (`at_once`)."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if at_once and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found & MODULES.keys()


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {name: imported(path, at_once=False) - {name} for name, path in MODULES.items()}
    del graph["hero"]  # gives out names of every module, when first used
    try:
        order = tuple(TopologicalSorter(graph).static_order())
    except CycleError as cycle:
        pytest.fail(f"a circle of imports: {' → '.join(cycle.args[1])}")
    assert set(order) >= set(graph)


def reached_from(start: str) -> set[str]:
    """All modules that importing `start` imports, however far away."""
    reached, ahead = set(), [start]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += imported(MODULES[name], at_once=True)
    return reached


@pytest.mark.parametrize("module", ["hero.objectives.ppo", "hero.transitions.ddim", "hero.transitions.flow"])
def test_losses_and_transitions_know_no_model(module: str) -> None:
    assert {name.split(".")[1] for name in reached_from(module)} == {module.split(".")[1]}


@pytest.mark.parametrize(
    "stage", ["noise", "rollout", "reward", "reward.similarity", "update", "update.ppo", "policies", "run"]
)
def test_no_stage_knows_the_tuner_or_the_store(stage: str) -> None:
    above = {"hero.tuner", "hero.run.state", "hero.feedback.store", "hero.cli", "hero.report"}
    assert not reached_from(f"hero.{stage}") & above


def test_only_interfaces_know_the_tuner() -> None:
    users = {name.split(".")[1] for name, path in MODULES.items() if "hero.tuner" in imported(path, at_once=False)}
    assert users <= {"bench", "cli", "doctor", "feedback", "people"}


def test_the_labelling_page_s_modules_load_no_torch() -> None:
    script = (
        "import importlib, sys\n"
        f"for name in {WITHOUT_TORCH!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'diffusers', 'transformers'} & sys.modules.keys()\n"
        "    assert not heavy, f'{name} loads {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.walk_packages([str(PACKAGE)], "hero.")))
def test_every_module_says_what_it_owns_and_gives_what_it_promises(name: str) -> None:
    if name.endswith("__main__"):
        return
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name} has no docstring"
    module = importlib.import_module(name)
    assert [public for public in getattr(module, "__all__", ()) if not hasattr(module, public)] == []


def test_the_package_gives_its_names_on_first_use() -> None:
    assert all(getattr(hero, name) is not None for name in hero.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Tunr'"):
        _ = hero.Tunr


HOMES = {stage: f"hero.{stage}" for stage in ("noise", "selection", "reward", "update")}
RECIPES = {"hero.registry", "hero.methods"}
"""Where kinds are listed, and where they are put together to methods."""
OTHER_KINDS = ("hero.tinyworld", "hero.feedback.marks")
"""Scenes and marks have kinds of their own."""
DOTTED = re.compile(r"\b(?:noise|selection|reward|update)\.([a-z-]+)\.")


def concrete_names(stage: str) -> set[str]:
    """Classes, their tables and their modules of one stage: what nobody outside its folder should know."""
    registry = {r.stage: r for r in (NOISES, SELECTORS, REWARDS, UPDATES)}[stage]
    names: set[str] = set()
    for choice in registry.values():
        if isinstance(choice.implementation, str):
            module, _, name = choice.implementation.partition(":")
            names |= {name} | ({module} - {f"hero.{stage}"})
        if choice.settings is not None:
            names.add(choice.settings.__name__)
    return names


def mentions(path: Path) -> set[str]:
    """Names that a file uses or imports, and kinds that it compares with or writes down."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name | ast.Attribute):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Compare) and any("kind" in ast.dump(side) for side in (node.left, *node.comparators)):
            found |= {f"kind {c.value}" for c in (node.left, *node.comparators) if isinstance(c, ast.Constant)}
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            named = (v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "kind")
            found |= {f"kind {v.value}" for v in named if isinstance(v, ast.Constant)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {f"kind {kind}" for kind in DOTTED.findall(node.value)}
    return found


@pytest.mark.parametrize("stage", HOMES)
def test_nobody_names_a_concrete_kind_outside_its_folder_and_the_registry(stage: str) -> None:
    registry = {r.stage: r for r in (NOISES, SELECTORS, REWARDS, UPDATES)}[stage]
    banned = concrete_names(stage) | {f"kind {kind}" for kind in registry}
    wrong = {
        name: both
        for name, path in MODULES.items()
        if name not in RECIPES
        and not name.startswith((HOMES[stage], *OTHER_KINDS))
        and (both := mentions(path) & banned)
    }
    assert wrong == {}


# ---------------------------------------------------------------------------------------------- names

ONE_OF_EACH_KIND = {
    "TASK": "hero.tasks.",
    "captions": "hero.tinyworld.scenes.",
    "draw": "hero.tinyworld.scenes.",
    "judge": "hero.tinyworld.judges.",
    "succeeds": "hero.tinyworld.scenes.",
}
"""Names that every module of a folder has, because it is one of several alike -> the modules they are for."""


def public_definitions(path: Path) -> set[str]:
    """Classes, functions and type aliases that a module defines itself and lists in `__all__`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed: set[str] = set()
    defined = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id == "__all__" and node.value is not None:
                    listed = set(ast.literal_eval(node.value))
                elif isinstance(target, ast.Name) and (not target.id.isupper() or target.id in ONE_OF_EACH_KIND):
                    defined.add(target.id)
    return listed & defined


def test_one_name_has_one_meaning() -> None:
    """Commands aside, which are called by what the command line calls them, and each module's `main`."""
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for name in public_definitions(path) - {"main"}:
            kin = ONE_OF_EACH_KIND.get(name)
            if not module.startswith("hero.cli.") and not (kin and module.startswith(kin)):
                homes.setdefault(name, []).append(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}
    assert not homes.keys() & ONE_OF_EACH_KIND.keys(), "a name that is one of a kind's means nothing else"
