"""`hero resume` and `hero label`: commands on existing runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hero.cli.app import interruptible
from hero.cli.options import (
    AllowHost,
    AsJson,
    Host,
    NoBrowser,
    NoPage,
    Port,
    Prefix,
    Processes,
    Publish,
    PublishKeep,
    Run,
    Settings,
    listening_lines,
    listening_of,
)
from hero.cli.running import (
    evaluator_of,
    finish,
    people_at,
    publisher_of,
    share_work,
    train_to_end,
)
from hero.config import load_run_config, merge, parse_assignments
from hero.console import quiet_libraries, say
from hero.errors import ConfigError, RunError

if TYPE_CHECKING:
    from hero.types import RoundStats

__all__ = ["label", "resume"]


def resume(
    run: Run,
    settings: Settings = None,
    rounds: Annotated[
        int | None, typer.Option(metavar="N", help="Total number of rounds, including those already done.")
    ] = None,
    from_round: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Go back to round N and on from there, in a new folder; RUN stays."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --from-round: the run directory to make; default: RUN-from-N."),
    ] = None,
    publish: Publish = None,
    publish_keep: PublishKeep = 3,
    processes: Processes = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    allow_host: AllowHost = None,
    prefix: Prefix = "",
    no_browser: NoBrowser = False,
    no_page: NoPage = False,
    as_json: AsJson = False,
) -> None:
    """Continue a run that was stopped, or add rounds; says so if the run is finished."""
    share_work(processes)
    from hero.run import RunDirectory

    own = merge(parse_assignments(settings or []), {} if rounds is None else {"rounds": rounds})
    if out is not None and from_round is None:
        raise ConfigError("--out is for --from-round: a run goes on in its own folder")
    if from_round is not None:
        from hero.run.branch import branch

        RunDirectory.open(run, own)  # wrong settings are reported before anything is written
        run = branch(run, from_round, out or run.with_name(f"{run.resolve().name}-from-{from_round:04d}")).path
    directory = RunDirectory.open(run, own)
    checkpoint = directory.load_checkpoint("told")
    finished = checkpoint is not None and len(checkpoint.state["history"]) >= directory.config.rounds
    listening = listening_of(host, port, no_browser, allow_host, prefix)
    answers = None if finished else evaluator_of(directory.config)
    quiet_libraries()
    from hero.tuner import Tuner

    console = Console(stderr=as_json)
    published = publisher_of(run, publish, publish_keep, console)
    with interruptible(run), ExitStack() as stack:
        tuner, people = Tuner.resume(run, own), None
        config, done = tuner.config, len(tuner.history)
        if tuner.done:
            say(console, f"{run} is finished after {done} rounds; `hero resume {run} --rounds {2 * done}` continues it")
            history: list[RoundStats] | None = tuner.history
        else:
            say(console, f"{run} continues after round {done} of {config.rounds}")
            if answers is None:
                people = stack.enter_context(people_at(run, config, console, None if no_page else listening))
            history = train_to_end(tuner, people or answers, console, published)
        del tuner  # frees its model before the evaluation loads one
        finish(run, config, history, console, as_json, people)


def label(
    run: Run,
    host: Host = "127.0.0.1",
    port: Port = None,
    allow_host: AllowHost = None,
    prefix: Prefix = "",
    no_browser: NoBrowser = False,
) -> None:
    """Serve the labelling page of a run again, even of one that is being trained elsewhere; Ctrl-C closes it."""
    from hero.web.process import page_served

    if not (run / "config.toml").is_file():
        raise RunError(f"there is no run in {run}: it holds no config.toml")
    settings = load_run_config(run / "config.toml").evaluator
    if settings.name != "web":
        raise ConfigError(f"{run} is not labelled by people: its evaluator is {settings.name!r}; see --evaluator web")
    console = Console()
    listening = listening_of(host, port, no_browser, allow_host, prefix)
    with page_served(run, settings.store, listening) as page:
        say(console, f"label at {page.address}", *listening_lines(listening))
        try:
            page.wait()
        except KeyboardInterrupt:
            say(console, f"closed; every label is stored, and `hero label {run}` serves the page again")
