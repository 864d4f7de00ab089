"""The model card beside the tiny world's weights: what it is, how it was made, what it is not for."""

from __future__ import annotations

from typing import Any

from hero.tinyworld.mixture import SUCCESS_SHARE

__all__ = ["bundled_model_card"]

_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# hero tiny world

A small text-to-image model with the interface of the large ones: a `diffusers.StableDiffusionPipeline` that
draws 64×64 pictures of hands, roses in vases, cats and boxes, narcissi, mountain views and people, in seconds
on a CPU. It is the demo, the test fixture and the benchmark of `hero`, which fine-tunes such models from a
person's own judgement.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
image = pipeline("1 hand", num_inference_steps=20, guidance_scale=2.0).images[0]
```

## Data

{scenes} scenes drawn by the procedural renderers in `hero.tinyworld.scenes`, with {captions} captions from
a small grammar. No photograph, no person's drawing and no other model's output was used. What a task's prompt
asks for is drawn only in a set share of its scenes (`hero.tinyworld.mixture`), so that the model is imperfect
in known ways:

| task | share of its scenes that do what is asked |
|---|---|
{shares}

## Architecture

| part | class | size |
|---|---|---|
| autoencoder | `AutoencoderKL`, (16, 32, 48) channels, 64×64×3 ↔ 4×16×16 | {vae} parameters |
| denoiser | `UNet2DConditionModel`, (32, 64, 96) channels, cross-attention below the top | {unet} parameters |
| text encoder | `CLIPTextModel`, 2 layers, 64 wide | {text} parameters |
| tokenizer | `CLIPTokenizer`, a token per word, else bytes; at most {length} | {words} tokens |
| scheduler | `DDIMScheduler`, noise schedule of Stable Diffusion 1.5, noise prediction | |

Weights are stored in half precision; plain `from_pretrained` loads them in float32.

## Training

{history} The autoencoder minimises the L1, squared, edge and multi-scale errors of its reconstructions, with
a small KL term; its latents are standardised channel by channel. UNet and text encoder minimise the squared
error of the noise, weighted by min-SNR-γ (γ = 5); 10 % of the captions are dropped for classifier-free
guidance. AdamW, cosine learning rate, and a moving average of the weights. The one command that makes it:

    {command}

## Use and limits

For trying, testing and comparing fine-tuning methods where a large model would be too slow. It knows the words
of its grammar and nothing else, draws flat shapes, and often gets the number of fingers wrong, which is what it
is for. Its people are plain figures that represent nobody; some are bare (nothing explicit), which the task
`modest-figure` is there to reduce. Results on it do not by themselves carry over to large models.

Licence: Apache-2.0, like the project.
"""


def bundled_model_card(pipeline: Any, *, scenes: int, captions: int, history: str, command: str) -> str:
    """The card of `pipeline`, as Markdown with the front matter of the Hugging Face Hub.

    Args:
        pipeline: the Stable Diffusion pipeline.
        scenes: number of scenes it was trained on.
        captions: number of their distinct captions.
        history: which trainings it went through, in whole sentences.
        command: the command that makes it again.
    """

    def size(module: Any) -> str:
        return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.2f} M"

    return _CARD.format(
        scenes=scenes,
        captions=captions,
        shares="\n".join(f"| `{task}` | {100 * share:.3g} % |" for task, share in SUCCESS_SHARE.items()),
        vae=size(pipeline.vae),
        unet=size(pipeline.unet),
        text=size(pipeline.text_encoder),
        length=pipeline.tokenizer.model_max_length,
        words=len(pipeline.tokenizer),
        history=history,
        command=command,
    )
