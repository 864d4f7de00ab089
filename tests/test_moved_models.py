"""A run keeps working when its folder, its model or the present folder is another one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hero import Feedback, ImageBatch, Tuner
from hero.config import Config, ModelConfig, load_toml
from hero.errors import ConfigError, ModelError, RunError
from hero.export import export
from hero.run import RunDirectory
from hero.run.finished import FinishedRun
from hero.run.model import MODEL_FILE, fingerprint, read_record
from hero.trained import TrainedRun


def every_other(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[::2], batch.ids[0])


# ---------------------------------------------------------------------------------------------- which model it is


def weights(folder: Path, **tensors: torch.Tensor) -> str | None:
    (folder / "unet").mkdir(parents=True)
    save_file(tensors, folder / "unet" / "model.safetensors")
    return fingerprint(ModelConfig(path=str(folder)))


def test_a_fingerprint_is_that_of_the_weights_however_they_are_stored(tmp_path: Path) -> None:
    a, b = torch.arange(5000.0), torch.ones(3, dtype=torch.bfloat16)
    one = weights(tmp_path / "one", a=a, b=b)
    assert one is not None
    assert weights(tmp_path / "two", b=b, a=a) == one
    (tmp_path / "sharded" / "unet").mkdir(parents=True)
    for k, (name, value) in enumerate((("a", a), ("b", b))):
        save_file({name: value}, tmp_path / "sharded" / "unet" / f"model-{k}-of-2.safetensors")
    assert fingerprint(ModelConfig(path=str(tmp_path / "sharded"))) == one
    assert weights(tmp_path / "value", a=a, b=2 * b) != one
    assert weights(tmp_path / "name", a=a, c=b) != one
    assert weights(tmp_path / "dtype", a=a, b=b.half()) != one
    assert weights(tmp_path / "shape", a=a, b=b[:, None]) != one
    assert fingerprint(ModelConfig(path=str(tmp_path / "none"))) is None
    assert fingerprint(ModelConfig(path="somebody/nothing")) is None
    (tmp_path / "empty").mkdir()
    assert fingerprint(ModelConfig(path=str(tmp_path / "empty"))) is None


def test_a_fingerprint_is_that_of_the_files_that_are_loaded(tmp_path: Path) -> None:
    plain = weights(tmp_path / "model", a=torch.ones(2))
    save_file({"a": torch.ones(2).half()}, tmp_path / "model" / "unet" / "model.fp16.safetensors")
    assert fingerprint(ModelConfig(path=str(tmp_path / "model"))) == plain
    half = fingerprint(ModelConfig(path=str(tmp_path / "model"), variant="fp16"))
    assert half not in (None, plain)
    (tmp_path / "old" / "unet").mkdir(parents=True)
    pickled = tmp_path / "old" / "unet" / "model.bin"
    pickled.write_bytes(bytes(3 * 2**20))
    zeros = fingerprint(ModelConfig(path=str(tmp_path / "old")))
    pickled.write_bytes(bytes(3 * 2**20 - 1) + b"x")
    assert fingerprint(ModelConfig(path=str(tmp_path / "old"))) != zeros


# ---------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def original(random_pipeline: Path, tiny_config: Callable[..., Config], tmp_path_factory: Any) -> Path:
    """A folder with models/it and runs/one, which waits for the answer to its second round."""
    place: Path = tmp_path_factory.mktemp("project")
    shutil.copytree(random_pipeline, place / "models" / "it")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        config = tiny_config(path="./models/it", rounds=2)
        assert config.model.path == "./models/it"
        with Tuner(config, "runs/one") as tuner:
            tuner.tell(every_other(tuner.ask()))
            tuner.ask()
    return place


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Path:
    """A copy of it elsewhere; the first one's model is still where it was."""
    return Path(shutil.copytree(original, tmp_path / "project"))


def moved(project: Path, original: Path) -> None:
    """As if `project` were the original, moved: its absolute paths lead nowhere."""
    file = project / "runs" / "one" / "config.toml"
    file.write_text(file.read_text().replace(str(original), f"{project}-before"))


def test_the_path_is_absolute_and_the_model_described(original: Path) -> None:
    run = original / "runs" / "one"
    assert load_toml(run / "config.toml")["model"]["path"] == str(original / "models" / "it")
    record = read_record(run)
    assert record is not None
    assert (record.family, record.beside) == ("StableDiffusionPipeline", "../../models/it")
    assert record.weights == fingerprint(ModelConfig(path=str(original / "models" / "it")))
    assert record.denoiser["cross_attention_dim"] > 0


def test_a_project_that_is_moved_goes_on(project: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(project, original)
    monkeypatch.chdir("/")
    run = project / "runs" / "one"
    assert RunDirectory.open(run).config.model.path == str(project / "models" / "it")
    with Tuner.resume(run) as tuner:
        batch = tuner.ask()
        assert [image.tobytes() for image in batch.images] == [
            RunDirectory.open(original / "runs" / "one").read_image(i).tobytes() for i in batch.ids
        ]
        tuner.tell(every_other(batch))
    assert TrainedRun(run).generate(images=1)


def test_another_model_at_the_same_place_is_not_taken_for_it(project: Path, original: Path) -> None:
    moved(project, original)
    file = next((project / "models" / "it" / "unet").glob("*.safetensors"))
    save_file({key: value + 1 for key, value in load_file(file).items()}, file)
    with pytest.raises(ModelError, match=r"no model folder .*project-before.*--set model\.path"):
        Tuner.resume(project / "runs" / "one")
    with pytest.raises(ConfigError, match="is another model, its weights are not the same"):
        Tuner.resume(project / "runs" / "one", {"model": {"path": str(project / "models" / "it")}})


def test_a_labelled_batch_survives_a_model_that_went_elsewhere(project: Path, original: Path) -> None:
    run, place = project / "runs" / "one", project / "elsewhere"
    moved(project, original)
    with labels_of(run) as store:
        batch_ids = [file.stem for file in sorted((run / "rounds" / "0002" / "images").glob("r*.png"))]
        good = set(batch_ids[::2])
        store.record(2, Feedback({i: "good" if i in good else "bad" for i in batch_ids}, best=batch_ids[0]), "me", 1.0)
    shutil.move(project / "models" / "it", place)
    with pytest.raises(ModelError, match="no model folder"):
        Tuner.resume(run)
    with pytest.raises(ConfigError, match="there is no model there"):
        Tuner.resume(run, {"model": {"path": str(project / "nowhere")}})
    with Tuner.resume(run, {"model": {"path": str(place)}}) as tuner:
        assert tuner.done  # it learnt from the labels that were there
        assert tuner.history[-1].good == len(good)
    assert load_toml(run / "config.toml")["model"]["path"] == str(place)
    assert TrainedRun(run).labels == 2 * len(batch_ids)


def labels_of(run: Path) -> Any:
    from hero.feedback.store import LabelStore

    return LabelStore(run / "feedback.db")


def test_a_lora_is_exported_without_the_model(project: Path, original: Path, tmp_path: Path) -> None:
    run = project / "runs" / "one"
    export(run, "kohya", tmp_path / "with.safetensors")
    export(run, "diffusers", tmp_path / "with")
    moved(project, original)
    shutil.rmtree(project / "models")
    export(run, "kohya", tmp_path / "a" / "with.safetensors")
    export(run, "diffusers", tmp_path / "a" / "with")
    for file in ("with.safetensors", "with/pytorch_lora_weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / file).read_bytes()
    with pytest.raises(ModelError, match=r"no model folder .*--set model\.path"):
        export(run, "fused", tmp_path / "b")
    (run / MODEL_FILE).unlink()  # as in runs of version 0.1
    with pytest.raises(ModelError, match=r"no model folder .*--set model\.path"):
        export(run, "kohya", tmp_path / "b.safetensors")
    export(run, "diffusers", tmp_path / "c")


def test_a_run_without_a_record_takes_the_word_of_its_user(project: Path, original: Path) -> None:
    """Runs of version 0.1 kept no hash; where their model is gone, nothing could prove it the same."""
    moved(project, original)
    run = project / "runs" / "one"
    (run / MODEL_FILE).unlink()
    with Tuner.resume(run, {"model": {"path": str(project / "models" / "it")}}) as tuner:
        assert tuner.round == 2
    record = read_record(run)
    assert record is not None
    assert record.weights == fingerprint(ModelConfig(path=str(original / "models" / "it")))
    (run / MODEL_FILE).write_text("{")
    with pytest.raises(RunError, match=r"model\.json cannot be read"):
        read_record(run)


def test_a_batch_of_an_older_version_is_not_trapped_by_settings_that_came_later(project: Path) -> None:
    """What was not a setting when the batch was drawn had its default's effect."""
    run = project / "runs" / "one"
    state = run / "checkpoints" / "0002-asked" / "state.json"
    stored = json.loads(state.read_text())
    for stage, names in (("lora", ["start", "merge_start"]), ("model", ["compile", "tf32", "path"])):
        for name in names:
            stored["drawn_with"][stage].pop(name, None)
    stored["drawn_with"]["model"]["path"] = "./models/it"  # it was stored as it was typed
    state.write_text(json.dumps(stored))
    shown = FinishedRun(run).directory.read_image("r0002-i0000").tobytes()
    (run / "rounds" / "0002" / "images" / "r0002-i0000.png").touch()
    with labels_of(run) as store:
        ids = [file.stem for file in sorted((run / "rounds" / "0002" / "images").glob("r*.png"))]
        store.record(2, Feedback(dict.fromkeys(ids, "bad")), "me", 1.0)
    with Tuner.resume(run) as tuner:
        assert tuner.done
    assert FinishedRun(run).directory.read_image("r0002-i0000").tobytes() == shown
