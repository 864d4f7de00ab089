"""Makes the tiny world's Stable Diffusion pipeline from nothing: `python -m hero.tinyworld.pretrain`.

Five stages: render scenes, train the autoencoder, encode the scenes, train UNet and text encoder together,
save the pipeline. Each leaves its complete output in the work folder and is skipped where that is present; to
make it again, delete its output and those of the later stages. A stopped training goes on from its checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from hero.tinyworld import model_path
from hero.tinyworld.architecture import (
    assemble,
    new_scheduler,
    new_text_encoder,
    new_unet,
    new_vae,
    standardise_latents,
    start_branches_at_zero,
)
from hero.tinyworld.card import bundled_model_card
from hero.tinyworld.dataset import Pixels, Scenes, encode, encode_pictures, render, to_pictures, write_folder
from hero.tinyworld.training import Schedule, Trainer, batch_indexes, echo, step_generator
from hero.tinyworld.vocabulary import build_tokenizer

__all__ = ["main", "pretrain"]

SAMPLE_PROMPTS = (
    "1 hand",
    "photo of one blue rose in a vase",
    "a black cat sitting inside a cardboard box",
    "narcissus by a quiet spring and its reflection in the water",
    "beautiful mountains viewed from a train window",
    "a person posing",
    "a person at the beach",
)
"""Prompts of the contact sheets, one row each."""
SAMPLE_EVERY = 1000
VAE = Schedule(steps=3_000, batch=8, peak=4e-3, final=5e-5, warmup=50, average=0.995)
FIRST = Schedule(steps=10_000, batch=64, peak=1e-3, final=5e-5, warmup=200)
CONTINUED = Schedule(steps=1_000, batch=64, peak=2e-4, final=1e-5, warmup=100)
"""Autoencoder; UNet and text encoder from nothing, and from an existing pipeline."""
KL_WEIGHT = 1e-4
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0

Stage = Literal["all", "render", "vae", "encode", "unet", "save"]
# One random stream for each use, the scenes' being 0; the numbers are part of the recipe.
_VAE_STREAM, _UNET_STREAM = 1, 2


def reconstruction_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """L1 + 2 × squared error + edges' L1 (differences of neighbouring pixels) + L1 at 1/4 and 1/8 of the size.

    Both are (B, 3, 64, 64) in [-1, 1].
    """
    error = drawn - wanted
    loss = error.abs().mean() + 2 * error.square().mean()
    loss = loss + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())
    for size in (4, 8):
        loss = loss + F.avg_pool2d(error, size).abs().mean()
    return loss


def train_vae(work: Path, scenes: Scenes, steps: int, seed: int, device: torch.device) -> None:
    """Trains the autoencoder and leaves it in `work`/vae, its latents standardised."""
    torch.manual_seed(seed)
    vae = new_vae().to(device)
    schedule = replace(VAE, steps=steps)
    count = len(scenes.images)

    def loss_at(step: int) -> Tensor:
        rows = batch_indexes(seed, _VAE_STREAM, step, schedule.batch, count)
        wanted = to_pictures(scenes.images[rows], device)
        posterior = vae.encode(wanted).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=step_generator(seed, _VAE_STREAM, step))
        drawn = vae.decode(posterior.mean + posterior.std * noise.to(device)).sample
        divergence: Tensor = posterior.kl().mean() / posterior.mean[0].numel()
        return reconstruction_loss(drawn, wanted) + KL_WEIGHT * divergence

    trained: Any = Trainer("vae", vae, schedule, work / "vae.safetensors").run(loss_at)
    standardise_latents(trained, encode_pictures(trained, scenes.images[:4096], device))
    _reconstruction_sheet(trained, scenes.images[:32], device).save(work / "vae.png")
    write_folder(work / "vae", trained.save_pretrained)


@torch.no_grad()
def _reconstruction_sheet(vae: Any, images: Pixels, device: torch.device) -> Image.Image:
    """Rows of drawn pictures, each above the row of its reconstructions; 8 a row."""
    wanted = to_pictures(images, device)
    drawn = vae.decode(vae.encode(wanted).latent_dist.mean).sample
    pixels = ((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    starts = range(0, len(images), 8)
    return _sheet([row[start : start + 8] for start in starts for row in (images, pixels)])


def _sheet(rows: list[Pixels]) -> Image.Image:
    """Pictures side by side, row below row, twice their size."""
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    return Image.fromarray(grid).resize((grid.shape[1] * 2, grid.shape[0] * 2), Image.Resampling.NEAREST)


def _starting_parts(scenes: Scenes, start: Path | None) -> tuple[Any, Any, Any]:
    """Tokenizer, text encoder and UNet: those of the pipeline at `start`, else new ones."""
    if start is None:
        tokenizer = build_tokenizer(scenes.captions)
        unet = new_unet()
        start_branches_at_zero(unet)
        return tokenizer, new_text_encoder(tokenizer), unet
    pipeline = StableDiffusionPipeline.from_pretrained(start)
    return pipeline.tokenizer, pipeline.text_encoder, pipeline.unet


def train_unet(
    work: Path,
    scenes: Scenes,
    latents: npt.NDArray[np.float16],
    schedule: Schedule,
    *,
    seed: int,
    device: torch.device,
    start: Path | None,
    samples: bool,
) -> None:
    """Trains UNet and text encoder to predict the noise; leaves the whole pipeline in `work`/pipeline.

    They start from the pipeline at `start`, if given; `samples` asks for a contact sheet every 1000 steps. The
    loss is the squared error of the predicted noise, weighted by min(SNR, 5) / SNR (min-SNR-γ for noise
    prediction, arXiv:2303.09556).
    """
    torch.manual_seed(seed)
    tokenizer, text_encoder, unet = _starting_parts(scenes, start)
    model = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet}).to(device).train()
    # The empty caption, for dropped ones, stands behind the last.
    texts = tokenizer([*scenes.captions, ""], padding="max_length", return_tensors="pt").input_ids
    alphas = new_scheduler().alphas_cumprod
    data = torch.from_numpy(np.array(latents))

    def loss_at(step: int) -> Tensor:
        rows = batch_indexes(seed, _UNET_STREAM, step, schedule.batch, len(data))
        generator = step_generator(seed, _UNET_STREAM, step)
        clean = data[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(0, len(alphas), (len(rows),), generator=generator)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        snr = alpha / (1 - alpha)
        weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
        dropped = torch.rand(len(rows), generator=generator).numpy() < CAPTION_DROPOUT
        caption = np.where(dropped, len(scenes.captions), scenes.index[rows])
        distinct, place = np.unique(caption, return_inverse=True)
        context = model["text_encoder"](texts[distinct].to(device)).last_hidden_state[place]
        predicted = model["unet"](noisy.to(device), timesteps.to(device), context).sample
        error: Tensor = weight.to(device) * (predicted - noise.to(device)).square()
        return error.mean()

    vae = AutoencoderKL.from_pretrained(work / "vae").to(device).eval()
    trainer = Trainer("unet", model, schedule, work / "unet.safetensors")
    average: Any = trainer.averaged
    pipeline = assemble(vae, average["text_encoder"], tokenizer, average["unet"])

    def visit(step: int) -> None:
        if samples and step % SAMPLE_EVERY == 0:
            _contact_sheet(pipeline).save(work / f"samples-{step:05d}.png")

    trainer.run(loss_at, visit)
    write_folder(work / "pipeline", pipeline.save_pretrained)


def _contact_sheet(pipeline: Any) -> Image.Image:
    """Eight images of each of `SAMPLE_PROMPTS`, a row a prompt: DDIM, 20 steps, η = 0, guidance scale 2."""
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for prompt in SAMPLE_PROMPTS:
        noise = [torch.Generator().manual_seed(column) for column in range(8)]
        drawn = pipeline(
            [prompt] * 8,
            num_inference_steps=20,
            guidance_scale=2.0,
            eta=0.0,
            generator=noise,
            output_type="np",
        )
        rows.append((drawn.images * 255).round().astype(np.uint8))
    return _sheet(rows)


def save(work: Path, out: Path, scenes: Scenes, history: str, command: str) -> None:
    """Writes the pipeline of `work` to `out` in half precision, with its model card.

    The files carry no `variant`, and the text encoder's config says float32, so that plain `from_pretrained`
    loads every part in float32.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(work / "pipeline")
    card = bundled_model_card(
        pipeline, scenes=len(scenes.images), captions=len(scenes.captions), history=history, command=command
    )
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.half()

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        # transformers 4 reads these two, transformers 5 the tokenizer.json beside them.
        pipeline.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
        for described in (folder / "model_index.json", *folder.glob("*/config.json")):  # where it was loaded from
            about = {key: v for key, v in json.loads(described.read_text()).items() if key != "_name_or_path"}
            described.write_text(json.dumps(about, indent=2) + "\n")
        config = folder / "text_encoder" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
        (folder / "README.md").write_text(card)

    write_folder(out, fill)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    echo(f"save: {out}, {size / 1e6:.1f} MB")


def pretrain(
    work: Annotated[Path, typer.Option(help="Folder of the stages' outputs.")] = Path("build/tinyworld"),
    out: Annotated[Path | None, typer.Option(help="Folder of the result; default: the package's.")] = None,
    stage: Annotated[Stage, typer.Option(help="Run this stage alone.")] = "all",
    steps: Annotated[int, typer.Option(min=1, help="Training steps of UNet and text encoder.")] = 10_000,
    vae_steps: Annotated[int, typer.Option(min=1, help="Training steps of the autoencoder.")] = 3_000,
    scenes: Annotated[int, typer.Option(min=1, help="Training scenes.")] = 24_000,
    seed: Annotated[int, typer.Option(min=0, help="Every random number follows from it.")] = 0,
    device: Annotated[str | None, typer.Option(help="Default: cuda where there is one, else cpu.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    samples: Annotated[bool, typer.Option(help="Write a contact sheet every 1000 steps.")] = False,
    continue_from: Annotated[
        Path | None,
        typer.Option(
            help="A pipeline folder whose tokenizer and autoencoder are kept, and whose UNet and text encoder "
            "are trained on at a small learning rate. Needs a work folder of its own."
        ),
    ] = None,
) -> None:
    """Makes the tiny world's pipeline, or the stages of it that are missing."""
    if threads is not None:
        torch.set_num_threads(threads)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    wanted = ("render", "vae", "encode", "unet", "save") if stage == "all" else (stage,)
    data = render(work, scenes, seed)
    if "vae" in wanted and not (work / "vae").exists():
        if continue_from is None:
            train_vae(work, data, vae_steps, seed, target)
        else:
            kept = AutoencoderKL.from_pretrained(continue_from / "vae")
            write_folder(work / "vae", kept.save_pretrained)
    if "encode" in wanted:
        encode(work, data, target)
    if "unet" in wanted and not (work / "pipeline").exists():
        schedule = FIRST if continue_from is None else CONTINUED
        train_unet(
            work,
            data,
            encode(work, data, target),
            replace(schedule, steps=steps),
            seed=seed,
            device=target,
            start=continue_from,
            samples=samples,
        )
    if "save" in wanted:
        command = f"python -m hero.tinyworld.pretrain --scenes {scenes} --steps {steps} --seed {seed}"
        if continue_from is None:
            command += f" --vae-steps {vae_steps}"
            history = f"The autoencoder for {vae_steps} steps, then UNet and text encoder for {steps}."
        else:
            command += " --work NEW_FOLDER --continue-from FOLDER"
            history = f"UNet and text encoder of an earlier version trained on for {steps} steps."
        save(work, out or model_path(), data, history, command)


def main() -> None:
    """The command line; wrong input ends with one line on stderr and status 2."""
    try:
        typer.run(pretrain)
    except (ValueError, OSError) as error:
        typer.echo(f"pretrain: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
