"""`hero export` and `hero feedback`: LoRAs and labels for other programs, and imported labels."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hero.cli.app import Group, interruptible
from hero.cli.options import Round, Run, Settings
from hero.config import Config, load_run_config, parse_assignments
from hero.console import quiet_libraries, say
from hero.errors import ConfigError

__all__ = ["FormatChoice", "export", "feedback_app", "feedback_export", "feedback_import"]


class FormatChoice(StrEnum):
    """Formats of `hero export`."""

    DIFFUSERS = "diffusers"
    KOHYA = "kohya"
    FUSED = "fused"
    SINGLE_FILE = "single-file"
    COMFYUI = "comfyui"


def export(
    run: Run,
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH", help="A folder to make; for kohya and single-file a file that ends in .safetensors."
        ),
    ],
    format_: Annotated[
        FormatChoice,
        typer.Option(
            "--format",
            help="LoRA in diffusers' or kohya's layout (ComfyUI, A1111), a fused pipeline or file, or a ComfyUI node.",
        ),
    ] = FormatChoice.DIFFUSERS,
    weight: Annotated[
        float, typer.Option(metavar="NUMBER", help="Factor of the LoRA's effect: 0.8 writes it weaker than trained.")
    ] = 1.0,
    round_: Round = None,
) -> None:
    """Write what a run has learnt for other programs, with a model card."""
    from hero.run import RunDirectory

    RunDirectory.open(run)  # a wrong folder is reported at once, before torch is imported
    quiet_libraries()
    from hero.export import export as write

    say(Console(), str(write(run, format_.value, out, weight=weight, round_=round_)))


feedback_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Export labels from a run, or import them into a new one."
)


@feedback_app.command("export")
def feedback_export(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", metavar="NAME", help="jsonl (every mark, with images), parquet (one image per row) or pickapic."
        ),
    ] = "jsonl",
) -> None:
    """Write a run's labels, with their images, for other programs or for `hero feedback import`."""
    from hero.feedback.export import export_feedback

    exported = export_feedback(run, format_, out)
    lines = [f"{exported.rows} rows   {exported.file}"]
    if exported.missing:
        lines.append(f"{len(exported.missing)} images are missing from the run, e.g. {exported.missing[0]}")
    say(Console(), *lines)


@feedback_app.command("import")
def feedback_import(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A file or folder of labels: an export, good and bad images, or another program's."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run directory to make.")],
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="The new run's settings; default: the config.toml that lies there."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The prompt of images that have none of their own there.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Start a run from existing labels; `hero resume` continues it."""
    from hero.feedback.foreign import read_any
    from hero.run import RunDirectory

    labels = read_any(file, prompt)
    beside = (file if file.is_dir() else file.parent) / "config.toml"
    own = parse_assignments(settings or [])
    if config_file is None and not beside.is_file():
        config = _of_people(tuple(dict.fromkeys(labels.prompts.values())), own)
    else:
        config = load_run_config(config_file or beside, own)
    RunDirectory.check_free(out)
    quiet_libraries()
    from hero.feedback.starting import start_from_labels

    console = Console()
    say(console, f"{len(labels.marks)} marks of {len(labels.images)} images read; loading the model and encoding them")
    with interruptible(out):
        started = start_from_labels(
            labels, config, out, on_round=lambda round_: say(console, f"round {round_}: the same images, learnt from")
        )
    if started.seeded:
        say(
            console,
            f"{started.seeded} labelled images imported as round 0: for the representation and best image only",
        )
    if started.fitted:
        say(console, f"{started.fitted} of them were of another size: cropped to the model's shape, and scaled")
    if started.unused:
        say(console, f"{started.unused} labelled images are of no use to this run (see docs/feedback.md)")
    say(console, f"hero resume {out}  # continues learning")


def _of_people(prompts: tuple[str, ...], own: dict[str, Any]) -> Config:
    """The settings of a run that people judge, on the prompts of `own` or else on all `prompts` of a file."""
    from hero.methods import configure

    chosen = own.get("task", {}).get("prompts", prompts)
    try:
        return configure(prompts=chosen, evaluator="web", settings=own)
    except ConfigError as error:
        if chosen is prompts and "number of prompts" in str(error):
            remedy = "choose those to train on: --set 'task.prompts=[\"...\"]'"
            raise ConfigError(f"{error}; the labels are for {len(prompts)} prompts: {remedy}") from None
        raise
