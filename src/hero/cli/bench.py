"""`hero bench`: measurements that continue where they were stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hero.cli.app import Group, interruptible_bench
from hero.cli.options import Settings
from hero.config import parse_assignments
from hero.console import quiet_libraries, say
from hero.errors import ConfigError, nearest

__all__ = ["bench_app", "bench_speed", "bench_success", "bench_transfer"]

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
