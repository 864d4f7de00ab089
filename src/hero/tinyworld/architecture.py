"""The networks of the tiny world's pipeline, untrained: autoencoder, denoiser, text encoder, scheduler.

All are diffusers' and transformers' own classes, only small; what is ours is how the autoencoder starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hero.tinyworld.canvas import SIZE
from hero.tinyworld.vocabulary import MAX_LENGTH

__all__ = [
    "assemble",
    "new_scheduler",
    "new_text_encoder",
    "new_unet",
    "new_vae",
    "standardise_latents",
    "start_branches_at_zero",
]

LATENT_CHANNELS, LATENT_SIZE = 4, 16


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
    start_branches_at_zero(vae)
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
def start_branches_at_zero(network: nn.Module) -> None:
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
