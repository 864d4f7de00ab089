"""Makes the tiny world's Stable Diffusion pipeline from nothing: `python -m hero.tinyworld.pretrain`.

Five stages: render scenes, train the autoencoder, encode the scenes, train UNet and text encoder together,
save the pipeline. Each leaves its complete output in the work folder and is skipped where that is present; to
make it again, delete its output and those of the later stages. A stopped training goes on from its checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hero.tinyworld import model_path
from hero.tinyworld.canvas import SIZE
from hero.tinyworld.card import model_card
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scenes import caption_weights, draw
from hero.tinyworld.training import Schedule, Trainer, batch_indexes, echo, step_generator
from hero.tinyworld.vocabulary import MAX_LENGTH, build_tokenizer

__all__ = ["Scenes", "main", "pretrain", "render_scene", "standardise_latents"]

LATENT_CHANNELS, LATENT_SIZE = 4, 16
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

Pixels = npt.NDArray[np.uint8]
Stage = Literal["all", "render", "vae", "encode", "unet", "save"]
# One random stream for each use; the numbers are part of the recipe.
_SCENE_STREAM, _VAE_STREAM, _UNET_STREAM = 0, 1, 2


# ---------------------------------------------------------------------------------------------- render


@dataclass(frozen=True)
class Scenes:
    """The pretraining data.

    Attributes:
        images: (N, 64, 64, 3) uint8 RGB, mapped from the disk.
        captions: the distinct captions, sorted.
        index: (N,) int64, position in `captions` of each image's caption.
    """

    images: Pixels
    captions: tuple[str, ...]
    index: npt.NDArray[np.int64]


def render_scene(seed: int, index: int, shares: Mapping[str, float]) -> tuple[Pixels, str]:
    """Training scene number `index`: (64, 64, 3) uint8 and its caption, a function of the arguments alone."""
    rng = np.random.default_rng((seed, _SCENE_STREAM, index))
    captions = sorted(shares)
    caption = str(rng.choice(captions, p=np.array([shares[name] for name in captions])))
    return draw(caption, rng).image, caption


def render(work: Path, count: int, seed: int) -> Scenes:
    """Draws `count` scenes into `work`, or opens those drawn there before.

    Raises ValueError if those were drawn with another seed, count, caption grammar or mixture.
    """
    work.mkdir(parents=True, exist_ok=True)
    shares = caption_weights()
    made_from = {"seed": seed, "scenes": count, "shares": shares, "success_share": SUCCESS_SHARE}
    description = work / "scenes.json"
    if not description.exists():
        part = work / "scenes.npy.part"
        images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3))
        drawn: list[str] = []
        for index in range(count):
            images[index], caption = render_scene(seed, index, shares)
            drawn.append(caption)
        images.flush()
        os.replace(part, work / "scenes.npy")
        _write_text(description, json.dumps({"made_from": made_from, "captions": drawn}))
        echo(f"render: {count} scenes of {len(shares)} captions")
    found = json.loads(description.read_text())
    if found["made_from"] != made_from:
        raise ValueError(f"{work} holds scenes of another seed, count or mixture: give another --work, or delete it")
    names = tuple(sorted(shares))
    position = {name: place for place, name in enumerate(names)}
    index_of = np.array([position[caption] for caption in found["captions"]], dtype=np.int64)
    return Scenes(np.load(work / "scenes.npy", mmap_mode="r"), names, index_of)


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def _write_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Fills a new folder and puts it in the place of `path`."""
    part, old = path.with_name(path.name + ".part"), path.with_name(path.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    fill(part)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    part.rename(path)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- autoencoder


def new_vae() -> Any:
    """An AutoencoderKL that starts as a mosaic: (3, 64, 64) pictures in [-1, 1] to (4, 16, 16) latents.

    Its normalisation has a single group: with few channels a group, a picture's colours would be normalised away.
    """
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        sample_size=SIZE,
    )
    _start_as_mosaic(vae)
    return vae


@torch.no_grad()
def _start_as_mosaic(vae: Any) -> None:
    """Lets the first three latents be the colours of each 4×4 square, and the decoder paint them back.

    From a random start a small autoencoder takes thousands of steps to tell all colours apart. Here channels 0 to 5
    of encoder and decoder carry red, green, blue and their negatives, which pass the last activation undistorted:
    silu(x) - silu(-x) = x. Residual branches start at zero.
    """
    encoder, decoder = vae.encoder, vae.decoder
    for conv in (encoder.conv_in, decoder.conv_in):
        _set_taps(conv, {(sign * 3 + i, i, 1, 1): 1.0 - 2 * sign for i in range(3) for sign in (0, 1)})
    for conv in (encoder.conv_out, decoder.conv_out):
        _set_taps(conv, {(i, sign * 3 + i, 1, 1): 1.0 - 2 * sign for i in range(3) for sign in (0, 1)})
    _start_branches_at_zero(vae)
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D) and module.conv_shortcut is not None:
            _set_taps(module.conv_shortcut, {(i, i, 0, 0): 1.0 for i in range(6)})
        elif isinstance(module, Downsample2D):
            # Its padding lies to the right and below: the first two rows and columns are the square.
            _set_taps(module.conv, {(i, i, y, x): 0.25 for i in range(6) for y in (0, 1) for x in (0, 1)})
        elif isinstance(module, Upsample2D):
            _set_taps(module.conv, {(i, i, 1, 1): 1.0 for i in range(6)})
    for conv in (vae.quant_conv, vae.post_quant_conv):
        nn.init.eye_(conv.weight[:, :, 0, 0])
        nn.init.zeros_(conv.bias)
    # A small posterior variance.
    vae.quant_conv.bias[LATENT_CHANNELS:] = -7.0


@torch.no_grad()
def _start_branches_at_zero(network: nn.Module) -> None:
    """Zeroes the last layer of each residual branch, as Stable Diffusion's own training does; diffusers does not."""
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            last = module.conv2
        elif isinstance(module, Transformer2DModel):
            last = module.proj_out
        elif isinstance(module, Attention) and module.residual_connection:
            last = module.to_out[0]
        else:
            continue
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def _set_taps(conv: nn.Conv2d, taps: Mapping[tuple[int, int, int, int], float]) -> None:
    """Makes the output channels named in `taps` (output, input, row, column) nothing but these weights."""
    outputs = sorted({output for output, *_ in taps})
    conv.weight[outputs] = 0.0
    if conv.bias is not None:
        conv.bias[outputs] = 0.0
    for place, weight in taps.items():
        conv.weight[place] = weight


def to_pictures(images: Pixels, device: torch.device) -> Tensor:
    """(B, 64, 64, 3) uint8 to (B, 3, 64, 64) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


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
    standardise_latents(trained, _encode(trained, scenes.images[:4096], device))
    _reconstruction_sheet(trained, scenes.images[:32], device).save(work / "vae.png")
    _write_folder(work / "vae", trained.save_pretrained)


@torch.no_grad()
def standardise_latents(vae: Any, latents: Tensor) -> None:
    """Gives the latents of `vae` zero mean and unit variance in each channel, leaving its pictures as they are.

    The diffusion model then sees channels of equal strength, which one scaling factor cannot give: shift and
    scale are folded into the 1×1 convolution behind the encoder, their inverse into the one before the decoder.

    Args:
        vae: changed in place; its scaling factor becomes 1.
        latents: (N, 4, 16, 16) posterior means of typical pictures.
    """
    mean, std = latents.mean((0, 2, 3)).to(vae.device), latents.std((0, 2, 3)).to(vae.device)
    channels = len(mean)
    encoder, decoder = vae.quant_conv, vae.post_quant_conv
    encoder.weight[:channels] /= std.view(-1, 1, 1, 1)
    encoder.bias[:channels] = (encoder.bias[:channels] - mean) / std
    # The second half of the encoder's channels is the posterior's log-variance.
    encoder.bias[channels:] -= 2 * std.log()
    decoder.bias += decoder.weight[:, :, 0, 0] @ mean
    decoder.weight *= std.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


@torch.no_grad()
def _encode(vae: Any, images: Pixels, device: torch.device) -> Tensor:
    """(N, 4, 16, 16) float32 posterior means, unscaled."""
    chunks = [images[start : start + 128] for start in range(0, len(images), 128)]
    return torch.cat([vae.encode(to_pictures(chunk, device)).latent_dist.mean.cpu() for chunk in chunks])


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


def encode(work: Path, scenes: Scenes, device: torch.device) -> npt.NDArray[np.float16]:
    """Encodes all scenes once: (N, 4, 16, 16) float16 posterior means times the scaling factor."""
    path = work / "latents.npy"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(work / "vae").to(device).eval()
        latents = _encode(vae, scenes.images, device) * vae.config.scaling_factor
        part = work / "latents.part.npy"
        np.save(part, latents.numpy().astype(np.float16))
        os.replace(part, path)
        echo(f"encode: latents of mean {float(latents.mean()):.3f}, std {float(latents.std()):.3f}")
    stored: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
    return stored


# ---------------------------------------------------------------------------------------------- denoiser


def new_unet() -> Any:
    """An untrained UNet with cross-attention in its two lower levels, 2.7 M parameters."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> Any:
    """An untrained CLIP text encoder of two layers, 64 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )


def new_scheduler() -> Any:
    """The noise schedule of Stable Diffusion 1.5."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def assemble(vae: Any, text_encoder: Any, tokenizer: CLIPTokenizer, unet: Any) -> Any:
    """The parts as a Stable Diffusion pipeline."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _starting_parts(scenes: Scenes, start: Path | None) -> tuple[Any, Any, Any]:
    """Tokenizer, text encoder and UNet: those of the pipeline at `start`, else new ones."""
    if start is None:
        tokenizer = build_tokenizer(scenes.captions)
        unet = new_unet()
        _start_branches_at_zero(unet)
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
    _write_folder(work / "pipeline", pipeline.save_pretrained)


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


# ---------------------------------------------------------------------------------------------- save


def save(work: Path, out: Path, scenes: Scenes, history: str, command: str) -> None:
    """Writes the pipeline of `work` to `out` in half precision, with its model card.

    The files carry no `variant`, and the text encoder's config says float32, so that plain `from_pretrained`
    loads every part in float32.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(work / "pipeline")
    card = model_card(
        pipeline, scenes=len(scenes.images), captions=len(scenes.captions), history=history, command=command
    )
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.half()

    def fill(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        # transformers 4 reads these two, transformers 5 the tokenizer.json beside them.
        pipeline.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
        config = folder / "text_encoder" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
        (folder / "README.md").write_text(card)

    _write_folder(out, fill)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    echo(f"save: {out}, {size / 1e6:.1f} MB")


# ---------------------------------------------------------------------------------------------- command


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
            _write_folder(work / "vae", kept.save_pretrained)
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
