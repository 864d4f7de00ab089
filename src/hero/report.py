"""The report of a run: one HTML file that opens without a server, a network or a script.

It reads the run directory alone and never a model. A part whose files are missing becomes a sentence that
says what is missing and how to make it.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel

import hero
from hero.config import Config, load_toml, validate
from hero.errors import RunError
from hero.feedback.store import LabelStore
from hero.tasks import TASKS
from hero.tinyworld import NAME as TINYWORLD
from hero.types import Feedback, RoundStats, image_id

__all__ = ["write_report"]

_PAIRS_SHOWN = 12
_UNRELATED_SHOWN = 8
_ROUND_IMAGES_BYTES = 4_500_000
_THUMBNAILS = ((112, 85), (96, 80), (72, 75), (56, 70), (40, 60))
"""(side in pixels, JPEG quality), tried from the best until the images of all rounds fit."""

_SETS = {
    "base": ("Base model", "fresh noise"),
    "tuned_fresh": ("Tuned model", "fresh noise"),
    "tuned_refined": ("Tuned model", "refined noise"),
}


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into `run_dir` and returns its path.

    Raises:
        RunError: `run_dir` holds no config.toml, or one of its files cannot be read.
    """
    run = _Run(Path(run_dir))
    environment = Environment(
        loader=PackageLoader("hero"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, duration=_duration)
    page = environment.get_template("report.html.j2").render(
        run=run,
        config=run.config,
        version=hero.__version__,
        written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
    )
    target = run.folder / "report.html"
    partial = target.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


@dataclass(frozen=True)
class _Tile:
    """One success figure; shares in [0, 1]."""

    model: str
    noise: str
    value: float | None
    low: float = 0.0
    high: float = 1.0
    count: str = ""


@dataclass(frozen=True)
class _Picture:
    """One embedded image. `verdict` is "good", "bad" or "" (unknown)."""

    src: str
    alt: str
    verdict: str = ""
    best: bool = False


@dataclass(frozen=True)
class _Pair:
    """The same prompt and noises, before and after."""

    prompt: str
    before: _Picture
    after: _Picture


@dataclass(frozen=True)
class _Round:
    """What was shown in one round, and what it did; `found` images are on disk."""

    stats: RoundStats
    pictures: tuple[_Picture, ...]
    found: int

    @property
    def good_share(self) -> float | None:
        judged = self.stats.good + self.stats.bad
        return self.stats.good / judged if judged else None

    @property
    def kept_best(self) -> list[str]:
        """Ids of the best images so far that an earlier round showed."""
        start = image_id(self.stats.round, 0).partition("-")[0]
        return [best for best in self.stats.best if not best.startswith(start)]

    @property
    def seconds(self) -> float:
        return self.stats.seconds_sampling + self.stats.seconds_waiting + self.stats.seconds_updating


@dataclass(frozen=True)
class _Setting:
    """One row of the table of settings; `changed`: it differs from the field's own default."""

    key: str
    value: str
    meaning: str
    changed: bool


class _Run:
    """A run directory, as the template asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.toml").is_file():
            raise RunError(f"{folder} is not a run directory: it holds no config.toml; give one that `hero train` made")
        self.config: Config = validate(load_toml(folder / "config.toml"))

    @property
    def name(self) -> str:
        """How commands name the run: the path as given; of an absolute one its last part."""
        return self.folder.resolve().name if self.folder.is_absolute() else self.folder.as_posix()

    @cached_property
    def stats(self) -> list[RoundStats]:
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        try:
            return [RoundStats.from_dict(json.loads(line)) for line in lines if line.strip()]
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} cannot be read ({error}); restore it, or remove the broken line") from None

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """The object of `hero evaluate --json`, if the run was evaluated."""
        path = self.folder / "evaluation" / "result.json"
        if not path.is_file():
            return None
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{path} cannot be read ({error}); `hero evaluate` writes it anew") from None
        return result

    @property
    def details(self) -> dict[str, Any]:
        """The evaluation's extras; empty without an evaluation."""
        return dict((self.evaluation or {}).get("details", {}))

    @property
    def sensitive(self) -> bool:
        task = TASKS.get(self.config.task.name)
        return task is not None and task.sensitive

    @property
    def labels(self) -> int:
        return self.stats[-1].labels if self.stats else 0

    @cached_property
    def tiles(self) -> list[_Tile]:
        """Success of each image set; empty where it is unknown of all of them."""
        if self.evaluation is None or self.evaluation["success"]["base"] is None:
            return []
        return [self._tile(name) for name in _SETS]

    def _tile(self, name: str) -> _Tile:
        assert self.evaluation is not None
        model, noise = _SETS[name]
        value = self.evaluation["success"][name]
        if value is None:
            return _Tile(model, noise, None)
        low, high = self.evaluation["success_interval"][name]
        images = self.evaluation["images"]
        return _Tile(model, noise, value, low, high, f"{round(value * images)} of {images} images")

    @property
    def finding(self) -> str:
        """The headline: success on fresh noise before and after, and whether chance could explain it."""
        if not self.tiles or self.tiles[1].value is None or self.tiles[0].value is None:
            return ""
        base, tuned = self.tiles[0], self.tiles[1]
        assert base.value is not None
        assert tuned.value is not None
        verb = "rose" if tuned.value > base.value else "fell" if tuned.value < base.value else "stayed"
        text = f"Success on fresh noise {verb} from {_percent(base.value)} to {_percent(tuned.value)}"
        if verb == "stayed":
            text = f"Success on fresh noise stayed at {_percent(base.value)}"
        text += f" after {self.labels} labels." if self.labels else "."
        if max(base.low, tuned.low) <= min(base.high, tuned.high):
            text += " The two intervals overlap: measure on more images before relying on the difference."
        return text

    @cached_property
    def pairs(self) -> list[_Pair]:
        """The base's first images beside the tuned model's from the same noises; in order, not selected."""
        return self._pairs("base", "tuned_fresh", "the task", _PAIRS_SHOWN)

    @cached_property
    def unrelated_pairs(self) -> list[_Pair]:
        """Prompts that have nothing to do with the task, before and after."""
        return self._pairs("unrelated_base", "unrelated_tuned", "an unrelated prompt", _UNRELATED_SHOWN)

    def _pairs(self, before: str, after: str, what: str, limit: int) -> list[_Pair]:
        prompts = list(self.details.get("drift_by_prompt", {})) if before != "base" else self.details.get("prompts")
        pairs = []
        for index in range(limit):
            prompt = prompts[index] if prompts and index < len(prompts) else ""
            pictures = [self._evaluated(name, index, prompt or what) for name in (before, after)]
            if pictures[0] is None or pictures[1] is None:
                break
            pairs.append(_Pair(prompt, pictures[0], pictures[1]))
        return pairs

    @cached_property
    def refined(self) -> list[_Picture]:
        """The first images of the tuned model on refined noise."""
        found = (self._evaluated("tuned_refined", i, "refined noise") for i in range(_PAIRS_SHOWN))
        return [picture for picture in found if picture is not None]

    def _evaluated(self, name: str, index: int, what: str) -> _Picture | None:
        path = self.folder / "evaluation" / name / f"{index:04d}.png"
        if not path.is_file():
            return None
        marks = self.details.get("verdicts", {}).get(name)
        verdict = "" if marks is None or index >= len(marks) else "good" if marks[index] else "bad"
        who = "base model" if name.endswith("base") else "tuned model"
        judged = {"good": ", judged a success", "bad": ", judged a failure", "": ""}[verdict]
        return _Picture(_data_uri(_open(path), 256, 90), f"{who}, image {index}: {what}{judged}", verdict)

    @cached_property
    def rounds(self) -> list[_Round]:
        """Every round with its images, small enough that all of them fit into the file."""
        paths = {s.round: sorted((self._round_folder(s.round) / "images").glob("*.png")) for s in self.stats}
        side, quality, per_round = _fit([p for found in paths.values() for p in found], len(paths))
        feedback = self._feedback()
        return [
            _Round(
                stats,
                tuple(
                    _thumbnail(path, stats, feedback.get(stats.round), side, quality)
                    for path in paths[stats.round][:per_round]
                ),
                len(paths[stats.round]),
            )
            for stats in self.stats
        ]

    def _round_folder(self, round_: int) -> Path:
        return self.folder / "rounds" / f"{round_:04d}"

    def _feedback(self) -> dict[int, Feedback]:
        path = self.folder / "feedback.db"
        if not path.is_file():
            return {}
        with LabelStore(path) as store:
            answers = {s.round: store.submission(s.round) for s in self.stats}
        return {round_: feedback for round_, feedback in answers.items() if feedback is not None}

    @cached_property
    def charts(self) -> list[_Chart]:
        """What changed over the labels; empty for a single round."""
        return _charts(self.stats) if len(self.stats) > 1 else []

    @property
    def seconds(self) -> Mapping[str, float]:
        """Phase -> seconds over all rounds."""
        return {
            "sampling": sum(s.seconds_sampling for s in self.stats),
            "waiting": sum(s.seconds_waiting for s in self.stats),
            "updating": sum(s.seconds_updating for s in self.stats),
        }

    @property
    def longest_round(self) -> float:
        """Seconds of the round that took longest; positive."""
        return max((round_.seconds for round_ in self.rounds), default=0.0) or 1.0

    @property
    def settings(self) -> list[_Setting]:
        return list(_settings(self.config))

    @property
    def lora(self) -> str:
        """Size of the LoRA file in words; "" if there is none."""
        path = self.folder / "lora" / "pytorch_lora_weights.safetensors"
        return f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else ""

    @property
    def has_refined_noise(self) -> bool:
        return (self.folder / "refined_noise.safetensors").is_file()

    @property
    def snippet(self) -> str:
        """Python that loads the LoRA into a plain diffusers pipeline."""
        return _snippet(self.config)


def _snippet(config: Config) -> str:
    bundled = config.model.path == TINYWORLD
    source = "model_path()" if bundled else json.dumps(config.model.path)
    extras = "".join(
        f", {name}={json.dumps(value)}"
        for name, value in (("revision", config.model.revision), ("variant", config.model.variant))
        if value is not None and not bundled
    )
    if config.model.dtype != "float32":
        extras += f", torch_dtype=torch.{config.model.dtype}"
    imports = ["import torch"] if config.model.dtype != "float32" else []
    imports += ["from diffusers import DDIMScheduler, DiffusionPipeline"]
    imports += ["", "from hero.tinyworld import model_path"] if bundled else []
    sampling = config.sampling
    return "\n".join(
        [
            *imports,
            "",
            f"pipeline = DiffusionPipeline.from_pretrained({source}{extras})",
            "pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)",
            'pipeline.load_lora_weights("lora")  # the folder beside this report',
            "image = pipeline(",
            f"    {json.dumps(config.task.prompts[0], ensure_ascii=False)},",
            f"    num_inference_steps={sampling.num_steps},",
            f"    guidance_scale={sampling.guidance_scale:g},",
            f"    eta={sampling.eta:g},",
            *(f"    {side}={getattr(sampling, side)}," for side in ("height", "width") if getattr(sampling, side)),
            ").images[0]",
        ]
    )


def _settings(model: BaseModel, prefix: str = "") -> Iterator[_Setting]:
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        key = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{key}.")
        else:
            changed = not info.is_required() and value != info.get_default(call_default_factory=True)
            yield _Setting(key, _shown(value), info.description or "", changed)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise RunError(f"the image {path} cannot be read ({error}); remove it or restore it") from None


def _data_uri(image: Image.Image, side: int, quality: int) -> str:
    """`image` as a JPEG data URI, scaled down to fit a square of `side` pixels (never up)."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _fit(paths: Sequence[Path], rounds: int) -> tuple[int, int, int]:
    """(side, quality, images per round) under which the thumbnails of all rounds stay within their budget."""
    if not paths:
        return *_THUMBNAILS[0], 0
    sample = [_open(path) for path in paths[:: max(1, len(paths) // 12)]]
    size = 0.0
    for side, quality in _THUMBNAILS:
        size = sum(len(_data_uri(image, side, quality)) for image in sample) / len(sample)
        if size * len(paths) <= _ROUND_IMAGES_BYTES:
            return side, quality, len(paths)
    return *_THUMBNAILS[-1], max(1, int(_ROUND_IMAGES_BYTES / size / rounds))


def _thumbnail(path: Path, stats: RoundStats, feedback: Feedback | None, side: int, quality: int) -> _Picture:
    name = path.stem
    verdict = str(feedback.verdicts.get(name, "")) if feedback else ""
    best = name in stats.best
    said = ", ".join(filter(None, [f"marked {verdict}" if verdict else "no verdict", "best" if best else ""]))
    return _Picture(_data_uri(_open(path), side, quality), f"image {name}, {said}", verdict, best)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NARROW NO-BREAK SPACE}%"


def _duration(seconds: float) -> str:
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


# Stand-ins that matplotlib writes into the SVG, replaced by the page's own colours, which follow its theme.
_INK, _FAINT, _ACCENT, _SECOND = "#010101", "#020202", "#030303", "#040404"
_THEMED = {_INK: "var(--muted)", _FAINT: "var(--line)", _ACCENT: "var(--accent)", _SECOND: "var(--second)"}


@dataclass(frozen=True)
class _Line:
    """One line of a chart: a name, values over the labels (None leaves a gap), and half the band's height."""

    name: str
    values: Sequence[float | None]
    colour: str
    band: Sequence[float | None] = ()

    @property
    def css(self) -> str:
        return _THEMED[self.colour]


@dataclass(frozen=True)
class _Chart:
    """Lines over labels as an inline SVG; the page writes its legend."""

    caption: str
    lines: Sequence[_Line]
    svg: str


def _charts(stats: Sequence[RoundStats]) -> list[_Chart]:
    labels = [s.labels for s in stats]
    judged = [s.good / (s.good + s.bad) if s.good + s.bad else None for s in stats]
    lines = [_Line("marked good by the evaluator", judged, _ACCENT)]
    success = [s.success_shown for s in stats]
    if any(value is not None for value in success) and success != judged:
        lines.append(_Line("success by the judge", success, _SECOND))
    charts = [_Chart("Share of shown images that were good", lines, _svg("shown", labels, lines, share=True))]
    rewards = [s.reward_mean for s in stats]
    if any(value is not None for value in rewards):
        line = _Line("mean reward ± standard deviation", rewards, _ACCENT, [s.reward_std for s in stats])
        charts.append(_Chart("Reward of the images shown", [line], _svg("reward", labels, [line])))
    return charts


def _svg(name: str, labels: Sequence[int], lines: Sequence[_Line], *, share: bool = False) -> str:
    """A chart over labels as inline SVG in the page's own font and colours."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11, "font.family": "sans-serif"}
    buffer = io.StringIO()
    with rc_context(style):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            values = _numbers(line.values)
            axes.plot(labels, values, color=line.colour, linewidth=2, marker="o", markersize=4)
            if line.band:
                half = np.nan_to_num(_numbers(line.band))
                axes.fill_between(labels, values - half, values + half, color=line.colour, alpha=0.14, linewidth=0)
        axes.set_xlabel("labels", color=_INK)
        axes.set_xticks(labels if len(labels) <= 9 else labels[:: len(labels) // 6])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if share:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.grid(axis="y", color=_FAINT, linewidth=1)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=_INK, length=0)
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return _inline(buffer.getvalue(), name)


def _numbers(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _inline(svg: str, name: str) -> str:
    """A standalone SVG made fit to stand in a page: no prologue or addresses, own ids, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\b(id|clip-path|xlink:href)="(url\()?(#?)', rf'\1="\2\3{name}-', svg)
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for stand_in, colour in _THEMED.items():
        svg = svg.replace(stand_in, colour)
    return svg
