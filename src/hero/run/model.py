"""Which model a run was trained on: its place, what tells it from others, and its own description. No torch.

A run's folder, or the model's, may be moved. What does not move with them is told by `fingerprint`, and what other
programs need to know of the model is kept in the run, so that exports of a LoRA read the run alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hero.config import Config, ModelConfig
from hero.errors import ConfigError, RunError
from hero.model_index import is_folder, read_header
from hero.tinyworld import NAME as TINYWORLD

__all__ = ["MODEL_FILE", "ModelRecord", "check_same_model", "fingerprint", "located", "placed", "read_record"]

MODEL_FILE = "model.json"
_BEGINNING = 4096
"""Bytes of a tensor that are part of a fingerprint."""
_UPWARDS = 2
"""Folders to go up from a run to a model that still lies beside it: `runs/NAME` and `models/NAME`."""


@dataclass(frozen=True)
class ModelRecord:
    """The model of a run.

    Attributes:
        family: the pipeline's class.
        denoiser, scheduler: their configurations.
        beside: the model's place as seen from the run's folder, where it is a file or folder near it.
        weights: see `fingerprint`; None if its files were not found.
    """

    family: str
    denoiser: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    beside: str | None
    weights: str | None

    @classmethod
    def of(cls, config: ModelConfig, run: Path, pipeline: Any, denoiser: Any) -> ModelRecord:
        """The record of a model that is loaded."""
        beside = None
        if config.path != TINYWORLD and is_folder(config.path):
            relative = os.path.relpath(config.path, run.absolute())
            beside = relative if Path(relative).parts.count("..") <= _UPWARDS else None
        return cls(
            type(pipeline).__name__,
            _plain(denoiser.config),
            _plain(pipeline.scheduler.config),
            beside,
            fingerprint(config),
        )

    def to_json(self) -> str:
        """The text of its file."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(config), default=str))
    return plain


def read_record(run: Path) -> ModelRecord | None:
    """The record in a run's folder; None in runs that were made before there was one.

    Raises:
        RunError: it cannot be read.
    """
    path = run / MODEL_FILE
    try:
        return ModelRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}); restore it, or remove it") from None


def placed(config: Config) -> Config:
    """`config` with absolute paths of the model's files, so that it means the same from every folder."""
    model, changed = config.model, dict[str, str]()
    if model.path != TINYWORLD and is_folder(model.path):
        changed["path"] = os.path.abspath(Path(model.path).expanduser())
    if model.config is not None and is_folder(model.config):
        changed["config"] = os.path.abspath(Path(model.config).expanduser())
    return config.model_copy(update={"model": model.model_copy(update=changed)}) if changed else config


def located(config: Config, run: Path) -> Config:
    """`config` with the model's present place, if it was moved together with the run."""
    path = config.model.path
    if path == TINYWORLD or not Path(path).is_absolute() or Path(path).exists():
        return config
    record = read_record(run)
    if record is None or record.beside is None or record.weights is None:
        return config
    model = config.model.model_copy(update={"path": os.path.abspath(run / record.beside)})
    return config.model_copy(update={"model": model}) if fingerprint(model) == record.weights else config


def check_same_model(run: Path, begun: ModelConfig, wanted: ModelConfig) -> None:
    """Raises ConfigError if `wanted` is another model than the run's, which was `begun`, at another place.

    A run that was made before there were records, and whose model is gone, takes the word of whoever resumes it.
    """
    record = read_record(run)
    known = record.weights if record is not None else fingerprint(begun)
    found = fingerprint(wanted)
    if found is None:
        raise ConfigError(f"model.path = {wanted.path!r}: there is no model there; the run's is {begun.path!r}")
    if TINYWORLD in (begun.path, wanted.path) or (known is not None and known != found):
        raise ConfigError(
            f"model.path cannot change once a run has begun (it is {begun.path!r}): what was learnt belongs to that "
            f"model, and {wanted.path!r} is another model, its weights are not the same; start a new run with "
            "`hero train`"
        )


def fingerprint(config: ModelConfig) -> str | None:
    """A SHA-256 that changes if the model's weights do; None if its files are not on this machine.

    It is over the name, dtype, shape and first 4096 bytes of every tensor of every component, however they are shared
    out over files, so that it takes moments where gigabytes would take minutes. Files in other formats than safetensors
    count by size, first and last mebibyte.
    """
    place = _files_at(config)
    if place is None:
        return None
    root = place if place.is_dir() else place.parent
    files = _chosen(place, config.variant)
    if not files:
        return None
    digest = hashlib.sha256()
    entries = [entry for file in files for entry in _entries(file, file.relative_to(root).parent.as_posix())]
    if place.is_file() and config.config is not None and is_folder(config.config):
        entries += _described(Path(config.config).expanduser())
    for entry in sorted(entries):
        digest.update(entry)
    return digest.hexdigest()


def _files_at(config: ModelConfig) -> Path | None:
    if config.path == TINYWORLD or is_folder(config.path):
        from hero.tinyworld import model_path

        path = Path(model_path() if config.path == TINYWORLD else config.path).expanduser()
        return path if path.exists() else None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(config.path, revision=config.revision, local_files_only=True))
    except Exception:  # not in the cache: each reason has an error of its own
        return None


def _chosen(place: Path, variant: str | None) -> list[Path]:
    """The files of weights that are loaded: those of the variant, or those of none."""
    if place.is_file():
        return [place]
    found = sorted(file for ending in ("safetensors", "bin") for file in place.glob(f"*/*.{ending}"))
    of_variant = [file for file in found if f".{variant}." in file.name or f".{variant}-" in file.name]
    plain = [file for file in found if file.name.removesuffix(file.suffix).count(".") == 0]
    return (of_variant if variant else plain) or found


def _described(folder: Path) -> list[bytes]:
    """What of the folder that a one-file model is described by counts: its small files, and its text encoders."""
    small = [file for ending in ("json", "txt", "model", "jinja") for file in folder.rglob(f"*.{ending}")]
    lines = [_line(f.relative_to(folder).parent.as_posix(), f.name, f.stat().st_size, f.read_bytes()) for f in small]
    encoders = sorted(folder.glob("text_encoder*/*.safetensors"))
    return lines + [entry for file in encoders for entry in _entries(file, file.relative_to(folder).parent.as_posix())]


def _entries(file: Path, component: str) -> Iterator[bytes]:
    """What a fingerprint is made of: a line for each tensor."""
    with file.open("rb") as data:
        if file.suffix != ".safetensors":
            size = file.stat().st_size
            first = data.read(2**20)
            data.seek(max(0, size - 2**20))
            yield _line(component, file.name, size, first + data.read())
            return
        for name, about in read_header(file).items():
            if name != "__metadata__":
                begin, end = about["data_offsets"]
                data.seek(0)
                data.seek(8 + int.from_bytes(data.read(8), "little") + begin)
                yield _line(component, name, [about["dtype"], about["shape"]], data.read(min(end - begin, _BEGINNING)))


def _line(component: str, name: str, about: object, content: bytes) -> bytes:
    return json.dumps([component, name, about, hashlib.sha256(content).hexdigest()]).encode()
