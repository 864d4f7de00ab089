"""Every setting of a run: one pydantic model per stage of the loop, composed in `Config`.

Unknown keys are errors that name the nearest known key. Every field has a description; the reference in
docs/configuration.md is generated from them (`python -m hero.config`), and a test keeps it complete.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import urlsplit

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, model_validator
from pydantic_core import PydanticCustomError

from hero.errors import ConfigError, nearest
from hero.ids import LARGEST
from hero.registry import MOVED, NOISES, RENAMED_KINDS, REWARDS, SELECTORS, UPDATES, Choice, Registry, Settings

__all__ = [
    "Config",
    "DistributedConfig",
    "EvaluationConfig",
    "EvaluatorConfig",
    "LoraConfig",
    "ModelConfig",
    "NoiseConfig",
    "PracticeConfig",
    "RewardConfig",
    "RunConfig",
    "SamplingConfig",
    "SelectionConfig",
    "TaskConfig",
    "TrackingConfig",
    "UpdateConfig",
    "check_used",
    "load_run_config",
    "load_toml",
    "merge",
    "overlaid",
    "parse_assignments",
    "reference",
    "upgraded",
    "validate",
]


_Table = TypeVar("_Table", bound=Settings)


class _Stage(Settings):
    """A stage without kinds."""


class _StageOfKinds(Settings):
    """A stage with a `kind` and, in the table of that name, the settings of the chosen kind only."""

    model_config = ConfigDict(extra="allow")
    kinds: ClassVar[Registry]
    kind: str

    @model_validator(mode="wrap")
    @classmethod
    def _with_table(cls, values: Any, handler: ValidatorFunctionWrapHandler) -> Self:
        if isinstance(values, cls) or not isinstance(values, Mapping):
            given: Self = handler(values)
            return given
        own, stage = dict(values), cls.kinds.stage
        kind = own.get("kind", cls.model_fields["kind"].default)
        if not isinstance(kind, str) or kind not in cls.kinds:
            hint = nearest(str(kind), cls.kinds)
            unknown = f"{stage}.kind = {kind!r}: {hint}; for one of your own: hero --plugin MODULE ..."
            raise _wrong(_renamed_kind(stage, kind) or unknown)
        for key in own.keys() - cls.model_fields.keys():
            if key == kind and cls.kinds[kind].settings is not None:
                continue
            if key in cls.kinds and key != kind:
                raise _wrong(f"{stage}.{key} is for {stage}.kind = {key!r}, but this run's is {kind!r}")
            raise _wrong(_unknown(f"{stage}.{key}", key, [*cls.model_fields, *_tables(cls.kinds, kind)], stage))
        settings = cls.kinds[kind].settings
        if settings is not None:
            try:
                own[kind] = settings.model_validate(own.get(kind, {}))
            except ValidationError as error:
                at = [stage, kind]
                raise _wrong("; ".join(_explain({**e, "loc": (*at, *e["loc"])}) for e in error.errors())) from None
        made: Self = handler(own)
        return made

    @property
    def choice(self) -> Choice:
        """The registry's entry for the chosen kind."""
        return self.kinds[self.kind]

    @property
    def own(self) -> Settings | None:
        """The table of the chosen kind; None where it has none."""
        found = (self.model_extra or {}).get(self.kind)
        return found if isinstance(found, Settings) else None

    def table(self, settings: type[_Table]) -> _Table:
        """The table of the chosen kind, whose class is `settings`."""
        assert isinstance(self.own, settings), f"{self.kinds.stage}.{self.kind} has no {settings.__name__}"
        return self.own


def _wrong(text: str) -> PydanticCustomError:
    """An error whose text already names the setting."""
    return PydanticCustomError("hero", "{text}", {"text": text})


def _tables(kinds: Registry, kind: str) -> list[str]:
    return [kind] if kinds[kind].settings is not None else []


class TaskConfig(_Stage):
    """What to draw, and what makes an image good."""

    name: str = Field("custom", description="Name of a built-in task (`hero tasks`), or `custom`.")
    prompts: tuple[str, ...] = Field((), description="Prompts to train on; images are shared out evenly.")
    prompts_per_round: int | None = Field(
        None,
        ge=1,
        description="Prompts of one round, of which each then has its share of the images; they are taken in turn, in "
        "an order that is a function of the seed. None: every round has all.",
    )
    criterion: str = Field("", description="What makes an image good, in words; shown to evaluators.")

    @model_validator(mode="after")
    def _has_prompts(self) -> Self:
        if not self.prompts or not all(p.strip() for p in self.prompts):
            raise ValueError("a task needs at least one prompt, and no empty one")
        if len(set(self.prompts)) != len(self.prompts):
            raise ValueError("the same prompt is given twice")
        return self


class ModelConfig(_Stage):
    """The diffusers pipeline to train."""

    path: str = Field(
        "tinyworld", description="`tinyworld` (bundled), a pipeline folder, a hub id, or a one-file model."
    )
    revision: str | None = Field(None, description="Hub revision (branch, tag or commit).")
    variant: str | None = Field(None, description="Weight variant of the files, e.g. `fp16`.")
    config: str | None = Field(
        None,
        description="For a one-file model: the pipeline folder or hub id with its configuration and tokenizers, and "
        "with the weights of parts that the file lacks; none: that of the model it was made from, on the hub.",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32",
        description="Precision of the frozen weights and of sampling; LoRA weights are always fp32.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Whether the update computes the denoiser's activations twice instead of keeping them: it takes "
        "much less memory and about a third more time.",
    )
    offload: tuple[Literal["text-encoders", "vae"], ...] = Field(
        (),
        description="Parts that are kept in main memory while they are not needed: `text-encoders`, `vae`.",
    )
    vae_slicing: bool = Field(False, description="Whether images are decoded one at a time.")
    vae_tiling: bool = Field(
        False, description="Whether images are decoded in overlapping tiles; for large images; seams may show."
    )
    compile: bool = Field(
        False, description="Whether the denoiser's blocks go through `torch.compile`: slow to start, then faster."
    )
    tf32: bool = Field(False, description="Whether fp32 matrix products on CUDA may use TF32: faster, less exact.")
    device: str = Field("auto", description="`auto` (an accelerator if there is one), `cpu`, `cuda`, …")
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 leaves the choice to torch.")


class LoraConfig(_Stage):
    """The weights that are trained."""

    rank: int = Field(8, ge=1, description="LoRA rank.")
    alpha: float = Field(8.0, gt=0, description="LoRA alpha; the update is scaled by alpha / rank.")
    layers: tuple[Literal["attention", "feed-forward", "resnet", "projection"], ...] = Field(
        ("attention",),
        min_length=1,
        description="Kinds of layer with a LoRA: `attention` (q, k, v, out), `feed-forward`, `resnet` "
        "(the convolutions), `projection` (in and out of each transformer block).",
    )
    start: str | None = Field(
        None,
        description="File of a LoRA that the run starts from (diffusers', kohya's or ComfyUI's layout), copied into "
        "the run. It is trained on, with the file's own rank, alpha and layers, whatever is set here.",
    )
    merge_start: bool = Field(
        False,
        description="Whether `lora.start` is added to the model's weights instead, and a LoRA as set here is trained "
        "on top of it.",
    )

    @property
    def continues(self) -> bool:
        """Whether the LoRA in `start` is the one that is trained."""
        return self.start is not None and not self.merge_start

    @model_validator(mode="after")
    def _has_what_is_merged(self) -> Self:
        if self.merge_start and self.start is None:
            raise ValueError("lora.merge_start: there is nothing to merge; give lora.start")
        return self


class SamplingConfig(_Stage):
    """How images are drawn, in training and in evaluation."""

    num_steps: int = Field(50, ge=1, le=1000, description="Denoising steps T of a trajectory.")
    eta: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Stochasticity of a step: η of DDIM, a of flow matching; 0 is deterministic.",
    )
    guidance_scale: float = Field(
        5.0,
        ge=0,
        description="Guidance scale, as the model's own pipeline reads it: classifier-free guidance, off at ≤ 1 "
        "(Z-Image: off at 0); for FLUX.1, the scale that is an input of the model.",
    )
    true_cfg_scale: float = Field(
        1.0,
        ge=1,
        description="FLUX.1: scale of classifier-free guidance on top of the one that is its input; 1 means off.",
    )
    negative_prompt: str = Field(
        "",
        description="What classifier-free guidance leads away from, in place of the empty prompt; not for FLUX.2 "
        "klein.",
    )
    clip_skip: int | None = Field(
        None,
        ge=1,
        description="Last layers of CLIP that are left out of the prompt's embeddings, as diffusers counts them: 1 is "
        "what other programs call 2; none: as the model was trained. For Stable Diffusion, SDXL, Stable Diffusion 3.",
    )
    height: int | None = Field(None, ge=8, description="Image height in pixels; none: the model's own.")
    width: int | None = Field(None, ge=8, description="Image width in pixels; none: the model's own.")
    images_per_round: int = Field(64, ge=1, le=LARGEST + 1, description="Images shown in a round.")
    micro_batch: int = Field(
        8,
        ge=1,
        description="Images denoised together; they are shown as soon as they are drawn. Halved when memory runs out.",
    )

    @property
    def sampler(self) -> dict[str, Any]:
        """What an evaluation depends on, as JSON has it; settings of later versions only where they are used."""
        always = self.model_dump(include={"num_steps", "eta", "guidance_scale"})
        return {**always, **self.model_dump(include={"negative_prompt", "clip_skip"}, exclude_defaults=True)}


class NoiseConfig(_StageOfKinds):
    """Where the initial noises of the next round come from (feedback-guided image generation)."""

    kinds = NOISES
    kind: str = Field("feedback", description="Which distribution.")


class SelectionConfig(_StageOfKinds):
    """Which of the drawn images are shown."""

    kinds = SELECTORS
    kind: str = Field("all", description="Which selector.")
    drawn: int | None = Field(
        None,
        ge=1,
        le=LARGEST + 1,
        description="Images drawn in a round, of which sampling.images_per_round are shown; none: all are shown.",
    )


class RewardConfig(_StageOfKinds):
    """Feedback → reward → advantage."""

    kinds = REWARDS
    kind: str = Field("similarity", description="What turns feedback into a number per image.")
    advantage_clip: float = Field(5.0, gt=0, description="Advantages are clipped to ± this value.")
    recentre: bool = Field(
        False,
        description="Whether clipped advantages are centred again: clipping moves their mean where few are good.",
    )
    min_group: int = Field(
        4, ge=2, description="Advantages are normalised per prompt where it has at least this many images."
    )


class UpdateConfig(_StageOfKinds):
    """Gradient steps on the LoRA."""

    kinds = UPDATES
    kind: str = Field("ppo", description="Which update.")
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="`adamw-8bit` keeps AdamW's state in 8 bits; it needs bitsandbytes and a GPU."
    )
    learning_rate: float = Field(3e-4, gt=0, description="AdamW's learning rate.")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="The gradient's norm is clipped to this value.")
    images_per_step: int = Field(8, ge=1, description="Images that contribute to one optimizer step.")
    micro_batch: int = Field(
        2,
        ge=1,
        description="Latents that go through the denoiser together; gradients are summed in order. Halved when memory "
        "runs out.",
    )
    inner_epochs: int = Field(1, ge=1, description="Passes over the round's images.")

    @property
    def learns(self) -> bool:
        """Whether there is an update at all; else the weights are frozen."""
        return self.choice.implementation is not None

    @property
    def needs_density(self) -> bool:
        """Whether it has no use for steps without a density, which a deterministic sampler takes."""
        return self.choice.needs_density


class PracticeConfig(_Stage):
    """What is learnt between two questions, from images that nobody looks at and the reward alone judges."""

    draws: int = Field(0, ge=0, description="Images drawn for practice after each round's update; 0: no practice.")
    images: int = Field(
        64, ge=2, le=LARGEST + 1, description="Images of a part of practice: they are drawn, judged and learnt from."
    )
    enough: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Exact or varied: share of good images that is good enough. Where a round's labels reach it or, by "
        "a standard error, the reward's estimate of the images drawn for practice, the model is left as it is until it "
        "falls below: every further step costs variety.",
    )
    seconds: float | None = Field(
        None,
        gt=0,
        description="Practice ends with the part in which this time is over; none: with the last draw. How far it gets "
        "then depends on the machine, so that such a run is not reproduced to the bit.",
    )


class EvaluatorConfig(_Stage):
    """Who answers."""

    name: str = Field(
        "oracle",
        description="`oracle` (the task's judge), `web` (people, on the labelling page), `module:callable`, or "
        "`python` (the caller answers).",
    )
    people: int = Field(1, ge=1, le=1000, description="Web: how many evaluators must submit a round.")
    rule: str = Field(
        "majority",
        pattern="^(majority|unanimity|lead:.+)$",
        description="Web: how the answers of several evaluators become one: `majority`, `unanimity`, or `lead:NAME`, "
        "whose verdicts decide. A tie counts as bad.",
    )
    previews: int = Field(
        4,
        ge=0,
        le=64,
        description="Web: images drawn from the same fixed noises after each round, to make the change visible.",
    )
    linger: float = Field(
        600.0, ge=0, description="Web: seconds that a run waits after its last round for more to be added."
    )
    undo_seconds: float = Field(
        4.0,
        ge=0,
        le=600,
        description="Web: seconds for which the last evaluator who submits can still take the answer back, before the "
        "run learns from it.",
    )
    store: str | None = Field(
        None,
        description="Web: SQLAlchemy URL of a label store that several machines share, e.g. "
        "`postgresql://me@host/labels`, without a password; none: the run's own `feedback.db`.",
    )
    label_noise: float = Field(0.0, ge=0, le=1, description="Oracle: share of verdicts flipped at random.")
    strictness: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="Oracle: > 0 also rejects successes whose quality is below this value; < 0 accepts failures "
        "whose quality is at least 1 − |this value|.",
    )
    second_strictness: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Oracle: strictness of a second person who judges each image instead of the first with a chance of "
        "one half, so that two who disagree share a round; none: there is one.",
    )
    fatigue: float = Field(
        0.0, ge=0, le=1, description="Oracle: extra share of flipped verdicts, growing to this value over the run."
    )
    best: Literal["quality", "random"] = Field(
        "quality", description="Oracle: the best is the good image of highest quality, or a random good one."
    )

    @model_validator(mode="after")
    def _keeps_no_secret(self) -> Self:
        if self.store is not None and "://" not in self.store:
            raise ValueError("evaluator.store is not a URL; write e.g. postgresql://me@host/labels")
        if self.store is not None and urlsplit(self.store).password is not None:
            raise ValueError(
                "evaluator.store holds a password, which would be written to config.toml; keep it in ~/.pgpass or in "
                "the environment (PGPASSWORD)"
            )
        return self


class EvaluationConfig(_Stage):
    """What is measured after training."""

    images: int = Field(200, ge=1, description="Images per figure; noises are held out from training.")
    best_of: int = Field(
        1,
        ge=1,
        le=1000,
        description="Candidates drawn for each image of the tuned model, of which the one is kept that the run's "
        "reward scores highest (`reward.kind` must be one that is learnt); 1: no choice.",
    )
    seed: int = Field(1_000_003, description="Seed of the held-out noises, the same for every method.")
    drift_prompts: tuple[str, ...] = Field(
        (),
        description="Prompts that have nothing to do with the task, on which drift is measured; if empty, captions of "
        "the tiny world for that model, everyday prompts for others, without those that share a word with the task's.",
    )
    after_training: bool = Field(True, description="Whether `hero train` evaluates and writes the report.")

    @model_validator(mode="after")
    def _drifts_on_prompts(self) -> Self:
        if not all(prompt.strip() for prompt in self.drift_prompts):
            raise ValueError("a prompt is empty")
        if len(set(self.drift_prompts)) != len(self.drift_prompts):
            raise ValueError("the same prompt is given twice")
        return self


class DistributedConfig(_Stage):
    """How several processes work together; how many there are is not a setting, and does not change what is learnt."""

    collective_timeout: float = Field(
        600.0,
        gt=0,
        description="Seconds that an exchange of results may take; waiting for a person does not count.",
    )
    shard: bool = Field(
        False,
        description="Whether each process keeps only its part of the denoiser, and gets the other parts when it "
        "computes (FSDP); also on under an accelerate configuration for FSDP. With one process nothing changes.",
    )


class TrackingConfig(_Stage):
    """Where the figures of each round are also sent; they are always in metrics.jsonl."""

    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="Any of `tensorboard` (into the run's folder), `wandb`, `trackio`; each must be installed."
    )
    project: str = Field("hero", min_length=1, description="Project name at W&B and trackio.")
    images: int = Field(64, ge=0, description="Images in the grid that is logged each round; 0: no grid.")


class RunConfig(_Stage):
    """What is kept of a run."""

    keep_loras: int = Field(
        0,
        ge=0,
        description="Every so many rounds what was learnt by then is kept for good, so that its LoRA can be evaluated "
        "and exported, and the run can go on from there; 0: only the newest rounds are.",
    )


class Config(_Stage):
    """A whole run. `hero train` writes it, fully resolved, to config.toml."""

    method: str = Field("hero", description="Name of the method that the settings came from.")
    preset: str = Field("tinyworld", description="Name of the preset that the settings came from.")
    seed: int = Field(0, ge=0, description="Seed of every random draw.")
    rounds: int = Field(8, ge=1, le=9999, description="Rounds of feedback.")
    task: TaskConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    lora: LoraConfig = Field(default_factory=LoraConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    noise: NoiseConfig = Field(default_factory=NoiseConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    evaluator: EvaluatorConfig = Field(default_factory=EvaluatorConfig)
    reward: RewardConfig = Field(default_factory=RewardConfig)
    update: UpdateConfig = Field(default_factory=UpdateConfig)
    practice: PracticeConfig = Field(default_factory=PracticeConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    run: RunConfig = Field(default_factory=RunConfig)
    distributed: DistributedConfig = Field(default_factory=DistributedConfig)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.sampling.eta == 0 and self.update.needs_density:
            raise ValueError("sampling.eta is 0: a deterministic sampler has no policy gradient; use eta > 0")
        for stage in (self.noise, self.selection, self.reward, self.update):
            if stage.own is not None:
                stage.own.check(self)
        if self.practice.draws and not self.update.learns:
            raise ValueError("practice.draws: frozen weights learn nothing from practice; leave it at 0")
        if self.practice.draws and not self.reward.choice.estimates:
            able = ", ".join(repr(kind) for kind, choice in self.reward.kinds.items() if choice.estimates)
            raise ValueError(
                f"practice.draws: reward.kind {self.reward.kind!r} says nothing about unlabelled images; use {able}"
            )
        if own := set(self.evaluation.drift_prompts) & set(self.task.prompts):
            raise ValueError(
                f"evaluation.drift_prompts: {min(own)!r} is a training prompt; drift is measured on other prompts"
            )
        if self.drawn < self.sampling.images_per_round:
            raise ValueError(
                f"selection.drawn is {self.drawn}, less than sampling.images_per_round, "
                f"{self.sampling.images_per_round}"
            )
        if self.drawn > self.sampling.images_per_round and not self.selection.choice.narrows:
            raise ValueError(
                f"selection.drawn is {self.drawn}, but selection.kind {self.selection.kind!r} shows every drawn image"
            )
        if self.sampling.images_per_round < min(len(self.task.prompts), self.task.prompts_per_round or LARGEST):
            raise ValueError(
                "sampling.images_per_round is smaller than the number of prompts; with task.prompts_per_round each "
                "round has a share of them"
            )
        if self.distributed.shard and self.model.compile:
            raise ValueError("distributed.shard cannot be combined with model.compile; turn one of them off")
        if self.distributed.shard and ":" in self.model.device:
            raise ValueError(
                f"model.device is {self.model.device}, but with distributed.shard each process takes its own GPU; "
                "leave it at auto"
            )
        return self

    @property
    def drawn(self) -> int:
        """Images drawn in a round."""
        return self.selection.drawn or self.sampling.images_per_round

    def to_toml(self) -> str:
        """This configuration as TOML; `validate(tomllib.loads(...))` gives an equal one."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts laid over each other; later layers win."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def overlaid(below: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `below`, without the tables in `below` of kinds that are no longer chosen."""
    merged = merge(below, over)
    for stage in _STAGES_OF_KINDS:
        values = merged.get(stage.kinds.stage)
        if isinstance(values, Mapping):
            kind = values.get("kind", stage.model_fields["kind"].default)
            wanted = over.get(stage.kinds.stage, {})
            unused = {key for key in values if key in stage.kinds and key != kind and key not in wanted}
            merged[stage.kinds.stage] = {key: value for key, value in values.items() if key not in unused}
    return merged


def check_used(settings: Mapping[str, Any], config: Config) -> None:
    """Raises ConfigError if `settings` (nested dicts) have a table of a kind that `config` does not use."""
    for stage in _STAGES_OF_KINDS:
        name = stage.kinds.stage
        kind, given = getattr(config, name).kind, settings.get(name)
        for key in given if isinstance(given, Mapping) else ():
            if key in stage.kinds and key != kind:
                raise ConfigError(f"{name}.{key} is for {name}.kind = {key!r}, but this run's is {kind!r}")


_STAGES_OF_KINDS: tuple[type[_StageOfKinds], ...] = (NoiseConfig, SelectionConfig, RewardConfig, UpdateConfig)


def validate(values: Mapping[str, Any]) -> Config:
    """`Config` from nested dicts.

    Raises:
        ConfigError: with each unknown key and the nearest known one, and each value out of range.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        problems = [(".".join(map(str, item["loc"])), _explain(item)) for item in error.errors()]
        raise ConfigError("; ".join(dict.fromkeys(text for _, text in problems)), problems) from None


# ---------------------------------------------------------------------------------------------- what version 0.1 wrote


def _renamed_kind(stage: str, kind: object) -> str:
    now = RENAMED_KINDS.get((stage, str(kind)))
    if now is None:
        return ""
    ((new, table),) = now.items()
    values = " and ".join(f"{stage}.{new}.{name} = {json.dumps(value)}" for name, value in table.items())
    return f'{stage}.kind = {kind!r} is now {stage}.kind = "{new}" with {values}'


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run of version 0.1 under their present names; others unchanged."""
    upgraded = {stage: dict(v) if isinstance(v, Mapping) else v for stage, v in values.items()}
    reward = upgraded.get("reward", {})
    for new, table in RENAMED_KINDS.get(("reward", str(reward.get("kind"))), {}).items():
        reward |= {"kind": new, new: dict(table)}
    for old, new in MOVED.items():
        (stage, name), (new_stage, kind, new_name) = old.split("."), new.split(".")
        if name in upgraded.get(stage, {}):
            value = upgraded[stage].pop(name)
            target = upgraded.setdefault(new_stage, {})
            if target.get("kind", kind) == kind:  # the settings of kinds that were not chosen had no effect
                target[kind] = {**target.get(kind, {}), new_name: value}
    if not upgraded.get("representation", True):
        del upgraded["representation"]
    return upgraded


def load_run_config(file: str | Path, settings: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a run from its config.toml (also of version 0.1), with `settings` laid over it.

    Raises:
        ConfigError: the file cannot be read, or is not a valid configuration.
    """
    return validate(overlaid(upgraded(load_toml(file)), settings or {}))


# ---------------------------------------------------------------------------------------------- errors in words


def _explain(item: Any) -> str:
    if item["type"] == "hero":
        return str(item["msg"])
    location = [str(part) for part in item["loc"]]
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":
        model: Any = Config
        for part in location[:-1]:
            known = part in model.model_fields
            model = model.model_fields[part].annotation if known else model.kinds[part].settings
        return _unknown(dotted, location[-1], model.model_fields, ".".join(location[:-1]), item["input"])
    message = str(item["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    return f"{dotted} = {item['input']!r}: {message}" if not isinstance(item["input"], dict) else f"{dotted}: {message}"


def _unknown(dotted: str, name: str, known: Iterable[str], where: str, value: object = None) -> str:
    """The message for a setting that does not exist: its present name, or the nearest known one."""
    moved = {old: new for old, new in MOVED.items() if old == dotted or old.startswith(f"{dotted}.")}
    if moved:
        given = [f"{dotted}.{key}" for key in value] if isinstance(value, Mapping) else [dotted]
        return "; ".join(f"{old} is now {moved[old]}" for old in given if old in moved) or f"{dotted} no longer exists"
    return f"unknown setting {dotted!r}; {nearest(name, known)}" + (f" (in {where})" if where else "")


def load_toml(path: str | Path) -> dict[str, Any]:
    """Settings from a TOML file, as nested dicts.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`["sampling.eta=0.5", ...]` as nested dicts; a value is read as TOML if possible, else as a plain string.

    Raises:
        ConfigError: an assignment without "=" or without a key.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {assignment!r}: write stage.field=value, e.g. sampling.eta=0.5")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        nested: Any = value
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        settings = merge(settings, nested)
    return settings


def reference() -> str:
    """The configuration reference as Markdown, generated from the fields' descriptions."""
    lines = [_REFERENCE_INTRODUCTION]
    for prefix, model in _reference_tables():
        lines += [f"## `{prefix}`" if prefix else "## The run", "", (model.__doc__ or "").strip(), ""]
        if issubclass(model, _StageOfKinds):
            lines += ["Kinds: " + "; ".join(f"`{k}`, {choice.summary}" for k, choice in model.kinds.items()) + ".", ""]
        lines += ["| setting | default | meaning |", "|---|---|---|"]
        for name, info in model.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                continue
            key = f"{prefix}.{name}" if prefix else name
            default = "not set" if info.default is None else f"`{json.dumps(info.default)}`"
            meaning = (info.description or "").replace("|", "\\|")
            lines.append(f"| `{key}` | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _reference_tables() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every table of the configuration with its dotted name: the run's, each stage's, and those of its kinds."""
    yield "", Config
    for name, info in Config.model_fields.items():
        stage = info.annotation
        if isinstance(stage, type) and issubclass(stage, BaseModel):
            yield name, stage
            if issubclass(stage, _StageOfKinds):
                yield from ((f"{name}.{kind}", c.settings) for kind, c in stage.kinds.items() if c.settings is not None)


_REFERENCE_INTRODUCTION = """\
# Configuration

Generated by `python -m hero.config` from the fields' own descriptions; edit `src/hero/config.py`, not this file.

A run's settings come in layers, and later ones win: the defaults below, the values of the *preset* (by
model: `tinyworld`, `stable-diffusion`, `sdxl`, `sd3` or `flux`), the recipe of the *method*
(`hero` by default), then your own. Presets and methods are listed in [algorithm.md](algorithm.md#values).
The result, fully resolved, is written to the run's `config.toml`, which `hero train --config` reads back.

| where | how |
|---|---|
| command line | `hero train --set sampling.eta=0.8 --set lora.rank=4` |
| file | `hero train --config my.toml`, where the TOML tables are the stages below |
| Python | `hero.configure("hand", settings={"sampling": {"eta": 0.8}, "lora": {"rank": 4}})` |

A stage with a `kind` keeps the settings of that kind in a separate table, which is written only for the chosen kind:
`update.kind = "ppo"` and the table `[update.ppo]`. A setting's name in version 0.1 is an error that gives the new name;
the settings of old run directories are still read.

A key that does not exist is an error that names the nearest one that does. Defaults are written as in TOML.
"""


if __name__ == "__main__":
    print(reference(), end="")
