"""The run directory: what is on disk, written so that a kill at any moment loses nothing.

A checkpoint is a folder of safetensors files and one JSON file, written beside its final name, flushed, and
renamed into place; the newest complete one wins. `metrics.jsonl` and the like are derived from it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from PIL import Image
from safetensors import SafetensorError

from hero.config import Config, load_run_config
from hero.errors import RunError
from hero.ids import ImageId, round_of
from hero.run.fixed import check_unchanged
from hero.run.model import check_same_model, located, placed

if TYPE_CHECKING:
    import torch

__all__ = [
    "CUT_FILE",
    "EVALUATION",
    "LORA_FILE",
    "METRICS_FILE",
    "NOISE_FILE",
    "REPORT_FILE",
    "RESULT_FILE",
    "START_FILE",
    "STORE_FILE",
    "Checkpoint",
    "CheckpointKind",
    "RunDirectory",
    "being_trained",
    "image_file",
    "read_images",
]

METRICS_FILE = "metrics.jsonl"
STORE_FILE = "feedback.db"
LORA_FILE = "lora/pytorch_lora_weights.safetensors"
NOISE_FILE = "refined_noise.safetensors"
START_FILE = "start_lora.safetensors"
"""The LoRA that the run starts from, as it was given; only where it was."""
CUT_FILE = "cut_prompts.json"
"""What text encoders do not see of the run's prompts; written only where something is cut."""
REPORT_FILE = "report.html"
EVALUATION = "evaluation"
"""The folder of an evaluation, unless another is named."""
RESULT_FILE = "result.json"
"""The result of an evaluation, within that folder."""
_FORMAT = 2
_BEFORE_CONFIG = {".lock", ".config.toml.partial", START_FILE, f".{START_FILE}.partial"}
"""What is left of a run that was killed before it had a config.toml."""
_LOOKS = 5
"""How often a lock is tried before it counts as taken: whoever only looks (`being_trained`) holds it for an instant."""
_KEEP = 4
"""Two rounds: should the newest be damaged, what was learnt before and its answer are still there."""

CheckpointKind = Literal["asked", "part", "told"]
"""`asked`: a batch that was shown; `part`: what a round that is not finished has learnt so far; `told`: everything
learnt up to and including a round (0: nothing yet)."""

Tensors = Mapping[str, Mapping[str, "torch.Tensor"]]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: `state` is its JSON, `tensors` its files by name."""

    path: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, torch.Tensor]]


class RunDirectory:
    """`runs/<name>/`; see docs/runs.md for its layout."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config
        self._lock: IO[str] | None = None

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Raises RunError if `path` already holds a run or other files."""
        path = Path(path)
        if (path / "config.toml").exists():
            raise RunError(
                f"{path} already holds a run; continue it with `hero resume {path}`, or choose another --out"
            )
        if path.exists() and (not path.is_dir() or set(os.listdir(path)) - _BEFORE_CONFIG):
            raise RunError(f"{path} exists and is not an empty folder; choose another --out")

    @classmethod
    def create(cls, path: str | Path, config: Config) -> RunDirectory:
        """Makes a new run.

        Raises:
            RunError: the folder already holds a run, or other files, or cannot be written.
        """
        cls.check_free(path)
        path = Path(path)
        config, start = placed(config), config.lora.start
        run = cls(path, config if start is None else _starting_from(config, path / START_FILE))
        with _disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            run.lock()
            if start is not None:
                source = Path(start).expanduser()
                run.write_file(START_FILE, lambda beside: shutil.copyfile(source, beside))
            run.write_text("config.toml", run.config.to_toml())
        return run

    @classmethod
    def open(cls, path: str | Path, settings: Mapping[str, Any] | None = None) -> RunDirectory:
        """An existing run; `settings` (nested dicts) are laid over its own.

        Raises:
            RunError: there is no run in `path`.
            ConfigError: its config.toml or a setting is not valid, or a setting cannot change (`hero.run.fixed`).
        """
        path = Path(path)
        if not (path / "config.toml").is_file():
            raise RunError(f"there is no run in {path}: it holds no config.toml")
        begun = located(load_run_config(path / "config.toml"), path)
        own = begun if begun.lora.start is None else _starting_from(begun, path / START_FILE)
        if not settings:
            return cls(path, own)
        wanted = load_run_config(path / "config.toml", settings)
        if {"path", "config"} & settings.get("model", {}).keys():
            wanted = placed(wanted)
            if _places(wanted) != _places(begun):
                check_same_model(path, begun.model, wanted.model)
                begun = begun.model_copy(update={"model": begun.model.model_copy(update=_places(wanted))})
        else:
            wanted = located(wanted, path)
        check_unchanged(begun, wanted)
        if wanted.lora == begun.lora:
            wanted = wanted.model_copy(update={"lora": own.lora})
        return cls(path, wanted)

    def lock(self) -> None:
        """Makes this process the only one that may train the run; released when the process ends.

        Raises:
            RunError: another process is training it.
        """
        try:
            import fcntl
        except ImportError:  # not a POSIX system: no lock; the user has to take care
            return
        with _disk_errors(self.path):
            file = open(self.path / ".lock", "w")  # noqa: SIM115 - held open for as long as the run is trained
        for look in range(_LOOKS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.02 * look)
            else:
                self._lock = file
                return
        file.close()
        raise RunError(f"another process is training {self.path}; wait for it or stop it")

    def unlock(self) -> None:
        """Lets another process train the run."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_text(self, name: str, text: str) -> Path:
        """Writes a text file of the run atomically."""
        target = self.path / name
        with _disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{target.name}.partial")
            with open(beside, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        return target

    def write_file(self, name: str, write: Callable[[Path], object]) -> Path:
        """Has `write` create a file, which is then moved into place atomically."""
        target = self.path / name
        with _disk_errors(target):
            beside = target.with_name(f".{target.name}.partial")
            write(beside)
            _flush(beside)
            os.replace(beside, target)
        return target

    def write_folder(self, name: str, write: Callable[[Path], object]) -> None:
        """Has `write` fill a folder; each of its files is then moved into the run's folder `name`."""
        target, beside = self.path / name, self.path / f".{name}.partial"
        with _disk_errors(target):
            shutil.rmtree(beside, ignore_errors=True)
            target.mkdir(parents=True, exist_ok=True)
            write(beside)
            for file in sorted(beside.iterdir()):
                _flush(file)
                os.replace(file, target / file.name)
            beside.rmdir()

    @property
    def labels_at(self) -> str | Path:
        """Where the run's labels are kept: its own file, or the shared store."""
        return self.config.evaluator.store or self.path / STORE_FILE

    def write_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Rewrites metrics.jsonl: one line per finished round."""
        self.write_text(METRICS_FILE, "".join(json.dumps(line) + "\n" for line in lines))

    def write_images(self, images: Mapping[ImageId, Image.Image]) -> None:
        """Writes images as PNG files named by id, in the folders of their rounds."""
        for name, image in images.items():
            self._write_image(image_file(self.path, name), image)

    def write_images_under(self, folder: str, images: Sequence[Image.Image]) -> None:
        """Writes `images` as <folder>/0000.png and on; files of an earlier, longer series are removed."""
        target = self.path / folder
        for index, image in enumerate(images):
            self._write_image(target / f"{index:04d}.png", image)
        for stale in sorted(target.glob("[0-9]*.png"))[len(images) :]:
            stale.unlink()

    @staticmethod
    def _write_image(path: Path, image: Image.Image) -> None:
        with _disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.partial")
            image.save(beside, format="PNG")
            os.replace(beside, path)

    def read_image(self, image: ImageId) -> Image.Image:
        """An image that was shown.

        Raises:
            RunError: its file is missing or damaged.
        """
        path = image_file(self.path, image)
        try:
            with Image.open(path) as opened:
                return opened.convert("RGB")
        except OSError as error:
            raise RunError(f"cannot read {path}: {error}") from None

    def save_checkpoint(self, round_: int, kind: CheckpointKind, state: Mapping[str, Any], tensors: Tensors) -> None:
        """Writes checkpoints/<round>-<kind>/ atomically; then deletes all but the newest four checkpoints and those
        that `run.keep_loras` keeps, and parts of rounds that are finished.

        Raises:
            RunError: it cannot be written (a full disk, say); earlier checkpoints are intact.
        """
        from safetensors.torch import save_file

        folder = self.path / "checkpoints"
        name = f"{round_:04d}-{kind}"
        beside = folder / f".{name}.partial"
        with _disk_errors(folder):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            for file_name, values in tensors.items():
                contiguous = {key: value.contiguous() for key, value in sorted(values.items())}
                save_file(contiguous, beside / f"{file_name}.safetensors")
            complete = {"format": _FORMAT, "files": sorted(tensors), **state}
            (beside / "state.json").write_text(json.dumps(complete, indent=1))
            for file in beside.iterdir():
                _flush(file)
            _flush(beside)
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(beside, folder / name)
            _flush(folder)
        parts = [f for f in self._checkpoint_folders() if f.name.endswith("-part")]
        whole = [f for f in self._checkpoint_folders() if f not in parts]
        old_ones = [folder for folder in whole[:-_KEEP] if not self._is_kept(folder)]
        for old in [*old_ones, *(part for part in parts if kind != "part" or part.name != name)]:
            shutil.rmtree(old, ignore_errors=True)

    def _is_kept(self, folder: Path) -> bool:
        """Whether it is what was learnt up to a round that `run.keep_loras` keeps."""
        every, (number, _, kind) = self.config.run.keep_loras, folder.name.partition("-")
        return every > 0 and kind == "told" and int(number) > 0 and int(number) % every == 0

    @property
    def told_rounds(self) -> list[int]:
        """Finished rounds of which everything that was learnt by then is still there, ascending."""
        names = [folder.name.partition("-") for folder in self._checkpoint_folders()]
        return [int(number) for number, _, kind in names if kind == "told" and int(number) > 0]

    def _checkpoint_folders(self) -> list[Path]:
        folder = self.path / "checkpoints"
        if not folder.is_dir():
            return []
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    def load_checkpoint(self, kind: CheckpointKind, round_: int | None = None) -> Checkpoint | None:
        """The newest checkpoint of `kind` (and of `round_`) that can be read; None where there is none.

        Raises:
            RunError: there are checkpoints but none can be read, or they were written by a newer version.
        """
        from safetensors.torch import load_file

        return self._newest_checkpoint(kind, round_, load_file)

    def load_state(self, kind: CheckpointKind, round_: int | None = None) -> dict[str, Any] | None:
        """`state` of the newest checkpoint of `kind` (and of `round_`), without its tensors and without torch.

        None where there is none.

        Raises:
            RunError: as for `load_checkpoint`.
        """
        newest = self._newest_checkpoint(kind, round_, lambda _: {})
        return None if newest is None else newest.state

    def _newest_checkpoint(
        self, kind: CheckpointKind, round_: int | None, load_file: Callable[[Path], dict[str, torch.Tensor]]
    ) -> Checkpoint | None:
        wanted = f"-{kind}" if round_ is None else f"{round_:04d}-{kind}"
        folders = [folder for folder in self._checkpoint_folders() if folder.name.endswith(wanted)]
        problem = ""
        for folder in reversed(folders):
            try:
                state = json.loads((folder / "state.json").read_text())
                if state["format"] > _FORMAT:
                    raise RunError(f"{folder} was written by a newer version of hero; update hero to resume this run")
                tensors = {name: load_file(folder / f"{name}.safetensors") for name in state["files"]}
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                problem = problem or f"{folder}: {error}"
                continue
            return Checkpoint(folder, *(_from_format_1(state, tensors) if state["format"] == 1 else (state, tensors)))
        if folders and kind == "told":  # an unreadable batch can be drawn again; what was learnt cannot be recovered
            raise RunError(f"no checkpoint of {self.path} can be read; {problem}")
        return None


def _from_format_1(
    state: dict[str, Any], tensors: dict[str, dict[str, torch.Tensor]]
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """A checkpoint of version 0.1 in the present form: noises lie beside latents, and a reward is one of several."""
    if "representation" in tensors:
        tensors = dict(tensors)
        noises = {key.replace(".", "_noise."): value for key, value in tensors["noise"].items()}
        tensors |= {"memory": {**tensors["memory"], **noises}, "noise": {}, "reward": tensors.pop("representation")}
    return {"kinds": {}, **state}, tensors


def _places(config: Config) -> dict[str, str | None]:
    """Where the model's files are."""
    return {"path": config.model.path, "config": config.model.config}


def _starting_from(config: Config, file: Path) -> Config:
    """`config` with the run's own copy of the LoRA that it starts from, wherever the run's folder is by now."""
    return config.model_copy(update={"lora": config.lora.model_copy(update={"start": str(file.absolute())})})


def being_trained(run: Path) -> bool:
    """Whether a process is training the run in `run` at this moment; False where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        with open(run / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:  # it may not be opened, or is on a disk without locks
        return False
    return False


def image_file(run: Path, image: ImageId) -> Path:
    """The file of an image that was shown in `run`; it may no longer exist."""
    return run / "rounds" / f"{round_of(image):04d}" / "images" / f"{image}.png"


def read_images(folder: Path) -> list[Image.Image]:
    """The images of a series 0000.png, 0001.png, … as `RunDirectory.write_images_under` writes it.

    Raises:
        RunError: one of them cannot be read.
    """
    images = []
    for path in sorted(folder.glob("[0-9]*.png")):
        try:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        except OSError as error:
            raise RunError(f"cannot read {path}: {error}") from None
    return images


def _flush(path: Path) -> None:
    """Has the disk keep what was written, also the names in a folder where the system can (Windows opens no folder)."""
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows wants a handle that may write
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turns failures of the file system into a RunError that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        remedy = "free some space and `hero resume` the run" if full else "check the folder and its permissions"
        reason = "the disk is full" if full else str(error)
        raise RunError(f"cannot write {path}: {reason}; what was there before is intact; {remedy}") from error
