"""A run's result as files for other programs: a LoRA in diffusers' or kohya's layout, a model that has it, a node.

Reads the run directory alone; only `fused` and `single-file` read the model. Exporting twice gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hero.errors import ConfigError, RunError, nearest
from hero.export.kohya import KOHYA_FAMILIES, kohya_encoder_tensors, kohya_tensors
from hero.export.metadata import checkpoint_metadata, kohya_metadata
from hero.export.result import RunResult, read_model_facts, read_result
from hero.export.web_ui import user_metadata
from hero.model_index import is_single_file, missing_folder
from hero.policies.lora_file import LORA_NAME, scaled, write_lora_file, write_sorted
from hero.run.directory import NOISE_FILE, START_FILE
from hero.run.finished import FinishedRun
from hero.run.output import check_free, new_output
from hero.snippets import refined_spread

if TYPE_CHECKING:
    from hero.policies.fusing import FusedPrecision

__all__ = ["FORMATS", "KOHYA_FAMILIES", "Format", "export"]


def export(run: str | Path, format_: str, out: str | Path, *, weight: float = 1.0, round_: int | None = None) -> Path:
    """Writes the run's result as `format_`, with its model card; returns `out`. Overwrites nothing.

    Args:
        run: the run directory.
        format_: see `FORMATS`.
        out: a folder (`diffusers`, `fused`, `comfyui`), new or empty, or (the others) a new .safetensors file.
        weight: factor of the LoRA's effect, as a LoRA's weight in other programs; 1 is as trained.
        round_: the result as it was after that round, if it is kept; None: the newest.

    Raises:
        ConfigError: an unknown format or a weight that is not a finite number, or a format that has no names for the
            layers of the run's model.
        RunError: there is nothing to export, or a file exists that would be overwritten, or `out` cannot be written.
        ModelError: the model (for `kohya` its configuration) cannot be read.
    """
    if format_ not in FORMATS:
        raise ConfigError(f"unknown format {format_!r}; {nearest(format_, FORMATS)}")
    if not abs(weight) < float("inf"):
        raise ConfigError(f"--weight {weight} is not a finite number; 1 is as trained")
    if weight != 1 and format_ == "comfyui":
        raise ConfigError(f"--weight {weight}: a {format_} export holds noise and no LoRA; leave it out")
    kind = FORMATS[format_]
    if kind.is_file and Path(out).suffix != ".safetensors":
        raise ConfigError(f"--out {out}: {format_} is one file that ends in .safetensors")
    check_free(out, kind.beside)
    result = read_result(run, round_)
    encoders = {name: scaled(part, weight) for name, part in result.lora.encoders.items()}
    lora = replace(result.lora, lora=scaled(result.lora.lora, weight), encoders=encoders)
    result = replace(result, lora=lora, weight=weight)
    with (
        tempfile.TemporaryDirectory() as earlier,
        new_output(out, kind.beside, last="model_index.json") as made,
    ):
        if round_ is not None:
            result = replace(result, noise_file=_noise_after(run, round_, Path(earlier)))
        precision = kind.write(result, made)
        _write_card(result, format_, made, precision)
    return Path(out)


@dataclass(frozen=True)
class Format:
    """A format of `export`.

    Attributes:
        write: makes the file, with others beside it, or fills the folder, which exists; returns what the precision of a
            fused model costs.
        beside: endings of the files beside a file, in place of `.safetensors`; () for a folder.
    """

    write: Callable[[RunResult, Path], FusedPrecision | None]
    beside: tuple[str, ...] = ()

    @property
    def is_file(self) -> bool:
        return bool(self.beside)


def _diffusers(result: RunResult, out: Path) -> None:
    write_lora_file(result.lora, out / LORA_NAME)
    if result.config.lora.merge_start:  # without it the LoRA is that of another model
        shutil.copyfile(str(result.config.lora.start), out / START_FILE)
    _copy_noise(result, out)


_CARD, _PREVIEW, _WEB_UI = ".md", ".preview.png", ".json"


def _kohya(result: RunResult, out: Path) -> None:
    facts = read_model_facts(result)
    tensors = kohya_tensors(result.lora.lora, result.lora.rank, facts.family, facts.denoiser)
    tensors |= kohya_encoder_tensors(result.lora.encoders, facts.family)
    write_sorted(tensors, out, kohya_metadata(result, facts, tensors, out.stem))
    out.with_suffix(_WEB_UI).write_text(user_metadata(result, facts), encoding="utf-8")
    if result.best is not None:
        result.best.save(out.with_suffix(_PREVIEW))


def _fused(result: RunResult, out: Path) -> FusedPrecision:
    """The original pipeline, its own scheduler and precision included, with the LoRA added to its weights."""
    from hero.policies import load_pipeline
    from hero.policies.fusing import fuse, stored_dtypes

    pipeline = load_pipeline(result.config.model, stored_dtypes(result.config.model))
    denoiser, encoders = _added(result, pipeline)
    for name, matrices in encoders.items():
        fuse(getattr(pipeline, name), matrices, 1.0)
    precision = fuse(getattr(pipeline, result.lora.component), denoiser, 1.0)
    pipeline.save_pretrained(out)
    for weights in out.rglob("*.safetensors"):  # written readable only by their owner
        weights.chmod((out / "model_index.json").stat().st_mode)
    _copy_noise(result, out)
    return precision


def _comfyui(result: RunResult, out: Path) -> None:
    """The node's code, the noise, and the prompts that it offers."""
    if not result.refined_prompts:
        raise RunError(f"{result.name} has no refined noise; it comes with the first best image")
    shutil.copyfile(Path(__file__).with_name("comfyui_node.py"), out / "__init__.py")
    _copy_noise(result, out)
    prompts = {str(index): result.config.task.prompts[index] for index in result.refined_prompts}
    about = {"near": refined_spread(result.config), "prompts": prompts}
    (out / "prompts.json").write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")


def _single_file(result: RunResult, out: Path) -> FusedPrecision:
    """The one file that the model came in, with the LoRA added to its weights; the rest of it is as it was."""
    from hero.policies import load_pipeline
    from hero.policies.single_file import fuse_file

    path = result.config.model.path
    if not is_single_file(path):
        raise ConfigError(
            f"--format single-file gives back the one file that a model came in, and {path!r} is none; use --format "
            "fused"
        )
    source = Path(path).expanduser()
    if not source.exists():
        raise missing_folder(path)
    facts = read_model_facts(result)
    # Which of its layers a LoRA of others is on is told by the pipeline.
    pipeline = load_pipeline(result.config.model) if result.config.lora.start else None
    denoiser, encoders = _added(result, pipeline)
    about = checkpoint_metadata(result, facts)
    return fuse_file(source, out, {"": denoiser, **encoders}, facts.family, facts.denoiser, about)


def _noise_after(run: str | Path, round_: int, folder: Path) -> Path | None:
    """A file in `folder` with the refined noise as it was after `round_`; None if there was none."""
    from hero.run.state import restored_noise

    finished = FinishedRun(run, round_=round_)
    noise = restored_noise(finished.config, finished.checkpoint())
    if noise is None:
        return None
    noise.save(folder / NOISE_FILE)
    return folder / NOISE_FILE


_Matrices = dict[str, torch.Tensor]


def _added(result: RunResult, pipeline: Any) -> tuple[_Matrices, dict[str, _Matrices]]:
    """What to add to the weights of the denoiser, with a LoRA that is merged in the same sum, and of text encoders."""
    settings, lora = result.config.lora, result.lora.lora
    if settings.start is None:
        return lora, {}
    from hero.policies.fusing import by_name
    from hero.policies.lora_start import read_start

    start = read_start(Path(settings.start), pipeline, result.lora.component)
    strength = 1.0 if settings.merge_start else result.weight
    encoders = {name: scaled(by_name(pairs), strength) for name, pairs in start.encoders.items()}
    if not settings.merge_start:  # it is what was trained on
        return lora, encoders
    merged = scaled(by_name(start.denoiser), start.ratio)
    axis = {"A": 0, "B": 1}
    both = {
        key: torch.cat([part[key] for part in (merged, lora) if key in part], dim=axis[key.rpartition(".lora_")[2][0]])
        for key in {**merged, **lora}
    }
    return both, encoders


FORMATS: Mapping[str, Format] = {
    "diffusers": Format(_diffusers),
    "kohya": Format(_kohya, beside=(_CARD, _PREVIEW, _WEB_UI)),
    "fused": Format(_fused),
    "single-file": Format(_single_file, beside=(_CARD,)),
    "comfyui": Format(_comfyui),
}
"""Name → writer: of pytorch_lora_weights.safetensors, of one file in kohya's layout, of a whole pipeline, of the one
file that the model came in, of a node."""


def _copy_noise(result: RunResult, out: Path) -> None:
    if result.noise_file is not None:
        shutil.copyfile(result.noise_file, out / result.noise_file.name)


def _write_card(result: RunResult, format_: str, out: Path, precision: FusedPrecision | None) -> None:
    """README.md inside a folder; for a file, a .md file of the same name beside it."""
    from hero.export.card import model_card

    target = out / "README.md" if out.is_dir() else out.with_suffix(_CARD)
    model_card(result, format_, out.name, precision).save(target)
