"""`hero evaluate`, `hero generate` and `hero report`: measure what a run has learnt, draw with it, and report it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hero.cli.app import interruptible, print_json
from hero.cli.options import (
    CLOSING_SECONDS,
    AllowHost,
    AsJson,
    Host,
    NoBrowser,
    NoPage,
    Port,
    Prefix,
    Prompts,
    Round,
    Run,
    listening_lines,
    listening_of,
    not_empty,
)
from hero.console import progress_bar, quiet_libraries, say, success_lines
from hero.errors import ConfigError, RunError
from hero.run.directory import REPORT_FILE
from hero.run.output import check_free, new_output

if TYPE_CHECKING:
    from hero.evaluation.people import BlindDesk
    from hero.trained import TrainedRun
    from hero.web.listening import Listening

__all__ = ["NoiseChoice", "evaluate", "generate", "measure", "report"]


class NoiseChoice(StrEnum):
    """Initial noise of `hero generate`."""

    FRESH = "fresh"
    REFINED = "refined"


def evaluate(
    run: Run,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Images per figure; default: the run's evaluation.images; for blind judging, 48 of them.",
        ),
    ] = None,
    prompt: Prompts = None,
    evaluator: Annotated[
        str,
        typer.Option(
            metavar="WHO", help="Who judges: oracle (the task's judge); blind: web, module:callable or a reward model."
        ),
    ] = "oracle",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to write into; default: evaluation/ in the run.")
    ] = None,
    round_: Round = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    allow_host: AllowHost = None,
    prefix: Prefix = "",
    no_browser: NoBrowser = False,
    no_page: NoPage = False,
    as_json: AsJson = False,
) -> None:
    """Measure a run against its base model: success, diversity, drift."""
    from hero.run.finished import FinishedRun

    prompts = not_empty(prompt)
    console = Console(stderr=as_json)
    listening = listening_of(host, port, no_browser, allow_host, prefix)
    if evaluator == "oracle":
        result = measure(_load_trained(run, round_), console, images=images, prompts=prompts, out=out)
    else:
        at = "" if round_ is None else f" --round {round_}"
        again = f"hero evaluate {run} --evaluator {evaluator}{at}{'' if out is None else f' --out {out}'}"
        with interruptible(run, again):
            desk = _blind_desk(run, evaluator, console, images=images, prompts=prompts, out=out, round_=round_)
            if evaluator == "web":
                result = _judge_on_page(desk, console, None if no_page else listening)
            else:
                result = _judge_here(desk, evaluator, console)
    written = _report_anew(run) if out is None and round_ is None else None
    if as_json:
        print_json(result)
    else:
        folder = out or FinishedRun(run, round_=round_).evaluation_folder
        found = [f"images   {folder}", *([] if written is None else [f"report   {written}"])]
        say(console, *success_lines(result), *found)


def generate(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write 0000.png, 0001.png, … into.")],
    prompt: Prompts = None,
    images: Annotated[int, typer.Option(metavar="N", min=1, help="How many images.")] = 16,
    noise: Annotated[
        NoiseChoice, typer.Option(help="Initial noise: fresh, or near that of images marked good.")
    ] = NoiseChoice.FRESH,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of every random draw.")] = 0,
    base: Annotated[bool, typer.Option("--base", help="Draw with the base model, for comparison.")] = False,
    strength: Annotated[
        list[float] | None,
        typer.Option(
            metavar="NUMBER",
            help="Factor of the LoRA's effect; default: 1, as trained. Given several times, the same noises are drawn "
            "at each of them, into a folder of its own.",
        ),
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Draw N candidates per image; keep what the run's reward likes best."),
    ] = 1,
    round_: Round = None,
) -> None:
    """Draw images with what a run has learnt."""
    check_free(out)
    prompts = not_empty(prompt)
    strengths = _strengths(strength, base)
    console = Console()
    trained = _load_trained(run, round_)
    drawn = []
    with progress_bar(console, "drawing", images * best_of * len(strengths)) as advance:
        for turn, factor in enumerate(strengths):
            pictures = trained.generate(
                images=images,
                prompts=prompts,
                noise=noise.value,
                seed=seed,
                base=base,
                strength=factor,
                best_of=best_of,
                progress=lambda done, total, turn=turn: advance(  # type: ignore[misc]
                    turn * total + done, "drawing", len(strengths) * total
                ),
            )
            drawn.append((factor, pictures))
    with new_output(out) as folder:
        for factor, pictures in drawn:
            place = folder if len(strengths) == 1 else folder / f"strength-{factor:g}"
            place.mkdir(exist_ok=True)
            for index, picture in enumerate(pictures):
                picture.save(place / f"{index:04d}.png")
    chosen = f", each the best of {best_of}" if best_of > 1 else ""
    at_each = f" at each of {len(strengths)} strengths" if len(strengths) > 1 else ""
    say(console, f"{images} images{chosen}{at_each}   {out}")


def _strengths(given: list[float] | None, base: bool) -> list[float]:
    if given and base:
        raise ConfigError("give either --base or --strength: the base model is the LoRA at strength 0")
    if not all(map(math.isfinite, given or ())):
        raise ConfigError("--strength takes finite numbers; 1 is as trained")
    return list(dict.fromkeys(given or [1.0]))


def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; default: report.html in the run.")
    ] = None,
) -> None:
    """Write the run's report again: one HTML file that opens without a server or network."""
    from hero.report import write_report

    say(Console(), str(write_report(run, out)))


def measure(
    trained: TrainedRun,
    console: Console,
    *,
    images: int | None = None,
    prompts: list[str] | None = None,
    out: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    count = images or trained.config.evaluation.images
    if not console.is_terminal:
        say(console, f"evaluating on {count} held-out images a set")
    with progress_bar(console, "evaluating", count) as advance:

        def progress(done: int, total: int) -> None:
            advance(done, "evaluating", total)
            if on_progress is not None:
                on_progress(done, total)

        result = trained.evaluate(images=images, prompts=prompts, out=out, progress=progress)
    return result.to_dict()


def _blind_desk(
    run: Path,
    evaluator: str,
    console: Console,
    *,
    images: int | None,
    prompts: list[str] | None,
    out: Path | None,
    round_: int | None,
) -> BlindDesk:
    """The desk for `evaluator`; draws any images that are not drawn yet."""
    from hero.evaluators import check_can_judge
    from hero.run.finished import FinishedRun

    finished = FinishedRun(run, evaluation=out, round_=round_)
    check_can_judge(evaluator, finished.config)
    quiet_libraries()
    from hero.evaluation.people import PEOPLE_IMAGES, BlindDesk
    from hero.evaluation.stored import stored_evaluation

    count = images or PEOPLE_IMAGES
    if stored_evaluation(finished, count, prompts) is None:
        measure(_load_trained(run, round_), console, images=count, prompts=prompts, out=out)
    return BlindDesk(finished, evaluator, count)


def _judge_here(desk: BlindDesk, evaluator: str, console: Console) -> dict[str, Any]:
    from hero.evaluators import evaluator_named

    with desk:
        return desk.judge(evaluator_named(evaluator, desk.config), lambda *done: say(console, _judged(*done)))


def _report_anew(run: Path) -> Path | None:
    """The run's report with the new figures, if the run has one; a run that cannot be written keeps what it has."""
    from hero.report import write_report

    if not (run / REPORT_FILE).is_file():
        return None
    with suppress(RunError):
        return write_report(run)
    return None


def _judge_on_page(desk: BlindDesk, console: Console, listening: Listening | None) -> dict[str, Any]:
    """Serves the desk until people have judged every round; None: another process serves it."""
    from hero.people.evaluator import People, RunStopped
    from hero.web.process import page_served

    with desk:
        people = People(desk.store, desk.config.evaluator)
        people.channel.publish("run", 0, desk.description())
        with ExitStack() as stack:
            if listening is not None:
                page = stack.enter_context(page_served(desk.path, None, listening))
                say(console, f"judge the images at {page.address}", *listening_lines(listening))
            try:
                result = desk.judge(people, lambda *done: say(console, _judged(*done)))
            except (RunStopped, KeyboardInterrupt):
                people.say("stopped", message="Stopped; all judgements so far are kept.")
                raise KeyboardInterrupt from None
            people.say("finished", message="Everything is judged. Thank you!")
            time.sleep(CLOSING_SECONDS)
        return result


def _judged(done: int, rounds: int) -> str:
    return f"round {done}/{rounds} judged"


def _load_trained(run: Path, round_: int | None) -> TrainedRun:
    from hero.run.finished import FinishedRun

    FinishedRun(run, round_=round_)  # a wrong folder is reported at once, before diffusers is imported
    quiet_libraries()
    from hero.trained import TrainedRun

    return TrainedRun(run, round_=round_)
