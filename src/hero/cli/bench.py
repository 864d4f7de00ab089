"""`hero bench`: measurements that continue where they were stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

import typer
from rich.console import Console

from hero.cli.app import Group, interruptible_bench, print_json
from hero.cli.options import AsJson, Settings
from hero.config import parse_assignments
from hero.console import quiet_libraries, say
from hero.errors import ConfigError, nearest

if TYPE_CHECKING:
    from hero.bench.cells import Refined

__all__ = ["bench_app", "bench_efficiency", "bench_speed", "bench_success", "bench_transfer"]

bench_app = typer.Typer(cls=Group, no_args_is_help=True, help="Benchmarks; each continues where it was stopped.")


@bench_app.command("success")
def bench_success(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the runs and the results.")],
    task: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A task; default: all. Repeatable.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A method; default: hero and noise-only. Repeatable.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="How many seeds.")] = 3,
    first_seed: Annotated[int, typer.Option(metavar="N", min=0, help="The first of them.")] = 0,
    images: Annotated[int, typer.Option(metavar="N", min=1, help="Held-out images per figure.")] = 300,
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes that share the runs, and the processor's cores.")
    ] = 1,
    settings: Settings = None,
) -> None:
    """Train and measure tasks × methods × seeds; writes results.json and results.md."""
    from hero.methods import METHODS
    from hero.tasks import TASKS, get_task

    names = [get_task(name).name for name in task or TASKS]
    methods = method or ["hero", "noise-only"]
    for name in methods:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    own = parse_assignments(settings or [])
    quiet_libraries()
    from hero.bench.success import run_success, success_table

    console = Console()
    with interruptible_bench(out):
        cells = run_success(
            names,
            methods,
            range(first_seed, first_seed + seeds),
            out,
            images=images,
            settings=own,
            jobs=jobs,
            report=lambda line: say(console, line),
        )
    say(console, success_table(cells), str(out / "results.md"))


class _Scope(NamedTuple):
    """What `hero bench efficiency` measures, as far as its options do not say."""

    tasks: Sequence[str]
    methods: Sequence[str]
    labels: Sequence[str]
    seeds: int
    images: int


_QUICK = _Scope(tasks=("black-cat",), methods=("heron", "hero", "ddpo"), labels=("128",), seeds=2, images=64)
"""With --quick: the ordering on one task."""


@bench_app.command("efficiency")
def bench_efficiency(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the runs and the results.")],
    task: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A task; default: all. Repeatable.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A method; default: all. Repeatable.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME: STAGE.FIELD=VALUE; ...",
            help="Settings to run every task, method and seed with; plain: none. Default: plain. Repeatable.",
        ),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(metavar="N|METHOD=N", help="Labels that a run may spend; default 512. Repeatable."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", min=1, help="How many seeds; default 5.")] = None,
    first_seed: Annotated[int, typer.Option(metavar="N", min=0, help="The first of them.")] = 0,
    images: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Held-out images per figure; default 200.")
    ] = None,
    refined: Annotated[
        str, typer.Option(metavar="last|all|none", help="At which points refined noise is measured, too.")
    ] = "last",
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes that share the cells, and the processor's cores.")
    ] = 2,
    quick: Annotated[
        bool, typer.Option("--quick", help="One task, few labels, seeds and images: minutes, and only the ordering.")
    ] = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Measure success over labels for tasks × methods × seeds; writes results.json, results.md and plots."""
    from hero.methods import METHODS
    from hero.tasks import TASKS, get_task

    own = parse_assignments(settings or [])
    scope = _QUICK if quick else _Scope(tuple(TASKS), tuple(METHODS), labels=(), seeds=5, images=200)
    names = [get_task(name).name for name in task or scope.tasks]
    methods = list(method or scope.methods)
    for name in methods:
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    if refined not in ("last", "all", "none"):
        raise ConfigError(f"--refined {refined!r}: write last, all or none")
    count = seeds or scope.seeds
    quiet_libraries()
    from hero.bench.curve_plots import write_plots
    from hero.bench.efficiency import parse_budgets, parse_variant, plan_cells, run_efficiency
    from hero.bench.efficiency_results import efficiency_json, efficiency_tables, write_findings

    cells = plan_cells(
        names,
        methods,
        range(first_seed, first_seed + count),
        out,
        variants=[parse_variant(text) for text in variant or ["plain"]],
        budgets=parse_budgets(labels or scope.labels),
        images=images or scope.images,
        refined=cast("Refined", refined),
        settings=own,
    )
    console, done = Console(stderr=as_json), None
    with interruptible_bench(out):
        for done in run_efficiency(cells, processes=jobs, say=lambda line: say(console, line)):
            write_findings(done.findings, out, done.counts)
        assert done is not None
        plots = write_plots(done.findings, out)
    if as_json:
        print_json(efficiency_json(done.findings, done.counts))
    else:
        tables = efficiency_tables(done.findings, done.counts)
        say(console, tables, str(out / "results.md"), *map(str, plots))


@bench_app.command("transfer")
def bench_transfer(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder that `hero bench success` wrote.")],
    method: Annotated[str, typer.Option(metavar="NAME", help="The method whose runs are measured.")] = "hero",
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="How many seeds.")] = 3,
    first_seed: Annotated[int, typer.Option(metavar="N", min=0, help="The first of them.")] = 0,
    images: Annotated[int, typer.Option(metavar="N", min=8, help="Held-out images per set of prompts.")] = 100,
) -> None:
    """Measure finished runs on prompts never trained on and on all tasks; writes transfer.json and transfer.md."""
    from hero.methods import METHODS

    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; {nearest(method, METHODS)}")
    quiet_libraries()
    from hero.bench.transfer import measure_transfer, transfer_tables, write_transfer

    console = Console()
    with interruptible_bench(out):
        neighbours, others = measure_transfer(
            out,
            range(first_seed, first_seed + seeds),
            method=method,
            images=images,
            report=lambda line: say(console, line),
        )
        write_transfer(neighbours, others, out)
    say(console, transfer_tables(neighbours, others), str(out / "transfer.md"))


@bench_app.command("speed")
def bench_speed(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the results and for random models.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="sd15-random (full size, random weights), or any model.",
        ),
    ] = "sd15-random",
    images: Annotated[int, typer.Option(metavar="N", min=1, help="Images drawn and learnt from.")] = 16,
    settings: Settings = None,
) -> None:
    """Measure drawing and learning on this device; writes speed.json and speed.md."""
    from hero.methods import configure

    own = parse_assignments(settings or [])
    quiet_libraries()
    from hero.bench.speed import measure_speed, model_folder, speed_table, write_speed

    console = Console()
    with interruptible_bench(out):
        out.mkdir(parents=True, exist_ok=True)
        config = configure("hand", model=str(model_folder(model, out)), images_per_round=images, settings=own)
        speed = measure_speed(config, model)
        write_speed(speed, out)
    say(console, speed_table(speed), str(out / "speed.md"))
