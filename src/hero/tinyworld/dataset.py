"""The pretraining data of the tiny world: scenes drawn into a memory-mapped file, and their latents.

Both are written once into the work folder of a pretraining, whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from hero.tinyworld.canvas import SIZE
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scenes import caption_weights, draw_scene
from hero.tinyworld.training import echo

__all__ = ["Pixels", "Scenes", "encode", "encode_pictures", "render", "render_scene", "to_pictures", "write_folder"]

Pixels = npt.NDArray[np.uint8]
_SCENE_STREAM = 0


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
    return draw_scene(caption, rng).image, caption


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


def write_folder(path: Path, fill: Callable[[Path], object]) -> None:
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


def to_pictures(images: Pixels, device: torch.device) -> Tensor:
    """(B, 64, 64, 3) uint8 to (B, 3, 64, 64) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode_pictures(vae: Any, images: Pixels, device: torch.device) -> Tensor:
    """(N, 4, 16, 16) float32 posterior means, unscaled."""
    chunks = [images[start : start + 128] for start in range(0, len(images), 128)]
    return torch.cat([vae.encode(to_pictures(chunk, device)).latent_dist.mean.cpu() for chunk in chunks])


def encode(work: Path, scenes: Scenes, device: torch.device) -> npt.NDArray[np.float16]:
    """Encodes all scenes once: (N, 4, 16, 16) float16 posterior means times the scaling factor."""
    path = work / "latents.npy"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(work / "vae").to(device).eval()
        latents = encode_pictures(vae, scenes.images, device) * vae.config.scaling_factor
        part = work / "latents.part.npy"
        np.save(part, latents.numpy().astype(np.float16))
        os.replace(part, path)
        echo(f"encode: latents of mean {float(latents.mean()):.3f}, std {float(latents.std()):.3f}")
    stored: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
    return stored
