"""`hero train`: from options to a new run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hero.cli.app import interruptible
from hero.cli.options import (
    AllowHost,
    AsJson,
    Host,
    Lora,
    MergeLora,
    NoBrowser,
    Port,
    Prefix,
    Processes,
    Publish,
    PublishKeep,
    Revision,
    Settings,
    Token,
    Variant,
    hub_settings,
    listening_of,
    lora_settings,
    prompts_in,
)
from hero.cli.running import evaluator_of, finish, people_at, publisher_of, share_work, train_to_end
from hero.config import Config, check_used, load_toml, merge, parse_assignments
from hero.console import quiet_libraries, say
from hero.methods import METHODS

if TYPE_CHECKING:
    from hero.evaluators import Evaluator, LiveEvaluator

__all__ = ["train"]


def train(
    task: Annotated[str | None, typer.Option(metavar="NAME", help="A built-in task. default: hand.")] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A prompt of your own instead of a task. Repeatable."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text file with a prompt of your own on each line.")
    ] = None,
    prompts_per_round: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Prompts of one round, in turn; default: all.")
    ] = None,
    criterion: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What makes an image good, in words; shown to evaluators.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="PATH_OR_ID", help="tinyworld (bundled, the default), a pipeline folder or a hub id."),
    ] = None,
    revision: Revision = None,
    variant: Variant = None,
    lora: Lora = None,
    merge_lora: MergeLora = False,
    token: Token = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Default: hero. One of {', '.join(METHODS)}.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="tinyworld, stable-diffusion, sdxl, sd3 or flux; default: by model."),
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            metavar="WHO",
            help="oracle (the task's judge, the default), module:callable, or web (default with --prompt): people.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A label store that several machines share; default: the run's own file."),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    allow_host: AllowHost = None,
    prefix: Prefix = "",
    no_browser: NoBrowser = False,
    rounds: Annotated[int | None, typer.Option(metavar="N", help="Rounds of feedback.")] = None,
    images_per_round: Annotated[int | None, typer.Option(metavar="N", help="Images shown in a round.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of every random draw.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run directory to make; default: runs/<task>-<method>-s<seed>."),
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings from a TOML file; options override them.")
    ] = None,
    settings: Settings = None,
    no_evaluate: Annotated[
        bool, typer.Option("--no-evaluate", help="Neither evaluate after training nor write the report.")
    ] = False,
    publish: Publish = None,
    publish_keep: PublishKeep = 3,
    processes: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Train a LoRA from feedback. Without options: the tiny world's task `hand`, judged by its oracle."""
    on_hub = hub_settings(revision, variant, token)  # helpers need the token, too
    share_work(processes)
    from hero.methods import configure

    own = merge(load_toml(config_file) if config_file else {}, parse_assignments(settings or []))
    own = merge(own, on_hub, lora_settings(lora, merge_lora))
    if prompts_per_round is not None:
        own = merge(own, {"task": {"prompts_per_round": prompts_per_round}})
    prompt = [*(prompt or []), *(prompts_in(prompts) if prompts else [])]
    if no_evaluate:
        own = merge(own, {"evaluation": {"after_training": False}})
    if prompt and evaluator is None and not _names_evaluator(own):
        evaluator = "web"  # a prompt of the user's own has no oracle
    if store is not None:
        own = merge(own, {"evaluator": {"store": store}})
    config = configure(
        task,
        prompts=prompt,
        criterion=criterion,
        model=model,
        method=method,
        preset=preset,
        rounds=rounds,
        images_per_round=images_per_round,
        seed=seed,
        evaluator=evaluator,
        settings=own,
    )
    check_used(parse_assignments(settings or []), config)
    out = out or Path("runs") / f"{config.task.name}-{config.method}-s{config.seed}"
    listening = listening_of(host, port, no_browser, allow_host, prefix)  # before the folder is made
    answers = _evaluator_for_new_run(config, out)
    quiet_libraries()
    from hero.tuner import Tuner

    console = Console(stderr=as_json)
    published = publisher_of(out, publish, publish_keep, console)
    with interruptible(out), ExitStack() as stack:
        say(console, f"{config.task.name}, method {config.method}, model {config.model.path} → {out}")
        tuner, people = Tuner(config, out), None
        say(console, *tuner.policy.starts)
        if answers is None:
            people = stack.enter_context(people_at(out, config, console, listening))
        history = train_to_end(tuner, people or answers, console, published)
        del tuner  # frees its model before the evaluation loads one
        finish(out, config, history, console, as_json, people)


def _names_evaluator(own: Mapping[str, Any]) -> bool:
    """Whether the settings say who answers."""
    stage = own.get("evaluator", {})
    return not isinstance(stage, Mapping) or "name" in stage


def _evaluator_for_new_run(config: Config, out: Path) -> Evaluator | LiveEvaluator | None:
    """Checks that the folder is free, then makes the evaluator; neither needs the model."""
    from hero.run import RunDirectory

    RunDirectory.check_free(out)
    return evaluator_of(config)
