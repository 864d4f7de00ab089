"""The documentation is true: generated parts are current, keys and tasks complete, links lead somewhere, code runs."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from conftest import OWN_TASKS
from hero import practice
from hero.config import Config, check_used, parse_assignments, reference
from hero.evaluation import EvaluationResult
from hero.methods import METHODS, PRESETS, configure
from hero.registry import REWARDS, UPDATES
from hero.reward.advantages import FIGURES
from hero.tasks import TASKS
from hero.tinyworld import model_path
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.types import RoundStats

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGE = ROOT / "src" / "hero"

PICTURES_TO_COME: set[str] = set()
"""Pictures that are linked but not made yet; emptied when they are there."""

needs_model = pytest.mark.skipif(not model_path().exists(), reason="the tiny world's weights are not there yet")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M)


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of every row of every table, without the separators' row."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def first_cells(text: str) -> set[str]:
    """Every `name` in the first column of the tables of `text`."""
    return {name for row in table_rows(text) for name in re.findall(r"`([^`]+)`", row[0])}


def flat(tables: dict[str, Any]) -> dict[str, Any]:
    """Dotted name → value."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= {f"{key}.{k}": v for k, v in flat(value).items()} if isinstance(value, dict) else {key: value}
    return found


# ---------------------------------------------------------------------------------------------- completeness


def test_the_configuration_reference_is_the_generated_one() -> None:
    assert page("docs/configuration.md") == reference(), "run: python -m hero.config > docs/configuration.md"


def test_every_setting_is_in_the_configuration_reference() -> None:
    config = Config.model_validate({"task": {"prompts": ["a"]}}).model_dump()
    assert first_cells(page("docs/configuration.md")) >= flat(config).keys()


def test_every_key_of_metrics_jsonl_is_documented_and_no_other() -> None:
    section = page("docs/metrics.md").split("### Figures of a method")[0]
    assert first_cells(section) == {f.name for f in fields(RoundStats)}


def figures_of_methods() -> Iterator[str]:
    """The rows of the table of methods' own figures, as the classes have them."""
    yield from (f"| `{name}` | every reward that can score images | {text} |" for name, text in FIGURES.items())
    yield from (f"| `{name}` | practice | {text} |" for name, text in practice.FIGURES.items())
    for registry in (REWARDS, UPDATES):
        for kind, choice in registry.items():
            own: Any = choice.load().FIGURES if choice.implementation else {}  # type: ignore[attr-defined]
            yield from (f"| `{name}` | {registry.stage} `{kind}` | {text} |" for name, text in own.items())


def test_every_figure_of_a_method_is_documented_in_its_own_words() -> None:
    table = page("docs/metrics.md").split("<!-- generated:figures -->\n")[1].split("<!-- /generated -->")[0]
    assert table.splitlines() == list(figures_of_methods())


def test_every_key_of_an_evaluation_is_documented_and_no_other() -> None:
    result = EvaluationResult("hand", 1, 0, {}, {}, None).to_dict()
    _, table, *_ = page("docs/metrics.md").split("| key | meaning |", 3)[1:]
    assert first_cells(table.split("Keys of `details`")[0]) == set(result)


@pytest.mark.parametrize("name", ["docs/tinyworld.md", "README.md"])
def test_every_task_is_listed(name: str) -> None:
    assert first_cells(page(name)) >= set(OWN_TASKS)


def test_the_tasks_table_gives_their_prompts_and_kinds() -> None:
    section = page("docs/tinyworld.md").split("## Tasks")[1].split("Success before training:")[0]
    rows = {row[0].strip("`"): row for row in table_rows(section)}
    for task in (TASKS[name] for name in OWN_TASKS):
        assert rows[task.name][3] == task.kind
        if len(task.prompts) == 1:
            assert rows[task.name][1] == task.prompts[0]


def test_the_shares_of_the_mixture_are_the_real_ones() -> None:
    table = page("docs/tinyworld.md").split("Success before training:")[1].split("<!-- figures")[0]
    rows = {row[0].strip("`"): row[1] for row in table_rows(table)}
    assert {task: float(rows[task]) for task in SUCCESS_SHARE} == SUCCESS_SHARE


def test_the_values_of_the_presets_are_the_real_ones() -> None:
    real = {name: flat(values) for name, values in PRESETS.items()}
    section = page("docs/algorithm.md").split("## Values")[1].split("\n## ")[0]
    header, *rows = list(table_rows(section))
    names = [cell.strip("`") for cell in header[1:]]
    assert set(names) == set(real)
    for column, name in enumerate(names, start=1):
        set_here = [row for row in rows if row[column] != "–"]
        written = {row[0].strip("`"): json.loads(row[column].strip("`")) for row in set_here}
        assert written == json.loads(json.dumps(real[name]))


def test_the_methods_are_the_real_ones() -> None:
    section = page("docs/algorithm.md").split("## Methods")[1].split("\n## ")[0]
    rows = {row[0].strip("`"): [cell.strip("`") for cell in row[1:4]] for row in list(table_rows(section))[1:]}
    real = {name: [m.settings[stage]["kind"] for stage in ("noise", "reward", "update")] for name, m in METHODS.items()}
    assert rows == real


def test_the_values_of_the_baselines_are_the_real_ones() -> None:
    section = page("docs/algorithm.md").split("## Baselines")[1].split("\n### ")[0]
    for methods, setting, elsewhere, on_tinyworld, _ in list(table_rows(section))[1:]:
        for method in re.findall(r"`([^`]+)`", methods):
            for preset, written in (("stable-diffusion", elsewhere), ("sd3", elsewhere), ("tinyworld", on_tinyworld)):
                config = configure("hand", method=method, preset=preset).model_dump(mode="json")
                assert flat(config)[setting.strip("`")] == json.loads(written.strip("`")), (method, preset, setting)


def test_every_ablation_is_a_run_that_differs_from_hero() -> None:
    section = page("docs/algorithm.md").split("## Ablations")[1].split("\n## ")[0]
    rows = [row[1].strip("`").split() for row in list(table_rows(section))[1:]]
    found = set()
    for words in rows:
        given = dict(zip(range(len(words)), words, strict=True))
        named = [given[k + 1] for k, word in given.items() if word == "--method"]
        settings = parse_assignments([given[k + 1] for k, word in given.items() if word == "--set"])
        config = configure("hand", method=named[0] if named else None, settings=settings)
        check_used(settings, config)
        found.add(config.to_toml())
    assert len(found | {configure("hand").to_toml()}) == len(rows) + 1


# ---------------------------------------------------------------------------------------------- architecture


def module_table() -> list[str]:
    section = page("docs/architecture.md").split("## Modules")[1].split("\n## ")[0]
    return [row[0].strip("`") for row in list(table_rows(section))[1:]]


def imports_of(path: Path) -> set[str]:
    """Modules and folders of `hero` that a file imports at run time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("hero.") for name in names if name.startswith("hero.")}


def place_of(module: str, order: dict[str, int]) -> int:
    """Where a module stands: by its own row, or by that of the nearest folder that has one."""
    while module not in order:
        module, _, last = module.rpartition(".")
        assert module, f"{last} has no row in the table"
    return order[module]


def test_the_module_table_lists_every_module() -> None:
    modules = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    rows = module_table()
    assert sorted(row for row in rows if "." not in row) == sorted(modules - {"__init__", "__main__"})
    for row in rows:
        importlib.import_module(f"hero.{row}")


def test_a_module_imports_only_from_modules_above_it_in_the_table() -> None:
    order = {module: place for place, module in enumerate(module_table())}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if own in ("__init__", "__main__"):
            continue
        wrong += [
            f"{named(path)} imports {other}"
            for other in imports_of(path)
            if place_of(other, order) > place_of(own, order)
        ]
    assert not wrong


# ---------------------------------------------------------------------------------------------- links


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_relative_links_and_images_exist(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        if not linked.exists():
            if not linked.is_relative_to(ROOT) or named(linked) not in PICTURES_TO_COME:
                broken.append(target)
        elif anchor and anchor not in anchors(linked):
            broken.append(target)
    assert not broken


def test_pictures_to_come_are_still_missing() -> None:
    assert not [name for name in PICTURES_TO_COME if (ROOT / name).exists()], "take them off the list"


def test_marked_figures_are_opened_and_closed_in_turn() -> None:
    for path in PAGES:
        marks = re.findall(r"<!-- (figures:[a-z-]+|/figures) -->", path.read_text(encoding="utf-8"))
        assert [mark == "/figures" for mark in marks] == [False, True] * (len(marks) // 2), named(path)


# ---------------------------------------------------------------------------------------------- code in pages


BLOCKS = [pytest.param(b, id=f"{named(p)}-{k}") for p in PAGES for k, b in enumerate(code_blocks(p), start=1)]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_in_pages_compiles_and_imports_names_that_exist(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                # A folder's module need not have been imported for `from folder import module` to work.
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("name", ["README.md", "docs/python.md", "docs/runs.md", "docs/benchmarks.md"])
def test_commands_in_pages_exist_with_their_options(name: str) -> None:
    from typer.main import get_command

    from hero.cli import app

    wrong = []
    for line in re.findall(r"^ {4}(hero .+)$", page(name), re.M):
        words = re.sub(r"\s+#.*", "", line).split()
        found: Any = get_command(app)
        for word in words[1:]:
            if not hasattr(found, "commands"):
                break
            found = found.commands.get(word)
            if found is None:
                wrong.append(line)
                break
        options = {"--help"} | {option for p in getattr(found, "params", ()) for option in p.opts}
        wrong += [f"{line}: {word}" for word in words if word.startswith("--") and word not in options]
    assert not wrong


@needs_model
@pytest.mark.learns
def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = code_blocks(ROOT / "README.md")
    assert len([line for line in block.splitlines() if line]) <= 10
    small = reduced(block, {"rounds=4": "rounds=2", "images_per_round=32": "images_per_round=8"})
    run(small)
    history = [json.loads(line) for line in Path("runs/green-lake/metrics.jsonl").read_text().splitlines()]
    assert [(line["good"], line["bad"]) for line in history] == [(2, 6), (2, 6)]
    assert history[-1]["steps"] > 0
    assert Path("runs/green-lake/lora/pytorch_lora_weights.safetensors").is_file()


@needs_model
@pytest.mark.learns
def test_the_python_pages_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loop, watcher, _, _, resume, use = code_blocks(ROOT / "docs" / "python.md")
    run(reduced(loop, {"seed=0": "seed=0, rounds=1, images_per_round=4"}))
    assert Path("my-lora/pytorch_lora_weights.safetensors").is_file()
    run(reduced(resume, {"12": "2"}))
    names = run(reduced(use, {"images=16": "images=2", "images=200": "images=4"}))
    assert len(names["images"]) == 2
    assert {label.round for label in names["store"].labels()} == {1, 2}

    result = names["result"].to_dict()
    details = page("docs/metrics.md").split("Keys of `details`")[1].split("###")[0]
    assert first_cells(details) == set(result["details"])

    from hero.evaluators import check_evaluator
    from hero.types import ImageBatch, image_id

    batch = ImageBatch(1, tuple(image_id(1, i) for i in range(2)), tuple(names["images"]), ("1 hand",) * 2)
    assert check_evaluator(run(watcher)["Watcher"](), batch) == []


def reduced(block: str, replacements: dict[str, str]) -> str:
    """`block` with less to compute; each replaced text must be there once."""
    for old, new in replacements.items():
        assert block.count(old) == 1, old
        block = block.replace(old, new)
    return block


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, "example", "exec"), names)
    return names


# ---------------------------------------------------------------------------------------------- hygiene


def tracked_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_text_names_a_machines_path_or_a_package_index() -> None:
    # Written so that this file does not match itself.
    pattern = re.compile(r"(?<![\w.-])/(?:root|work)/|python[h]osted\.|(?<![\w.])pypi[.]\w|--(?:extra-)?index[-]url")
    found = []
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{named(path)}:{number}: {line.strip()[:100]}")
    assert not found


def test_no_page_is_left_with_a_placeholder() -> None:
    words = re.compile(r"\b(TODO|FIXME|TBD|XXX)\b|lorem ipsum", re.I)
    assert not [named(path) for path in PAGES if words.search(path.read_text(encoding="utf-8"))]
