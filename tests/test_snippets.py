"""Every piece of Python that a report or a model card prints runs as it is printed, for every family."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file

from hero import Feedback, Tuner
from hero.bench.miniatures import MINIATURES, save_miniature
from hero.calls import CALLS
from hero.config import Config
from hero.export import export
from hero.policies import load_policy
from hero.policies.family import pack
from hero.report import write_report
from hero.snippets import Snippets, family_of_model

PROMPTS = ("1 hand", 'a "blue" rose')
NOT_IN_DIFFUSERS = {"sd3", "z-image"}
CASES = [*((name, "float32") for name in MINIATURES), ("stable-diffusion", "bfloat16"), ("flux", "bfloat16")]
BY_KOHYA = {"stable-diffusion", "stable-diffusion-v", "sdxl", "qwen-image", "flux-2-klein"}
"""Those whose kohya file diffusers loads; that of FLUX it loads at the real model's width alone."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every miniature under its name."""
    folder = tmp_path_factory.mktemp("place")
    for name in MINIATURES:
        save_miniature(name, folder / name)
    return folder


def tell_one_round(config: Config, folder: Path) -> None:
    """A run of one round in which the second prompt alone has a best image."""
    with Tuner(config, folder) as tuner:
        batch = tuner.ask()
        tuner.tell(Feedback.from_good(batch, batch.ids[1::2], batch.ids[1]))


def drawn(block: str, names: dict[str, Any]) -> list[Any]:
    """The images of a printed block, run in `names` and in the current folder."""
    exec(compile(block, "printed", "exec"), names)
    found: list[Any] = names["images"] if "images" in names else [names["image"]]
    return found


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_printed_snippet_runs(
    name: str, dtype: str, place: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(path=place / name, prompts=PROMPTS, rounds=1, model={"dtype": dtype})
    run = place / f"run-{name}-{dtype}"
    tell_one_round(config, run)
    with safe_open(run / "refined_noise.safetensors", framework="pt") as noise:
        assert {key for key in noise.keys() if key.startswith("best")} == {"best.1"}  # noqa: SIM118

    monkeypatch.chdir(run)
    (printed,) = re.findall(r"<pre><code>(.*?load_lora_weights.*?)</code></pre>", write_report(run).read_text(), re.S)
    names: dict[str, Any] = {}
    assert [image.size for image in drawn(html.unescape(printed), names)] == [(32, 32)]
    pipeline = names["pipeline"]
    assert pipeline.dtype == getattr(torch, dtype)
    assert pipeline.get_active_adapters()

    monkeypatch.chdir(place)
    if name in NOT_IN_DIFFUSERS:
        export(run, "kohya", other := Path(f"other-{name}.safetensors"))
        assert "```python" not in other.with_suffix(".md").read_text()
        assert "ComfyUI" in other.with_suffix(".md").read_text()
    for format_ in ("diffusers", "fused", *(["kohya"] if name in BY_KOHYA else [])):
        out = Path(f"{format_}-{name}-{dtype}" + (".safetensors" if format_ == "kohya" else ""))
        export(run, format_, out)
        card = (out / "README.md" if out.is_dir() else out.with_suffix(".md")).read_text()
        assert os.fspath(place) not in card
        loading, *recipe = re.findall(r"^```python\n(.*?)^```", card, re.S | re.M)
        assert len(recipe) == (format_ != "kohya")
        names = {}
        assert [image.size for image in drawn(loading, names)] == [(32, 32)]
        stored = "float32"  # a fused model has the precision of the model's own files
        assert names["pipeline"].dtype == getattr(torch, stored if format_ == "fused" else dtype)
        for block in recipe:
            assert [image.size for image in drawn(block, names)] == [(32, 32)] * 4


@pytest.mark.parametrize(
    ("name", "scale", "true_cfg"),
    [*((name, scale, 1.0) for name in MINIATURES for scale in (0.0, 1.0, 2.5)), ("flux", 2.5, 3.0)],
)
def test_a_call_says_what_the_family_says(
    name: str, scale: float, true_cfg: float, place: Path, tiny_config: Callable[..., Config]
) -> None:
    sampling = {"guidance_scale": scale, "true_cfg_scale": true_cfg}
    config = tiny_config(path=place / name, sampling=sampling)
    policy: Any = load_policy(config)
    call = CALLS[family_of_model(config)]
    noise = torch.randn(2, *policy.latent_shape).to(torch.bfloat16)
    said = policy.family.library_arguments(noise)
    latents = said.pop("latents")
    assert torch.equal(latents, pack(noise) if call.packed else noise.to(latents.dtype))
    assert (latents.dtype == torch.float32) == call.fp32_latents
    assert ("eta" in said) == call.ddim
    said.pop("eta", None)
    if "negative_prompt" in said:
        assert said["negative_prompt"] == [""] * 2
        said["negative_prompt"] = ""
    assert call.guidance(config.sampling) == said


DOCUMENTED: dict[str, tuple[str, dict[str, Any]]] = {
    "stable-diffusion": ("float32", {"num_steps": 20, "guidance_scale": 5.0, "eta": 1.0, "height": 512, "width": 512}),
    "sdxl": ("bfloat16", {"num_steps": 20, "guidance_scale": 5.0, "eta": 1.0, "height": 1024, "width": 1024}),
    "sd3": ("bfloat16", {"num_steps": 20, "guidance_scale": 5.0, "height": 1024, "width": 1024}),
    "flux": ("bfloat16", {"num_steps": 20, "guidance_scale": 3.5, "height": 1024, "width": 1024}),
    "qwen-image": ("bfloat16", {"num_steps": 20, "guidance_scale": 4.0, "height": 1024, "width": 1024}),
    "z-image": ("bfloat16", {"num_steps": 8, "guidance_scale": 0.0, "height": 768, "width": 768}),
    "flux-2-klein": ("bfloat16", {"num_steps": 8, "guidance_scale": 1.0, "height": 1024, "width": 1024}),
}
"""Miniature → dtype and sampling of its family's recipe in docs/export.md, in the order of that page."""


@pytest.mark.parametrize("name", list(DOCUMENTED))
def test_the_documented_recipe_of_every_family_is_what_cards_print_and_runs(
    name: str, place: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, sampling = DOCUMENTED[name]
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    recipes = re.findall(r"^```python\n(.*?)^```", page.split("## Refined noise")[1], re.S | re.M)
    assert len(recipes) == len(DOCUMENTED)
    recipe = recipes[list(DOCUMENTED).index(name)]
    config = tiny_config(path=place / name, model={"dtype": dtype}, sampling=sampling)
    assert Snippets(config).refined("my-lora/refined_noise.safetensors", 0) + "\n" == recipe

    small = tiny_config(path=place / name, model={"dtype": dtype}, update={"kind": "none"})
    shape = load_policy(small).latent_shape
    folder = place / f"documented-{name}"
    (folder / "my-lora").mkdir(parents=True)
    save_file({"best.0": torch.randn(shape)}, folder / "my-lora" / "refined_noise.safetensors")
    monkeypatch.chdir(folder)
    pipeline = DiffusionPipeline.from_pretrained(place / name, dtype=getattr(torch, dtype))
    recipe = re.sub(
        r"(height|width)=\d+", r"\1=32", re.sub(r"num_inference_steps=\d+", "num_inference_steps=2", recipe)
    )
    assert [image.size for image in drawn(recipe, {"pipeline": pipeline})] == [(32, 32)] * 4


def test_the_printed_pipeline_samples_as_in_training(place: Path, tiny_config: Callable[..., Config]) -> None:
    """SDXL's own scheduler is no DDIM: taken over as it is, DDIM would clip every sample."""
    config = tiny_config(path=place / "sdxl", sampling={"eta": 0.0}, update={"kind": "none"})
    policy: Any = load_policy(config)
    noise = torch.randn(1, *policy.latent_shape)
    wanted = policy.library_latents(config.task.prompts[:1], noise)
    names: dict[str, Any] = {"noise": noise}
    load = "\n".join(Snippets(config).load("lora").splitlines()[:-1])  # the policy's LoRA is the identity
    call = Snippets(config).draw().replace("\n)", '\n    latents=noise,\n    output_type="latent",\n)')
    exec(f"{load}\n{call.replace('.images[0]', '.images')}", names)
    torch.testing.assert_close(names["image"], wanted, atol=1e-5, rtol=1e-5)


def test_a_model_whose_index_is_not_here_is_that_of_the_preset(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config().model_copy(update={"preset": "sd3"})
    elsewhere = config.model.model_copy(update={"path": "nobody/nothing", "variant": "fp16", "revision": "v1"})
    config = config.model_copy(update={"model": elsewhere})
    assert family_of_model(config) == "StableDiffusion3Pipeline"
    assert 'from_pretrained("nobody/nothing", revision="v1", variant="fp16")' in Snippets(config).load("lora")
