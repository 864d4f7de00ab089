"""Reward models as evaluators: tiny models of the real classes, with random weights, loaded from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from hero.config import validate
from hero.errors import ConfigError, ModelError
from hero.evaluators import check_can_judge, check_evaluator, evaluator_named, load_reward_model, make_evaluator
from hero.evaluators.reward_model import RewardModel, is_reward_model
from hero.tinyworld.scenes import caption_weights
from hero.tinyworld.vocabulary import build_tokenizer
from hero.types import BestImage, ImageBatch, Verdict, image_id

PROMPTS = ("1 hand", "a black cat")


def _config() -> CLIPConfig:
    tokenizer = build_tokenizer(caption_weights())
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **small,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**small, "image_size": 32, "patch_size": 8}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)


def _processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small CLIPModel with its processor."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(1)
    CLIPModel(_config()).save_pretrained(folder)
    CLIPProcessor(_processor(), build_tokenizer(caption_weights())).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small safety checker whose concepts block some images and not others."""
    folder = tmp_path_factory.mktemp("checker")
    torch.manual_seed(2)
    model = StableDiffusionSafetyChecker(_config())
    pixels = _processor()(images=_images(40), return_tensors="pt").pixel_values
    with torch.no_grad():
        seen = torch.nn.functional.normalize(model.visual_projection(model.vision_model(pixels)[1]))
        for name in ("concept", "special_care"):
            concepts = torch.nn.functional.normalize(torch.randn_like(getattr(model, f"{name}_embeds")))
            getattr(model, f"{name}_embeds").data = concepts
            near = (seen @ concepts.T).quantile(0.95, dim=0)  # each concept is near to two of the 40 images
            getattr(model, f"{name}_embeds_weights").data = near
    model.save_pretrained(folder)
    _processor().save_pretrained(folder)
    return folder


def _images(n: int, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((40, 40), 0) for _ in range(n)]


def _batch(n: int = 12, best: tuple[BestImage, ...] = ()) -> ImageBatch:
    ids = tuple(image_id(1, i) for i in range(n))
    return ImageBatch(1, ids, tuple(_images(n)), tuple(PROMPTS[i % 2] for i in range(n)), best)


def test_clip_and_pick_scores_are_the_models_own_logits(clip: Path) -> None:
    images, prompts = _images(9), [PROMPTS[i % 2] for i in range(9)]
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    with torch.no_grad():
        output = model(**processor(text=list(PROMPTS), images=images, return_tensors="pt", padding=True))
    logits = output.logits_per_image[torch.arange(9), torch.arange(9) % 2]
    pick = load_reward_model(f"pickscore:{clip}").score(images, prompts)
    assert pick == pytest.approx(logits.tolist(), rel=1e-4)
    cosines = logits / model.logit_scale.exp()
    assert load_reward_model(f"clip:{clip}").score(images, prompts) == pytest.approx((100 * cosines).tolist(), rel=1e-4)


def test_the_safety_score_is_positive_where_the_checker_lets_an_image_pass(checker: Path) -> None:
    images = _images(40)
    model = StableDiffusionSafetyChecker.from_pretrained(checker)
    pixels = CLIPImageProcessor.from_pretrained(checker)(images=images, return_tensors="pt").pixel_values
    _, blocked = model(images=np.zeros((40, 2, 2, 3)), clip_input=pixels)
    assert 0 < sum(blocked) < 40
    judge = load_reward_model(f"safety:{checker}")
    scores = judge.score(images, ["anything"] * 40)
    clear = [i for i in range(40) if abs(scores[i]) > 1e-3]  # the checker rounds to three decimals
    assert len(clear) > 20
    assert [scores[i] > 0 for i in clear] == [not blocked[i] for i in clear]
    assert judge.threshold == 0


def test_a_top_share_is_good_in_each_prompt_and_the_best_leads_it(clip: Path) -> None:
    judge, batch = load_reward_model(f"clip:{clip},top=0.5"), _batch()
    answer = judge(batch)
    answer.check(batch)
    for prompt in PROMPTS:
        mine = sorted((i for i, _, own in batch if own == prompt), key=answer.scores.__getitem__)
        assert [answer.verdicts[i] for i in mine] == [Verdict.BAD] * 3 + [Verdict.GOOD] * 3
        assert mine[-1] in answer.best
    assert judge(batch) == answer
    assert check_evaluator(judge, batch) == []


def test_a_threshold_may_leave_nothing_good_and_a_kept_best_stays_unless_beaten(clip: Path) -> None:
    batch = _batch()
    nothing = load_reward_model(f"clip:{clip},threshold=1e9")(batch)
    assert (nothing.good, nothing.best, len(nothing.bad)) == ((), (), 12)
    judge = load_reward_model(f"clip:{clip},top=0.25")
    ranked = sorted((i for i, _, own in batch if own == PROMPTS[0]), key=judge(batch).scores.__getitem__)
    image_of = {i: image for i, image, _ in batch}
    for kept, winner in ((ranked[-1], "r0000-i0000"), (ranked[0], ranked[-1])):
        again = _batch(best=(BestImage("r0000-i0000", image_of[kept], PROMPTS[0]),))
        assert winner in judge(again).best
        assert len(judge(again).best) == 2


def test_suggestions_rank_as_the_scores_do_and_are_half_at_the_line(clip: Path) -> None:
    batch = _batch()
    judge = load_reward_model(f"clip:{clip},top=0.5")
    answer, likely = judge(batch), judge.suggest(batch)
    assert set(likely) == set(batch.ids)
    assert all(0 < p < 1 for p in likely.values())
    assert {i for i, p in likely.items() if p >= 0.5} == set(answer.good)
    for prompt in PROMPTS:
        mine = [i for i, _, own in batch if own == prompt]
        assert sorted(mine, key=likely.__getitem__) == sorted(mine, key=answer.scores.__getitem__)


def test_resolve_gives_a_reward_model_and_a_judge_needs_a_threshold(clip: Path, checker: Path) -> None:
    def config(name: str) -> object:
        return validate({"task": {"prompts": ["1 hand"]}, "evaluator": {"name": name}, "model": {"device": "cpu"}})

    assert isinstance(make_evaluator(config(f"clip:{clip}")), RewardModel)
    assert evaluator_named(f"safety:{checker}", config("oracle")).threshold == 0
    with pytest.raises(ConfigError, match="say what is good"):
        check_can_judge(f"clip:{clip}", config("oracle"))
    check_can_judge("safety", config("oracle"))
    check_can_judge("web", config("oracle"))
    assert is_reward_model("safety")
    assert not is_reward_model("my_judge:evaluate")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip:x,treshold=3", "unknown option 'treshold'; did you mean 'threshold'"),
        ("clip:x,threshold=high", "must be a number, not 'high'"),
        ("clip:x,top=0", "share"),
        ("clip:x,top=.5,threshold=1", "not both"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_reward_model(name)


def test_a_folder_without_the_model_is_refused(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the clip model"):
        load_reward_model(f"clip:{tmp_path}")
    with pytest.raises(ModelError, match="is not a safety model: it lacks"):
        load_reward_model(f"safety:{clip}")
