"""Weights between those of two versions of the tiny world, one trained on from the other.

`python -m hero.tinyworld.averaging OLD NEW --share 0.7 --out FOLDER` keeps `share` of the old weights. Base success
then lies between theirs: a finer adjustment than another training, whose chance moves every task by some hundredths.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

__all__ = ["average_pipelines"]

_PARTS = ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")


def average_pipelines(old: Path, new: Path, share: float, out: Path) -> None:
    """Writes the pipeline of `new` to `out` with UNet and text encoder `share` · old + (1 − share) · new.

    Sums are taken in fp32 and stored in the dtype of `new`; autoencoder and tokenizer are those of `new`.

    Raises:
        ValueError: `share` is not in [0, 1], the two have other weights, or `out` is there already.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it lies between 0 and 1")
    if out.exists():
        raise ValueError(f"{out} is there already")
    mixed = {}
    for part in _PARTS:
        before, after = load_file(old / part), load_file(new / part)
        if {k: v.shape for k, v in before.items()} != {k: v.shape for k, v in after.items()}:
            raise ValueError(f"{old / part} and {new / part} do not hold the same weights")
        mixed[part] = {
            name: torch.lerp(value.float(), before[name].float(), share).to(value.dtype)
            if value.is_floating_point()
            else value
            for name, value in after.items()
        }
    shutil.copytree(new, out)
    for part, weights in mixed.items():
        with safe_open(new / part, framework="pt") as file:
            metadata = file.metadata()
        save_file(weights, out / part, metadata=metadata)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="share of the old weights")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        average_pipelines(arguments.old, arguments.new, arguments.share, arguments.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
