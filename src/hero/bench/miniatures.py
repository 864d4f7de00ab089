"""Pipelines of every supported family with random weights, each made in about a second from the library's own classes.

Nothing is downloaded: tokenizers are built here, text encoders are real and tiny. Sizes are chosen so that every
part of the real model is there: both text encoders, the guidance embedding, masks, normalised latents.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from hero.tinyworld import architecture
from hero.tinyworld.scenes import caption_weights
from hero.tinyworld.vocabulary import MAX_LENGTH, build_tokenizer

__all__ = ["MINIATURES", "new_clip_tokenizer", "save_miniature"]

_WIDTH, _LETTERS = 16, "abcdefghijklmnopqrstuvwxyz0123456789.,"
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_miniature(name: str, folder: Path) -> Path:
    """Writes the miniature `name` (a key of `MINIATURES`) into `folder` with `save_pretrained`; returns it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = MINIATURES[name]()
        # Fresh transformers end in zeros, which would hide how they are called.
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                for parameter in part.parameters():
                    if not parameter.any():
                        torch.nn.init.normal_(parameter, std=0.02)
    pipeline.save_pretrained(folder)
    return folder


def _stable_diffusion() -> Any:
    tokenizer = new_clip_tokenizer()
    return architecture.assemble(
        architecture.new_vae(), architecture.new_text_encoder(tokenizer), tokenizer, architecture.new_unet()
    )


def _stable_diffusion_v() -> Any:
    pipeline = _stable_diffusion()
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    return pipeline


def _stable_diffusion_xl() -> Any:
    tokenizer = new_clip_tokenizer()
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + _WIDTH,
        cross_attention_dim=2 * _WIDTH,
        norm_num_groups=8,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(4, scaling_factor=0.13),
        text_encoder=_clip(tokenizer, projected=False),
        text_encoder_2=_clip(tokenizer, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    )


def _stable_diffusion_3() -> Any:
    tokenizer = new_clip_tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * _WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * _WIDTH,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16, scaling_factor=1.5, shift_factor=0.06),
        text_encoder=_clip(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=_clip(tokenizer, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=_t5(2 * _WIDTH),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux() -> Any:
    tokenizer = new_clip_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * _WIDTH,
        pooled_projection_dim=_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return diffusers.FluxPipeline(
        scheduler=_shifting_scheduler(),
        vae=_vae(4, scaling_factor=0.36, shift_factor=0.12),
        text_encoder=_clip(tokenizer, projected=False),
        tokenizer=tokenizer,
        text_encoder_2=_t5(2 * _WIDTH),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer,
    )


def _qwen_image() -> Any:
    tokenizer = _qwen_tokenizer()
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": _WIDTH}
    text = _language_model(tokenizer, layers=1) | {
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    }
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 1.0, 0.7],
    )
    return diffusers.QwenImagePipeline(
        scheduler=_shifting_scheduler(),
        vae=vae,
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def _z_image() -> Any:
    tokenizer = _qwen_tokenizer()
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=_WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[640, 64, 64],
    )
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, scaling_factor=0.36, shift_factor=0.12),
        text_encoder=transformers.Qwen3Model(
            transformers.Qwen3Config(**_language_model(tokenizer, layers=2), head_dim=8)
        ),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def _flux_2_klein() -> Any:
    tokenizer = _qwen_tokenizer()
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * _WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    torch.nn.init.uniform_(vae.bn.running_mean, -0.5, 0.5)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return diffusers.Flux2KleinPipeline(
        scheduler=_shifting_scheduler(),
        vae=vae,
        text_encoder=transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(**_language_model(tokenizer, layers=28), head_dim=8)
        ),
        tokenizer=tokenizer,
        transformer=transformer,
    )


MINIATURES: dict[str, Callable[[], Any]] = {
    "stable-diffusion": _stable_diffusion,
    "stable-diffusion-v": _stable_diffusion_v,
    "sdxl": _stable_diffusion_xl,
    "sd3": _stable_diffusion_3,
    "flux": _flux,
    "qwen-image": _qwen_image,
    "z-image": _z_image,
    "flux-2-klein": _flux_2_klein,
}
"""Name → a function that makes its pipeline; images of 64×64 pixels or any other multiple of 8."""


def _vae(channels: int, **config: float) -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=64,
        **config,
    )


def _shifting_scheduler() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)


def new_clip_tokenizer() -> Any:
    """CLIP's tokenizer with the tiny world's vocabulary."""
    return build_tokenizer(caption_weights())


def _clip(tokenizer: Any, *, projected: bool) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        projection_dim=_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def _t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(start + letter, -3.0) for start in ("", "▁") for letter in _LETTERS]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def _t5(width: int) -> Any:
    config = transformers.T5Config(
        vocab_size=len(_t5_tokenizer()), d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2
    )
    return transformers.T5EncoderModel(config)


def _qwen_tokenizer() -> Any:
    vocabulary = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocabulary |= {token: len(vocabulary) + k for k, token in enumerate(special)}
    tokenizer = transformers.Qwen2TokenizerFast(
        vocab=vocabulary, merges=[], additional_special_tokens=list(special[1:]), model_max_length=2048
    )
    tokenizer.chat_template = _CHAT
    return tokenizer


def _language_model(tokenizer: Any, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
    }
