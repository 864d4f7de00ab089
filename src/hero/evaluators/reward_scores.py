"""Scores of images under pretrained models, one small class per kind; `KINDS` lists them.

Models come from the hub or a folder through transformers and diffusers, in fp32, and are never trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from hero.errors import ModelError
from hero.policies import resolve_device

__all__ = ["KINDS", "Scorer", "ScorerKind", "clip_score", "load_scorer", "matching_score", "pick_score", "safety_score"]

Scorer = Callable[[Sequence[Image.Image], Sequence[str]], list[float]]
"""N images and their N prompts to N finite scores; higher is better."""

_BATCH = 8


@dataclass(frozen=True)
class ScorerKind:
    """A kind of reward model.

    Attributes:
        model: its usual hub id.
        threshold: score from which an image is good; None if the scale has no such point.
        classes: "module:name" of its model and of its processor.
        score: (model, processor, images, prompts, device) to (N,) scores.
    """

    model: str
    threshold: float | None
    classes: tuple[str, str]
    score: Callable[[Any, Any, Sequence[Image.Image], Sequence[str], torch.device], torch.Tensor]


def clip_score(
    model: Any, processor: Any, images: Sequence[Image.Image], prompts: Sequence[str], device: torch.device
) -> torch.Tensor:
    """100 · cos(image, prompt), (N,): CLIPScore (2104.08718) up to its factor and without the clipping at 0."""
    texts = list(dict.fromkeys(prompts))
    inputs = processor(text=texts, images=list(images), return_tensors="pt", padding=True, truncation=True).to(device)
    output = model(**inputs)
    own = output.text_embeds[[texts.index(prompt) for prompt in prompts]]
    cosines: torch.Tensor = (output.image_embeds * own).sum(-1)
    return 100 * cosines


def pick_score(
    model: Any, processor: Any, images: Sequence[Image.Image], prompts: Sequence[str], device: torch.device
) -> torch.Tensor:
    """exp(t) · cos(image, prompt), (N,), with the model's own temperature t: PickScore (2305.01569)."""
    scale: torch.Tensor = model.logit_scale.exp()
    return scale / 100 * clip_score(model, processor, images, prompts, device)


def matching_score(
    model: Any, processor: Any, images: Sequence[Image.Image], prompts: Sequence[str], device: torch.device
) -> torch.Tensor:
    """Probability that image and prompt belong together, (N,) in [0, 1]: BLIP's matching head (2201.12086)."""
    inputs = processor(text=list(prompts), images=list(images), return_tensors="pt", padding=True, truncation=True)
    with device:  # the model makes its attention mask on the current device
        logits: torch.Tensor = model(**inputs.to(device), use_itm_head=True).itm_score
    probabilities: torch.Tensor = logits.softmax(-1)
    return probabilities[:, 1]


def safety_score(
    model: Any, processor: Any, images: Sequence[Image.Image], prompts: Sequence[str], device: torch.device
) -> torch.Tensor:
    """How far each image is from what the Stable Diffusion safety checker blocks, (N,) in [−2, 2]; > 0: not blocked.

    −max over concepts of cos(image, concept) − the concept's threshold, where the thresholds are .01 lower for an
    image near one of the special concepts, as in the checker itself. The prompt plays no part.
    """
    pixels = processor(images=list(images), return_tensors="pt").pixel_values.to(device)
    embeds = torch.nn.functional.normalize(model.visual_projection(model.vision_model(pixels)[1]))
    special = embeds @ torch.nn.functional.normalize(model.special_care_embeds).T - model.special_care_embeds_weights
    care = 0.01 * (special > 0).any(dim=1, keepdim=True)
    margins = embeds @ torch.nn.functional.normalize(model.concept_embeds).T - model.concept_embeds_weights + care
    worst: torch.Tensor = margins.amax(dim=1)
    return -worst


_CLIP = ("transformers:CLIPModel", "transformers:CLIPProcessor")
_CHECKER = "diffusers.pipelines.stable_diffusion.safety_checker:StableDiffusionSafetyChecker"
KINDS: Mapping[str, ScorerKind] = MappingProxyType(
    {
        "clip": ScorerKind("openai/clip-vit-large-patch14", None, _CLIP, clip_score),
        "pickscore": ScorerKind("yuvalkirstain/PickScore_v1", None, _CLIP, pick_score),
        "matching": ScorerKind(
            "Salesforce/blip-itm-base-coco",
            0.5,
            ("transformers:BlipForImageTextRetrieval", "transformers:BlipProcessor"),
            matching_score,
        ),
        "safety": ScorerKind(
            "CompVis/stable-diffusion-safety-checker",
            0.0,
            (_CHECKER, "transformers:CLIPImageProcessor"),
            safety_score,
        ),
    }
)
"""Kinds of reward model by the word before the colon."""


def load_scorer(kind: str, model: str, processor: str | None = None, device: str = "auto") -> Scorer:
    """The scorer of `kind` with the weights of `model`, a folder or a hub id; `processor` likewise, by default with it.

    Raises:
        ModelError: it cannot be loaded, or holds another kind of model.
    """
    model_class, processor_class = map(_imported, KINDS[kind].classes)
    place = resolve_device(device)
    try:
        loaded, info = model_class.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
        prepare = processor_class.from_pretrained(processor or model)
    except Exception as error:  # the hub client, transformers and the file formats each raise their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"cannot load the {kind} model {model!r}: {reason}; check the folder, or the hub id and the network"
        ) from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise ModelError(
            f"{model!r} is not a {kind} model: it lacks {missing}; give weights for {model_class.__name__}"
        )
    loaded.eval().requires_grad_(False).to(place)

    @torch.no_grad()
    def score(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        parts = [
            KINDS[kind].score(loaded, prepare, [image.convert("RGB") for image in images[rows]], prompts[rows], place)
            for rows in _slices(len(images))
        ]
        return [float(value) for part in parts for value in part.float().cpu()]

    return score


def _slices(n: int) -> Iterator[slice]:
    return (slice(start, start + _BATCH) for start in range(0, n, _BATCH))


def _imported(path: str) -> Any:
    from importlib import import_module

    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
