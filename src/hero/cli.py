"""The command line. Thin: it turns options into a configuration, calls the library and prints what came of it.

Everything that can be wrong with the options is checked before a model is loaded; torch and diffusers are
imported inside the commands that need them, so that help, lists and mistakes in the settings answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

import hero
from hero.config import Config, load_toml, merge, parse_assignments, validate
from hero.console import closing_lines, progress_bar, round_line, say, success_lines, table_lines
from hero.errors import ConfigError, HeroError, RunError, nearest

if TYPE_CHECKING:
    from hero.evaluation.people import BlindDesk
    from hero.evaluators import Evaluator, LiveEvaluator
    from hero.evaluators.people import People
    from hero.trained import TrainedRun
    from hero.tuner import Tuner
    from hero.types import ImageChunk, RoundStats

__all__ = ["app", "main"]

_INTERRUPTED = 130
_FAREWELL = 2.0
"""Seconds for which a finished page is still served, so that it can say so."""

_FIXED = ("method", "preset", "task.name", "task.prompts", "model.path")
"""What a run is. `hero resume` cannot change it: the recipe's other settings would stay as they were."""


class _Group(TyperGroup):
    """Turns the errors that `hero` raises on purpose into one line on stderr and their exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeroError as error:
            if os.environ.get("HERO_TRACEBACK") == "1":
                traceback.print_exc()
            _complain(str(error))
            raise typer.Exit(error.exit_status) from None
        except KeyboardInterrupt:
            _complain("interrupted")
            raise typer.Exit(_INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teach text-to-image diffusion models from a person's own judgement, online.",
)


class NoiseChoice(StrEnum):
    """Initial noise of `hero generate`."""

    FRESH = "fresh"
    REFINED = "refined"


class FormatChoice(StrEnum):
    """Formats of `hero export`."""

    DIFFUSERS = "diffusers"
    KOHYA = "kohya"
    FUSED = "fused"


Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Any setting, e.g. sampling.eta=0.5. Repeatable."),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="TEXT", help="A prompt; default: those trained on. Repeatable."),
]
Processes = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes that share the work on this machine; what is learnt is the same."),
]
Revision = Annotated[str | None, typer.Option(metavar="REF", help="Hub revision: a branch, tag or commit.")]
Variant = Annotated[str | None, typer.Option(metavar="NAME", help="Weight variant of the model's files, e.g. fp16.")]
Token = Annotated[
    str | None, typer.Option(metavar="TOKEN", help="Hub token, for this process alone; it is never written down.")
]
Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Where the labelling page listens; others than this machine may see it.")
]
Port = Annotated[int | None, typer.Option(metavar="N", help="Port of the labelling page; default: 8420 if it is free.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the page's address without opening it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else on stderr.")]


@app.callback(invoke_without_command=True)
def hero_(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"hero {hero.__version__}")
        raise typer.Exit


@app.command()
def train(
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="A built-in task, see `hero tasks`; default: hand.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A prompt of your own instead of a task. Repeatable."),
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
    token: Token = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="hero (the default), ddpo or noise-only.")] = None,
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
    no_browser: NoBrowser = False,
    rounds: Annotated[int | None, typer.Option(metavar="N", help="Rounds of feedback.")] = None,
    images_per_round: Annotated[int | None, typer.Option(metavar="N", help="Images shown in a round.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of every random draw.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run directory to make; default: runs/<task>-<method>-s<seed>."),
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings from a TOML file; options go over it.")
    ] = None,
    settings: Settings = None,
    no_evaluate: Annotated[
        bool, typer.Option("--no-evaluate", help="Neither evaluate after training nor write the report.")
    ] = False,
    processes: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Train a LoRA from feedback. Without options: the tiny world's task `hand`, judged by its oracle."""
    on_hub = _hub_settings(revision, variant, token)  # helpers need the token, too
    _share_work(processes)
    from hero.methods import configure

    own = merge(load_toml(config_file) if config_file else {}, parse_assignments(settings or []))
    own = merge(own, on_hub)
    if no_evaluate:
        own = merge(own, {"evaluation": {"after_training": False}})
    if prompt and evaluator is None and not _names_evaluator(own):
        evaluator = "web"  # a prompt of one's own has no oracle
    if store is not None:
        own = merge(own, {"evaluator": {"store": store}})
    config = configure(
        task,
        prompts=prompt or (),
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
    out = out or Path("runs") / f"{config.task.name}-{config.method}-s{config.seed}"
    answers = _evaluator_for_new_run(config, out)
    _quiet_libraries()
    from hero.tuner import Tuner

    console = Console(stderr=as_json)
    with _interruptible(out), ExitStack() as stack:
        say(console, f"{config.task.name}, method {config.method}, model {config.model.path} → {out}")
        tuner, people = Tuner(config, out), None
        if answers is None:
            served = _people_at(out, config, console, host=host, port=port, browser=not no_browser)
            people = stack.enter_context(served)
        history = _train(tuner, people or answers, console)
        del tuner  # its model makes room for the one that is evaluated
        _finish(out, config, history, console, as_json, people)


@app.command()
def resume(
    run: Run,
    settings: Settings = None,
    rounds: Annotated[
        int | None, typer.Option(metavar="N", help="Rounds in all, those that are done included.")
    ] = None,
    processes: Processes = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    no_browser: NoBrowser = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was stopped, or with more rounds; a finished run says so."""
    _share_work(processes)
    from hero.run import RunDirectory

    own = merge(parse_assignments(settings or []), {} if rounds is None else {"rounds": rounds})
    directory = RunDirectory.open(run, own)
    _check_unchanged(RunDirectory.open(run).config, directory.config)
    checkpoint = directory.load_checkpoint("told")
    finished = checkpoint is not None and len(checkpoint.state["history"]) >= directory.config.rounds
    answers = None if finished else _evaluator_of(directory.config)
    _quiet_libraries()
    from hero.tuner import Tuner

    console = Console(stderr=as_json)
    with _interruptible(run), ExitStack() as stack:
        tuner, people = Tuner.resume(run, own), None
        config, done = tuner.config, len(tuner.history)
        if tuner.done:
            say(console, f"{run} is finished after {done} rounds; `hero resume {run} --rounds {2 * done}` goes on")
            history: list[RoundStats] | None = tuner.history
        else:
            say(console, f"{run} goes on after round {done} of {config.rounds}")
            if answers is None:
                served = _people_at(run, config, console, host=host, port=port, browser=not no_browser)
                people = stack.enter_context(served)
            history = _train(tuner, people or answers, console)
        del tuner  # its model makes room for the one that is evaluated
        _finish(run, config, history, console, as_json, people)


@app.command()
def label(
    run: Run,
    host: Host = "127.0.0.1",
    port: Port = None,
    no_browser: NoBrowser = False,
) -> None:
    """Serve the labelling page of a run again, also of one that is trained elsewhere; Ctrl-C closes it."""
    from hero.page import serving

    if not (run / "config.toml").is_file():
        raise RunError(f"there is no run in {run}: it holds no config.toml")
    settings = validate(load_toml(run / "config.toml")).evaluator
    if settings.name != "web":
        raise ConfigError(f"{run} is not labelled by people, its evaluator is {settings.name!r}; see --evaluator web")
    console = Console()
    with serving(run, settings.store, host=host, port=port, browser=not no_browser) as page:
        say(console, f"label at {page.address}")
        try:
            page.wait()
        except KeyboardInterrupt:
            say(console, f"closed; every label is stored, and `hero label {run}` serves the page again")


@app.command()
def evaluate(
    run: Run,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Images per figure; default: the run's evaluation.images, for people 48 of them."
        ),
    ] = None,
    prompt: Prompts = None,
    evaluator: Annotated[
        str,
        typer.Option(
            metavar="WHO", help="Who judges: oracle (the task's judge); blind: web, module:callable or a reward model."
        ),
    ] = "oracle",
    host: Host = "127.0.0.1",
    port: Port = None,
    no_browser: NoBrowser = False,
    as_json: AsJson = False,
) -> None:
    """Measure a run against its base model: success, diversity, drift. Writes evaluation/ in the run."""
    prompts = _not_empty(prompt)
    console = Console(stderr=as_json)
    if evaluator == "oracle":
        result = _evaluate(_load_trained(run), console, images=images, prompts=prompts)
    else:
        with _interruptible(run, f"hero evaluate {run} --evaluator {evaluator}"):
            desk = _blind_desk(run, evaluator, console, images=images, prompts=prompts)
            if evaluator == "web":
                result = _judge_on_page(desk, console, host=host, port=port, browser=not no_browser)
            else:
                result = _judge_here(desk, evaluator, console)
    if as_json:
        _print_json(result)
    else:
        say(console, *success_lines(result), f"images   {run / 'evaluation'}")


@app.command()
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
) -> None:
    """Draw images with what a run has learnt."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not an empty folder; choose another --out")
    prompts = _not_empty(prompt)
    console = Console()
    trained = _load_trained(run)
    with progress_bar(console, "drawing", images) as advance:
        pictures = trained.generate(
            images=images,
            prompts=prompts,
            noise=noise.value,
            seed=seed,
            base=base,
            progress=lambda done, total: advance(done, "drawing", total),
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(pictures):
            picture.save(out / f"{index:04d}.png")
    except OSError as error:
        raise RunError(f"cannot write {out}: {error}; choose another --out") from error
    say(console, f"{images} images   {out}")


@app.command()
def report(run: Run) -> None:
    """Write the run's report anew: one HTML file that opens without a server or network."""
    from hero.report import write_report

    say(Console(), str(write_report(run)))


@app.command()
def export(
    run: Run,
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="A folder to make; for kohya a file that ends in .safetensors.")
    ],
    format_: Annotated[
        FormatChoice,
        typer.Option("--format", help="LoRA in diffusers' or kohya's layout (ComfyUI, A1111), or a fused pipeline."),
    ] = FormatChoice.DIFFUSERS,
) -> None:
    """Write what a run has learnt for other programs, with a model card."""
    from hero.run import RunDirectory

    RunDirectory.open(run)  # a wrong folder is told at once, before torch is imported
    _quiet_libraries()
    from hero.export import export as write

    say(Console(), str(write(run, format_.value, out)))


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the built-in tasks."""
    from hero.tasks import TASKS

    fields = ("name", "title", "kind", "criterion", "base_success", "judge_model", "sensitive")
    if as_json:
        _print_json(
            [
                {key: getattr(task, key) for key in fields}
                | {"prompts": list(task.prompts), "transfer_prompts": list(task.transfer_prompts)}
                for task in TASKS.values()
            ]
        )
        return
    rows = [("task", "what is wanted", "kind", "base success", "prompt")]
    for task in TASKS.values():
        more = f" (and {len(task.prompts) - 1} more)" if len(task.prompts) > 1 else ""
        rows.append((task.name, task.title, task.kind, task.base_success, task.prompts[0] + more))
    say(Console(), *table_lines(rows), "", "hero train --task NAME")


feedback_app = typer.Typer(cls=_Group, no_args_is_help=True, help="Labels out of a run, and into a new one.")
app.add_typer(feedback_app, name="feedback")


@feedback_app.command("export")
def feedback_export(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", metavar="NAME", help="jsonl (every mark, with images), parquet (an image a row) or pickapic."
        ),
    ] = "jsonl",
) -> None:
    """Write a run's labels, with their images, for other programs or for `hero feedback import`."""
    from hero.feedback.export import export_feedback

    exported = export_feedback(run, format_, out)
    lines = [f"{exported.rows} rows   {exported.file}"]
    if exported.missing:
        lines.append(f"{len(exported.missing)} images are gone from the run, {exported.missing[0]} for one")
    say(Console(), *lines)


@feedback_app.command("import")
def feedback_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="labels.jsonl of an export, or one of your own.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run directory to make.")],
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The new run's settings; default: config.toml beside FILE."),
    ] = None,
    settings: Settings = None,
) -> None:
    """Start a run from labels that exist; `hero resume` goes on with it."""
    from hero.feedback.importing import read_labels
    from hero.methods import configure
    from hero.run import RunDirectory

    labels = read_labels(file)
    beside = file.parent / "config.toml"
    own = parse_assignments(settings or [])
    if config_file is None and not beside.is_file():
        config = configure(prompts=tuple(dict.fromkeys(labels.prompts.values())), evaluator="web", settings=own)
    else:
        config = validate(merge(load_toml(config_file or beside), own))
    RunDirectory.check_free(out)
    _quiet_libraries()
    from hero.starting import start_from_labels

    console = Console()
    with _interruptible(out):
        started = start_from_labels(
            labels, config, out, on_round=lambda round_: say(console, f"round {round_}: the same images, learnt from")
        )
    if started.seeded:
        say(console, f"{started.seeded} labelled images came in as round 0: representation and best image, no more")
    if started.unused:
        say(console, f"{started.unused} labelled images are of no use to this run (see docs/feedback.md)")
    say(console, f"hero resume {out}  # goes on learning")


bench_app = typer.Typer(cls=_Group, no_args_is_help=True, help="Benchmarks; each goes on where it was stopped.")
app.add_typer(bench_app, name="bench")


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
    _quiet_libraries()
    from hero.bench.success import run_success, to_markdown

    console = Console()
    with _interruptible_bench(out):
        cells = run_success(
            names,
            methods,
            range(first_seed, first_seed + seeds),
            out,
            images=images,
            settings=own,
            report=lambda line: say(console, line),
        )
    say(console, to_markdown(cells), str(out / "results.md"))


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
    _quiet_libraries()
    from hero.bench.speed import measure_speed, model_folder, to_markdown, write_speed

    console = Console()
    with _interruptible_bench(out):
        out.mkdir(parents=True, exist_ok=True)
        config = configure("hand", model=str(model_folder(model, out)), images_per_round=images, settings=own)
        speed = measure_speed(config, model)
        write_speed(speed, out)
    say(console, to_markdown(speed), str(out / "speed.md"))


@app.command()
def doctor(
    model: Annotated[
        str, typer.Option(metavar="PATH_OR_ID", help="The model to try: tinyworld, a pipeline folder or a hub id.")
    ] = "tinyworld",
    evaluator: Annotated[
        str | None, typer.Option(metavar="MODULE:CALLABLE", help="An evaluator of your own to try on one batch.")
    ] = None,
    revision: Revision = None,
    variant: Variant = None,
    token: Token = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation, a model and an evaluator; exit status 1 if anything is wrong."""
    own = merge(parse_assignments(settings or []), _hub_settings(revision, variant, token))
    _quiet_libraries()
    from hero.doctor import diagnose

    console = Console()
    checks = []
    for check in diagnose(model, evaluator, settings=own):
        checks.append(check)
        if not as_json:
            say(console, f"{'✓' if check.ok else '✗'} {check.name}: {check.detail}")
            if not check.ok:
                say(console, f"  → {check.remedy}")
    healthy = all(check.ok for check in checks)
    if as_json:
        _print_json({"ok": healthy, "checks": [vars(check) for check in checks]})
    if not healthy:
        raise typer.Exit(1)


def _share_work(processes: int | None) -> None:
    """Starts the processes that were asked for and waits for them; in a process that only helps, helps.

    Comes back in the process that has a run to train.
    """
    if "RANK" in os.environ:  # started by torchrun or accelerate, or by the lines below
        from hero.distributed import is_helper, process_count

        if processes is not None and processes != process_count():
            raise ConfigError(f"--processes {processes}, but {process_count()} were started already; leave it out")
        if is_helper():
            _quiet_libraries()
            from hero.learner import help_main

            help_main()
            raise typer.Exit
    elif processes is not None and processes > 1:
        from hero.distributed import launch

        raise typer.Exit(launch(processes, ["-m", "hero", *sys.argv[1:]]))


def _hub_settings(revision: str | None, variant: str | None, token: str | None) -> dict[str, Any]:
    """Where on the hub the model is, as settings; the token goes to the hub's client alone."""
    if token is not None:
        os.environ["HF_TOKEN"] = token
    given = {key: value for key, value in (("revision", revision), ("variant", variant)) if value is not None}
    return {"model": given} if given else {}  # an empty table would hide a `model` that is none


def _names_evaluator(own: Mapping[str, Any]) -> bool:
    """Whether the settings say who answers."""
    stage = own.get("evaluator", {})
    return not isinstance(stage, Mapping) or "name" in stage


def _evaluator_for_new_run(config: Config, out: Path) -> Evaluator | LiveEvaluator | None:
    """Refuses a folder that is taken before it looks for the evaluator; neither needs the model."""
    from hero.run import RunDirectory

    RunDirectory.check_free(out)
    return _evaluator_of(config)


def _evaluator_of(config: Config) -> Evaluator | LiveEvaluator | None:
    """Who answers in this process; None where people do, at their page."""
    from hero.evaluators import resolve

    return None if config.evaluator.name == "web" else resolve(config)


@contextmanager
def _people_at(
    run: Path, config: Config, console: Console, *, host: str, port: int | None, browser: bool
) -> Iterator[People]:
    """The people at the page of `run`, which is served within."""
    from hero.evaluators.people import People
    from hero.feedback import LabelStore
    from hero.page import serving

    shared = config.evaluator.store
    with (
        LabelStore(shared or run / "feedback.db") as store,
        serving(run, shared, host=host, port=port, browser=browser) as page,
    ):
        say(console, f"label at {page.address}")
        yield People(store, config.evaluator)
        time.sleep(_FAREWELL)


def _check_unchanged(begun: Config, wanted: Config) -> None:
    """Refuses to make another run out of one that has begun."""
    for key in _FIXED:
        before, after = (attrgetter(key)(config) for config in (begun, wanted))
        if before != after:
            raise ConfigError(f"{key} cannot change once a run has begun; start a new run with `hero train`")


def _finish(
    run: Path,
    config: Config,
    history: list[RoundStats] | None,
    console: Console,
    as_json: bool,
    people: People | None = None,
) -> None:
    """Evaluates, writes the report and says what came of the run; of one that people stopped (None), how to go on."""
    if history is None:
        say(console, f"stopped, everything is saved; `hero resume {run}` goes on from here")
        return
    from hero.report import write_report
    from hero.trained import TrainedRun

    result = None
    if config.evaluation.after_training:
        heard = None if people is None else people.evaluating
        result = _evaluation_of(run, labels=history[-1].labels) or _evaluate(TrainedRun(run), console, heard=heard)
        write_report(run)
    if people is not None:
        people.say("stopped", message=f"The run has ended; `hero resume {run} --rounds {2 * len(history)}` goes on.")
    if not as_json:
        say(console, *closing_lines(run, len(history), result))
        return
    report_file = run / "report.html"
    _print_json(
        {
            "run": str(run),
            "lora": str(run / "lora" / "pytorch_lora_weights.safetensors"),
            "metrics": str(run / "metrics.jsonl"),
            "report": str(report_file) if report_file.is_file() else None,
            "rounds": [stats.to_dict() for stats in history],
            "evaluation": result,
        }
    )


def _train(
    tuner: Tuner, evaluator: People | Evaluator | LiveEvaluator | None, console: Console
) -> list[RoundStats] | None:
    """Trains what is left to train; returns the figures of every round, or None if people stopped the run."""
    from hero.attended import train_with_people
    from hero.evaluators.people import People

    assert evaluator is not None
    per_round = tuner.config.sampling.images_per_round
    drawn = 0

    def where() -> str:
        return f"round {tuner.round}/{tuner.config.rounds}"

    def advance(completed: int, what: str) -> None:
        update(completed, what, tuner.config.rounds * per_round)  # people may add rounds

    with progress_bar(console, where(), tuner.config.rounds * per_round) as update:
        advance(len(tuner.history) * per_round, f"{where()} drawing")

        def on_chunk(chunk: ImageChunk) -> None:
            nonlocal drawn
            drawn += len(chunk.images)
            doing = "drawing" if drawn < chunk.total else "learning"
            advance((chunk.round - 1) * per_round + drawn, f"{where()} {doing}")

        def on_round(stats: RoundStats) -> None:
            nonlocal drawn
            drawn = 0
            say(console, round_line(stats, tuner.config.rounds))
            if not tuner.done:
                advance(stats.round * per_round, f"{where()} drawing")

        with tuner:
            if isinstance(evaluator, People):
                done = train_with_people(tuner, evaluator, on_chunk=on_chunk, on_round=on_round)
                return tuner.history if done else None
            return tuner.run(evaluator, on_chunk=on_chunk, on_round=on_round)


def _evaluation_of(run: Path, labels: int) -> dict[str, Any] | None:
    """The evaluation on disk if it is of the model as it is after `labels` labels."""
    try:
        result: dict[str, Any] = json.loads((run / "evaluation" / "result.json").read_text(encoding="utf-8"))
        return result if result["labels"] == labels else None
    except (OSError, ValueError, KeyError):
        return None


def _evaluate(
    trained: TrainedRun,
    console: Console,
    *,
    images: int | None = None,
    prompts: list[str] | None = None,
    heard: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    count = images or trained.config.evaluation.images
    if not console.is_terminal:
        say(console, f"evaluating on {count} held-out images a set")
    with progress_bar(console, "evaluating", count) as advance:

        def progress(done: int, total: int) -> None:
            advance(done, "evaluating", total)
            if heard is not None:
                heard(done, total)

        result = trained.evaluate(images=images, prompts=prompts, progress=progress)
    return result.to_dict()


def _blind_desk(
    run: Path, evaluator: str, console: Console, *, images: int | None, prompts: list[str] | None
) -> BlindDesk:
    """The desk for `evaluator`; draws what is not drawn yet."""
    from hero.evaluators import check_judge
    from hero.run import RunDirectory

    directory = RunDirectory.open(run)
    check_judge(evaluator, directory.config)
    _quiet_libraries()
    from hero.evaluation.people import PEOPLE_IMAGES, BlindDesk
    from hero.evaluation.stored import stored_evaluation

    count = images or PEOPLE_IMAGES
    if stored_evaluation(directory, count, prompts) is None:
        _evaluate(_load_trained(run), console, images=count, prompts=prompts)
    return BlindDesk(directory, evaluator, count)


def _judge_here(desk: BlindDesk, evaluator: str, console: Console) -> dict[str, Any]:
    from hero.evaluators import resolve_judge

    with desk:
        return desk.judge(resolve_judge(evaluator, desk.config), lambda *done: say(console, _judged(*done)))


def _judge_on_page(desk: BlindDesk, console: Console, *, host: str, port: int | None, browser: bool) -> dict[str, Any]:
    """Serves the desk until people have judged every round."""
    from hero.evaluators.people import People, RunStopped
    from hero.page import serving

    with desk:
        people = People(desk.store, desk.config.evaluator)
        people.channel.publish("run", 0, desk.description())
        with serving(desk.path, host=host, port=port, browser=browser) as page:
            say(console, f"judge the images at {page.address}")
            try:
                result = desk.judge(people, lambda *done: say(console, _judged(*done)))
            except (RunStopped, KeyboardInterrupt):
                people.say("stopped", message="Stopped; what was judged is kept.")
                raise KeyboardInterrupt from None
            people.say("finished", message="Everything is judged. Thank you!")
            time.sleep(_FAREWELL)
        return result


def _judged(done: int, rounds: int) -> str:
    return f"round {done}/{rounds} judged"


def _not_empty(prompts: list[str] | None) -> list[str] | None:
    if prompts and not all(prompt.strip() for prompt in prompts):
        raise ConfigError("--prompt is empty; give the text to draw")
    return prompts or None


def _load_trained(run: Path) -> TrainedRun:
    from hero.run import RunDirectory

    RunDirectory.open(run)  # a wrong folder is told at once, before diffusers is imported
    _quiet_libraries()
    from hero.trained import TrainedRun

    return TrainedRun(run)


@contextmanager
def _interruptible(run: Path, command: str = "") -> Iterator[None]:
    """Ctrl-C within it says that `command`, else `hero resume`, goes on."""
    try:
        yield
    except KeyboardInterrupt:
        begun, command = (run / "config.toml").exists(), command or f"hero resume {run}"
        _complain(f"stopped; `{command}` goes on from here" if begun else "stopped; nothing was written")
        raise typer.Exit(_INTERRUPTED) from None


@contextmanager
def _interruptible_bench(out: Path) -> Iterator[None]:
    """Ctrl-C within it says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        _complain(f"stopped; the same command with --out {out} goes on from here")
        raise typer.Exit(_INTERRUPTED) from None


def _quiet_libraries() -> None:
    """Keeps the libraries' own chatter out of the output; downloads still show their progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _complain(message: str) -> None:
    print(f"hero: {message}", file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def main() -> None:
    """The entry point `hero`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ✓ still gets its answer
    app()
