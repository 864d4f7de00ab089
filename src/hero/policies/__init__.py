"""A diffusers pipeline as a stochastic policy: one common interface, one file per model family.

All other code uses only `Policy` and never branches on the model. A new family is a new file
(see `policies/family.py`) and one line in `FAMILIES`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from PIL import Image
from torch.distributed.device_mesh import DeviceMesh

from hero.config import Config, LoraConfig, ModelConfig
from hero.errors import ModelError, nearest
from hero.model_index import is_folder, is_single_file, missing_folder
from hero.policies.adapters import Adapter, LoraAdapter
from hero.policies.conditioning import Conditioning
from hero.policies.layers import Pooling, channel_statistics
from hero.policies.prompts import CutPrompt
from hero.tinyworld import NAME as TINYWORLD
from hero.tinyworld import model_path
from hero.transitions import Transition

if TYPE_CHECKING:
    from hero.policies.steps import Steps

__all__ = [
    "FAMILIES",
    "Adapter",
    "Conditioning",
    "CutPrompt",
    "LoraAdapter",
    "Policy",
    "family_of",
    "load_policy",
    "resolve_device",
]

FAMILIES: dict[str, str] = {
    "StableDiffusionPipeline": "hero.policies.stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": "hero.policies.stable_diffusion_xl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "hero.policies.stable_diffusion_3:StableDiffusion3",
    "FluxPipeline": "hero.policies.flux:Flux",
    "QwenImagePipeline": "hero.policies.qwen_image:QwenImage",
    "ZImagePipeline": "hero.policies.z_image:ZImage",
    "Flux2KleinPipeline": "hero.policies.flux_2_klein:Flux2Klein",
}
"""Pipeline class (as in model_index.json) → the family that adapts it to the common interface."""


class Policy(Protocol):
    """A diffusion model whose denoising steps are Gaussian transitions.

    Attributes:
        pipeline: the library's pipeline, whose denoiser carries the LoRA.
        denoiser: the component that is trained.
        latent_shape: (C, h, w).
        image_size: (height, width) in pixels.
        num_steps: T.
        steps: the noise schedule: the meaning of a noise level t in (0, 1], and conversions at any level.
        trainable_steps: (T,) bool on the CPU; False where a step has no density.
        device: where latents are.
        storage_dtype: dtype of stored latents; a latent is rounded to it before its log-probability is taken.
        lora: the LoRA's settings as it is placed; rank and alpha are those of a file that the run starts from.
        starts: what the run starts from, a LoRA of others, in a sentence; usually empty.
    """

    pipeline: Any
    denoiser: Any
    latent_shape: tuple[int, int, int]
    image_size: tuple[int, int]
    num_steps: int
    steps: Steps
    trainable_steps: torch.Tensor
    device: torch.device
    storage_dtype: torch.dtype
    lora: LoraConfig
    starts: tuple[str, ...]

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompt embeddings, computed once and without gradient."""
        ...

    def cut(self, prompts: Sequence[str]) -> list[CutPrompt]:
        """The prompts that are too long for a text encoder, with what it does not see of them."""
        ...

    def transition(self, latents: torch.Tensor, steps: torch.Tensor, conditioning: Conditioning) -> Transition:
        """The transition of each latent: `latents` (N, C, h, w), `steps` (N,) int64 in [0, T), N conditioning rows."""
        ...

    def predict(
        self, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, *, guided: bool
    ) -> torch.Tensor:
        """The model's output at any noise level, (N, C, h, w) fp32; `steps` converts what it predicts.

        Args:
            latents: (N, C, h, w) on the policy's device.
            t: (N,) in (0, 1].
            conditioning: N rows.
            guided: as in sampling. False: only the pass with the prompt, in which a model whose input includes the
                guidance scale still gets it.

        Raises:
            ValueError: a noise level is not in (0, 1].
        """
        ...

    def features(
        self,
        latents: torch.Tensor,
        conditioning: Conditioning,
        *,
        levels: Sequence[float] | None = None,
        pooling: Pooling = channel_statistics,
    ) -> torch.Tensor:
        """Features of final latents under the base model, whichever adapter is in use: (N, D) fp32 on the CPU.

        At each noise level every image gets the same noise, and its latents go through the denoiser once with their
        prompt, without guidance. `pooling` turns the output of each of the family's `feature_layers` into numbers;
        those of all layers are concatenated and then averaged over the levels.

        Args:
            latents: (N, C, h, w) clean, on any device.
            conditioning: N rows.
            levels: noise levels in (0, 1]; None: `steps.feature_levels`.
            pooling: from (N, C, h, w) to (N, K).
        """
        ...

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """Final latents (N, C, h, w) to RGB images."""
        ...

    def library_latents(self, prompts: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
        """Final latents of the library's own call from `noise` (N, C, h, w), without stochasticity; for checks."""
        ...

    def add_adapter(self, adapter: Literal["old"]) -> None:
        """Adds the old LoRA as a copy of the current one; does nothing if it was added before."""
        ...

    def using(self, adapter: Adapter) -> AbstractContextManager[None]:
        """Within it the policy computes with that LoRA; can be nested. Only `current` gets gradients.

        `base` is the model as training found it: without a LoRA, or with the one of `lora.start`.

        With gradient checkpointing, a backward pass recomputes blocks with the LoRA in use at that moment.

        Raises:
            ValueError: the adapter was not added.
        """
        ...

    def merged(self) -> AbstractContextManager[None]:
        """Within it the adapter in use is a part of the weights where that can be: drawing is faster, and outputs are
        the same but for rounding. Nothing can be trained meanwhile."""
        ...

    def frozen(self) -> AbstractContextManager[None]:
        """`using("base")`: the policy is the model as training found it."""
        ...

    def blend(self, adapter: Literal["old"], *, towards: LoraAdapter, decay: float) -> None:
        """θ_old ← decay·θ_old + (1 − decay)·θ; a decay of 0 copies.

        Raises:
            ValueError: `decay` is not in [0, 1], or an adapter was not added.
        """
        ...

    def parameters(self, adapter: LoraAdapter = "current") -> list[torch.nn.Parameter]:
        """The LoRA weights, fp32, in a fixed order; only those of `current` are trained."""
        ...

    def state_dict(self, adapter: LoraAdapter = "current") -> dict[str, torch.Tensor]:
        """The LoRA weights by name, on the CPU; the names are the same for each adapter."""
        ...

    def load_state_dict(self, state: Mapping[str, torch.Tensor], adapter: LoraAdapter = "current") -> None:
        """The inverse of `state_dict`.

        Raises:
            ModelError: names or shapes are not those of this LoRA.
        """
        ...

    def save_lora(self, folder: Path) -> Path:
        """Writes the current LoRA as pytorch_lora_weights.safetensors with its metadata; returns the file."""
        ...


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU."""
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"model.device = {name!r} cannot be used: {str(error).splitlines()[0]}") from None
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def family_of(pipeline_class: str) -> Any:
    """The family for a pipeline class name.

    Raises:
        ModelError: the family is not supported; lists those that are.
    """
    if pipeline_class not in FAMILIES:
        raise ModelError(f"pipelines of class {pipeline_class} are not supported; {nearest(pipeline_class, FAMILIES)}")
    module, _, name = FAMILIES[pipeline_class].partition(":")
    return getattr(import_module(module), name)


NEVER_USED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components of pipelines that no policy uses; a model may lack them."""

_VOCABULARY = ("vocab.json", "tokenizer.json", "vocab.txt", "*.model")
"""Files of a tokenizer, any of which holds its vocabulary."""


def _check_folder(folder: Path) -> dict[str, Any]:
    """The components in `folder`, by model_index.json, that are loaded as None: null there, or missing and unused.

    Raises:
        ModelError: it is no pipeline of a supported family, or a file or folder is missing.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(
            f"{folder} is not a diffusers pipeline: it holds no model_index.json; "
            "give a folder made by save_pretrained, a hub id, or 'tinyworld'"
        )
    try:
        components = json.loads(index.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{index} cannot be read: {error}") from None
    family_of(components.get("_class_name", "?"))
    absent = _null_components(components)
    for name, value in components.items():
        if not _is_component(name, value) or name in absent:
            continue
        part = folder / name
        if not part.is_dir() or not any(part.iterdir()):
            if name in NEVER_USED:
                absent[name] = None
                continue
            missing = "is empty" if part.is_dir() else "is missing"
            raise ModelError(
                f"{folder} has no component {name!r}: its folder {missing}, although model_index.json names one; "
                "download the model again"
            )
        if name.startswith("tokenizer") and not any(found for file in _VOCABULARY for found in part.glob(file)):
            raise ModelError(
                f"{part} has no vocabulary ({', '.join(_VOCABULARY)}), so that all prompts would be the same; download "
                "the model again"
            )
    return absent


def _null_components(components: Mapping[str, Any]) -> dict[str, Any]:
    """Components that a model does without, as Stable Diffusion 3.5 may do without its T5."""
    return {name: None for name, value in components.items() if _is_component(name, value) and value[0] is None}


def _is_component(name: str, value: object) -> bool:
    """Whether an entry of model_index.json is a component, [library, class]."""
    return not name.startswith("_") and isinstance(value, list) and len(value) == 2


def _variants_in(folder: Path) -> list[str]:
    """Names of weight variants, as in `model.fp16.safetensors`, of which there are files."""
    names = (re.search(r"\.([A-Za-z]\w*)(?:-\d+-of-\d+)?\.(?:safetensors|bin)$", f.name) for f in folder.glob("*/*"))
    return sorted({name[1] for name in names if name and name[1] != "index"})


def _remedy(config: ModelConfig, looks_local: bool) -> str:
    """What may help where a model cannot be loaded."""
    if not looks_local:
        return (
            "check the name, the network, --variant and (for gated models) `hf auth login`; if it was a folder, there "
            "is none of that name here: `hero resume RUN --set model.path=NEW` says where a run's model is now"
        )
    variants = _variants_in(Path(config.path).expanduser())
    if config.variant is None and variants:
        return f"its weights are files of a variant: add --variant {variants[0]}"
    if config.variant is not None and config.variant not in variants:
        has = f"; it has {', '.join(variants)}" if variants else ""
        return f"there are no files of the variant {config.variant!r}{has}: change or leave out --variant"
    return "check the files"


def _check_tokenizers(pipeline: Any) -> None:
    """Raises ModelError if a tokenizer knows less than half of the tokens of its text encoder."""
    for name, tokenizer in pipeline.components.items():
        encoder = getattr(pipeline, name.replace("tokenizer", "text_encoder"), None)
        if not name.startswith("tokenizer") or tokenizer is None or encoder is None:
            continue
        config = getattr(encoder.config, "text_config", encoder.config)
        if 2 * len(tokenizer) < getattr(config, "vocab_size", 0):
            raise ModelError(
                f"{name} has {len(tokenizer)} tokens and its text encoder {config.vocab_size}: files of the vocabulary "
                "are missing, so that prompts would be the same; download the model again"
            )


def load_pipeline(config: ModelConfig, dtypes: Mapping[str, torch.dtype] | None = None) -> Any:
    """The diffusers pipeline of `config`, on the CPU, frozen, in its dtype, or in `dtypes` by component (`default`).

    Raises:
        ModelError: the folder or hub id does not exist or cannot be loaded, or the family is not supported.
    """
    from diffusers import DiffusionPipeline

    source = str(model_path()) if config.path == TINYWORLD else config.path
    if is_single_file(source):
        from hero.policies.single_file import load_single_file

        pipeline = load_single_file(config, dtypes["default"] if dtypes else getattr(torch, config.dtype))
        _check_tokenizers(pipeline)
        return pipeline
    if config.config is not None:
        raise ModelError(f"model.config is for one-file models, and {config.path!r} is none; leave it out")
    looks_local = is_folder(source)
    absent: dict[str, Any] = {}
    if looks_local:
        folder = Path(source).expanduser()
        if not folder.exists():
            raise missing_folder(source)
        absent = _check_folder(folder)
        source = str(folder)
    else:
        with suppress(OSError, ValueError):  # whatever is wrong, the loader below says it better
            absent = _null_components(DiffusionPipeline.load_config(source, revision=config.revision))
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            source,
            revision=config.revision,
            variant=config.variant,
            dtype=getattr(torch, config.dtype) if dtypes is None else dict(dtypes),
            **absent,
        )
    except Exception as error:  # diffusers, the hub client and the file formats each raise their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load the model {config.path!r}: {reason}; {_remedy(config, looks_local)}") from error
    family_of(type(pipeline).__name__)
    _check_tokenizers(pipeline)
    return pipeline


def load_policy(config: Config, mesh: DeviceMesh | None = None) -> Policy:
    """Loads the model of `config` and puts its LoRA on it; sets torch's number of threads if `config` gives one.

    Args:
        mesh: the processes that share the denoiser, each with a part of it; they must then run it together. None: this
            process holds all of it.

    Raises:
        ModelError: see `load_pipeline`; or a scheduler, size or device that the policy cannot use.
    """
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    pipeline = load_pipeline(config.model)
    if config.model.tf32:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    from hero.policies.pipeline import PipelinePolicy

    device = resolve_device(config.model.device)
    if mesh is not None and device.type != mesh.device_type:
        raise ModelError(f"model.device is {device.type} here, but the processes share a model on {mesh.device_type}")
    family = family_of(type(pipeline).__name__)(pipeline, config.sampling, device)
    return PipelinePolicy(pipeline, family, config, device=device, mesh=mesh)
