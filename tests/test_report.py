"""The report of run directories made of real files: what it says, and that it stands alone."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hero.config import validate
from hero.console import closing_lines, round_line
from hero.errors import ConfigError, RunError
from hero.evaluation import Drift, EvaluationResult, Measured
from hero.feedback.marks import Mark
from hero.feedback.store import LabelStore
from hero.report import write_report
from hero.report.paired import Paired
from hero.tasks import get_task
from hero.tinyworld import scenes
from hero.types import Feedback, RoundStats, image_id

IMAGES = 6


class Page(HTMLParser):
    """A parsed report: its elements as (tag, attributes), and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self._text: list[str] = []
        self.feed(self.source)
        self.close()
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in ("path", "use"):
            raise AssertionError(f"</{tag}> closes <{self.open[-1] if self.open else 'nothing'}>")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self._text.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """Attributes of each `tag` whose attributes contain the words given (class_: the class)."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [
            found
            for name, found in self.elements
            if name == tag and all(v in (found.get(k) or "").split() for k, v in wanted.items())
        ]


def _pictures(prompts: Sequence[str], n: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(scenes.draw_scene(prompts[i % len(prompts)], rng).image) for i in range(n)]


def _stats(round_: int, feedback: Feedback, **changed: Any) -> RoundStats:
    values: dict[str, Any] = {
        "round": round_,
        "labels": round_ * IMAGES,
        "images": IMAGES,
        "good": len(feedback.good),
        "bad": len(feedback.bad),
        "best": feedback.best,
        "reward_mean": 0.5 + 0.1 * round_,
        "reward_std": 0.1,
        "steps": 8,
        "loss": 0.0,
        "grad_norm": 0.3,
        "figures": {"triplet_loss": 0.2, "ratio_mean": 1.0, "kl": 1e-6, "clip_fraction": 0.2},
        "success_shown": 0.5,
        "note": "",
        "seconds_sampling": 3.0,
        "seconds_waiting": 61.0,
        "seconds_updating": 4.25,
    }
    return RoundStats(**{**values, **changed})


def _config(run: Path, **settings: Any) -> None:
    task = get_task("blue-rose")
    values = {"task": {"name": task.name, "prompts": task.prompts, "criterion": task.criterion}, **settings}
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_text(validate(values).to_toml(), encoding="utf-8")


def _train(run: Path, rounds: int = 2) -> None:
    """Rounds with images, labels and metrics: in round r the first r + 1 images are good, the second is best."""
    lines = []
    with LabelStore(run / "feedback.db") as store:
        for round_ in range(1, rounds + 1):
            folder = run / "rounds" / f"{round_:04d}" / "images"
            folder.mkdir(parents=True)
            ids = [image_id(round_, i) for i in range(IMAGES)]
            for name, image in zip(ids, _pictures(get_task("blue-rose").prompts, IMAGES, round_), strict=True):
                image.save(folder / f"{name}.png")
            verdicts = {name: "good" if i <= round_ else "bad" for i, name in enumerate(ids)}
            feedback = Feedback(verdicts, best=ids[1])
            store.record(round_, feedback, "oracle", 1.0)
            lines.append(json.dumps(_stats(round_, feedback).to_dict()))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _evaluate(run: Path, **changed: Any) -> None:
    """An evaluation on 20 images a set: 5, 15 and 18 successes."""
    marks = {name: [i < k for i in range(20)] for name, k in (("base", 5), ("tuned_fresh", 15), ("tuned_refined", 18))}
    prompts = list(get_task("blue-rose").prompts)
    values: dict[str, Any] = {
        "task": "blue-rose",
        "images": 20,
        "labels": 12,
        "success": {name: Measured.share(m) for name, m in marks.items()},
        "diversity": {"base": 1.0, "tuned_fresh": 0.81, "tuned_refined": 0.37},
        "drift": Drift(0.043, 0.12),
        "details": {
            "prompts": prompts * 20,
            "verdicts": marks,
            "feature_map": "hero-pixels-v1",
            "diversity_sample": 16,
            "diversity_of": "successful images",
            "pixels_changed": 0.12,
            "drift_scale": 0.43,
            "drift_by_prompt": {"a black cat": {}, "a snowman": {}},
        },
    }
    result = EvaluationResult(**{**values, **changed}).to_dict()
    folder = run / "evaluation"
    for seed, name in enumerate(("base", "tuned_fresh", "tuned_refined", "unrelated_base", "unrelated_tuned")):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(_pictures(prompts, 2 if name.startswith("un") else 14, seed)):
            image.save(folder / name / f"{i:04d}.png")
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _lora(run: Path) -> None:
    (run / "lora").mkdir()
    (run / "lora" / "pytorch_lora_weights.safetensors").write_bytes(bytes(1_200_000))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished, evaluated run of two rounds."""
    folder = tmp_path / "roses"
    make_run(folder)
    return folder


def make_run(folder: Path) -> None:
    """A finished, evaluated run of two rounds."""
    _config(folder)
    _train(folder)
    _evaluate(folder)
    _lora(folder)


def test_the_report_stands_alone(run: Path) -> None:
    target = write_report(run)
    assert target == run / "report.html"
    page = Page(target)
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert not page.all("script")
    assert not page.all("link")
    assert "@import" not in page.source
    assert not re.search(r"url\((?!#)", page.source)
    for image in page.all("img"):
        kind, _, data = (image["src"] or "").partition(";base64,")
        assert kind == "data:image/jpeg"
        Image.open(io.BytesIO(base64.b64decode(data, validate=True))).verify()
    assert page.open == []
    assert target.stat().st_size < 1_000_000
    assert list(run.glob("*.partial")) == []


def test_the_report_can_be_read_aloud(run: Path) -> None:
    page = Page(write_report(run))
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("h1")) == 1
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert {section["aria-labelledby"] for section in page.all("section")} <= set(ids)
    references = re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', page.source)
    assert references
    assert set(references) <= set(ids)
    assert page.all("html", lang="en")


def test_the_report_says_what_was_asked_and_what_came_of_it(run: Path) -> None:
    page = Page(write_report(run))
    for said in (
        "“photo of one blue rose in a vase”",
        get_task("blue-rose").criterion,
        "Success on fresh noise rose from 25 % to 75 % after 12 labels.",
        "5 of 20 images",
        "15 of 20 images",
        "95 % interval 11–47 %",  # Wilson, 5 of 20
        "Tuned model refined noise 90 %",
        "81 % as varied as the base model’s, and on refined noise 37 %",
        "Refined noise usually narrows what is drawn",
        "hero-pixels-v1",
        "feature distance of 0.043",
        "10 % of the way to a different picture",
        "12 % of their pixels changed",
        "LoRA file of 1.2 MB",
    ):
        assert said in page.text, said


def test_the_same_noises_are_compared_image_by_image(run: Path) -> None:
    """By hand: of 10 + 2 images that changed, so uneven a split has p = 2 · (1 + 12 + 66) / 2¹² = 0.0386."""
    path = run / "evaluation" / "result.json"
    assert "10 images got better and 0 worse (McNemar’s exact test, p = 0.002)" in Page(write_report(run)).text
    result = json.loads(path.read_text())
    result["details"]["verdicts"] |= {
        "base": [True] * 4 + [False] * 16,
        "tuned_fresh": [False] * 2 + [True] * 12 + [False] * 6,
    }
    path.write_text(json.dumps(result))
    text = Page(write_report(run)).text
    assert "From the same noises, 10 images got better and 2 worse (McNemar’s exact test, p = 0.039)." in text
    assert "measure on more images" not in text
    result["details"]["verdicts"]["tuned_fresh"][2:8] = [False] * 6
    path.write_text(json.dumps(result))
    assert (
        "6 images got better and 4 worse (McNemar’s exact test, p = 0.754). Chance alone"
        in Page(write_report(run)).text
    )
    result["details"]["best_of"] = 4  # the tuned images were chosen among others: they have no partner
    path.write_text(json.dumps(result))
    assert "McNemar" not in Page(write_report(run)).text


def test_images_without_a_verdict_or_a_change_say_nothing() -> None:
    assert Paired.of([True, None, False, True], [True, True, None, True]) == Paired(0, 0, 1.0)
    found = Paired.of([False] * 24 + [True] * 2 + [True] * 22, [True] * 24 + [False] * 2 + [True] * 22)
    assert (found.better, found.worse) == (24, 2)
    assert found.p == pytest.approx(2 * (1 + 26 + 325) / 2**26, rel=1e-9)


def test_how_labels_came_about_is_said(run: Path) -> None:
    text = Page(write_report(run)).text
    assert "suggestion in view" not in text
    assert "left unmarked" not in text
    ids = [image_id(1, i) for i in range(IMAGES)]
    with LabelStore(run / "feedback.db") as store:
        store.mark(
            1,
            "ben",
            Mark(ids[0], "verdict", "good", suggested="good"),
            Mark(ids[1], "verdict", "bad", suggested="good"),
            Mark(ids[1], "reason", "two roses"),
            Mark(ids[2], "unsure", "yes"),
            *(Mark(name, "verdict", "bad") for name in ids[3:]),
            *(Mark(name, "rest", how) for name, how in zip(ids[3:], ("unmarked", "unseen", "unseen"), strict=True)),
        )
        store.submit(1, "ben")
    text = Page(write_report(run)).text
    for said in (
        "2 of the labels were made with a suggestion in view; 1 of them say the same.",
        "3 of the bad labels are images that were left unmarked; 2 of them were never in view.",
        "1 image left out as unsure.",
        f"{ids[1]} “two roses (ben)”",
    ):
        assert said in text, said


def test_overlapping_intervals_are_called_so_where_images_cannot_be_paired(run: Path) -> None:
    result = json.loads((run / "evaluation" / "result.json").read_text())
    result["details"]["verdicts"] = {}
    share = Measured.share([True] * 7 + [False] * 13)
    result["success"]["tuned_fresh"] = share.value
    result["success_interval"]["tuned_fresh"] = [share.low, share.high]
    (run / "evaluation" / "result.json").write_text(json.dumps(result))
    page = Page(write_report(run))
    assert "rose from 25 % to 35 %" in page.text
    assert "The two intervals overlap" in page.text


def test_base_stands_beside_tuned_with_verdicts(run: Path) -> None:
    page = Page(write_report(run))
    alts = [image["alt"] or "" for image in page.all("img")]
    before = [alt for alt in alts if alt.startswith("base model, image") and "rose" in alt]
    after = [alt for alt in alts if alt.startswith("tuned model, image") and "rose" in alt]
    assert len(before) == len(after) == 12
    assert before[4].endswith("judged a success")
    assert before[5].endswith("judged a failure")
    assert alts.index(after[0]) == alts.index(before[0]) + 1
    assert "base model, image 0: a black cat" in alts
    assert "a snowman" in page.text


def test_every_round_is_shown_with_what_was_said(run: Path) -> None:
    page = Page(write_report(run))
    alts = [image["alt"] or "" for image in page.all("img")]
    assert len([alt for alt in alts if alt.startswith("image r0")]) == 2 * IMAGES
    assert "image r0001-i0000, marked good" in alts
    assert "image r0002-i0001, marked good, best" in alts
    assert "image r0002-i0005, marked bad" in alts
    assert len(page.all("details", class_="round")) == 2
    assert "2 good · 4 bad · 33 % good" in page.text
    assert "waiting for labels 2 min 2 s" in page.text


def test_charts_follow_the_theme(run: Path) -> None:
    page = Page(write_report(run))
    assert len(page.all("figure")) == len(page.all("svg")) == 2
    assert "var(--accent)" in page.source
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]", page.source)
    assert "prefers-color-scheme: dark" in page.source


def test_a_best_kept_from_an_earlier_round_is_named(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = {**json.loads(lines[1]), "best": ["r0001-i0001"], "note": "a thin round"}
    (run / "metrics.jsonl").write_text(f"{lines[0]}\n{json.dumps(last)}\n")
    page = Page(write_report(run))
    assert "The best so far stays r0001-i0001" in page.text
    assert "a thin round" in page.text


def test_a_run_without_evaluation_says_so(tmp_path: Path) -> None:
    _config(tmp_path)
    _train(tmp_path)
    page = Page(write_report(tmp_path))
    assert "has not been evaluated" in page.text
    assert "There are no evaluation images" in page.text
    assert "no LoRA file in this run yet" in page.text
    assert len(page.all("img")) == 2 * IMAGES


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    _config(tmp_path)
    page = Page(write_report(tmp_path))
    assert "No round has been finished yet" in page.text
    assert page.all("img") == []


def test_success_that_nobody_can_judge_is_unknown_not_zero(run: Path) -> None:
    unknown = dict.fromkeys(("base", "tuned_fresh", "tuned_refined"))
    path = run / "evaluation" / "result.json"
    result = {**json.loads(path.read_text()), "success": unknown, "success_interval": unknown, "diversity": unknown}
    result["details"]["verdicts"] = unknown
    path.write_text(json.dumps({**result, "drift": None}))
    page = Page(write_report(run))
    assert "Success is not known" in page.text
    assert "Diversity is not known" in page.text
    assert "was not measured" in page.text
    assert not page.all("article")
    assert any((image["alt"] or "").startswith("base model") for image in page.all("img"))


def test_a_result_without_refined_noise_or_details_is_enough(run: Path) -> None:
    path = run / "evaluation" / "result.json"
    result = json.loads(path.read_text())
    for key in ("success", "success_interval", "diversity"):
        result[key]["tuned_refined"] = None
    del result["details"]
    path.write_text(json.dumps(result))
    page = Page(write_report(run))
    assert "There is no refined noise for these prompts." in page.text
    assert "Refined noise usually narrows" not in page.text


def test_missing_labels_and_images_are_left_out(run: Path) -> None:
    (run / "feedback.db").unlink()
    for path in (run / "rounds" / "0001" / "images").iterdir():
        path.unlink()
    page = Page(write_report(run))
    assert "The images of this round are not in the run directory." in page.text
    assert "image r0002-i0000, no verdict" in [image["alt"] for image in page.all("img")]
    assert not (run / "feedback.db").exists()


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    prompt = '<script>alert("x")</script> & "rose"'
    _config(tmp_path, task={"prompts": [prompt], "criterion": "<b>bold</b>"})
    _lora(tmp_path)
    page = Page(write_report(tmp_path))
    assert not page.all("script")
    assert prompt in page.text
    assert "<b>bold</b>" in page.text


def test_many_large_rounds_stay_within_a_few_megabytes(tmp_path: Path) -> None:
    rounds, per_round = 30, 64
    _config(tmp_path, rounds=rounds)
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png", compress_level=0)
    lines = []
    for round_ in range(1, rounds + 1):
        folder = tmp_path / "rounds" / f"{round_:04d}" / "images"
        folder.mkdir(parents=True)
        for i in range(per_round):
            (folder / f"{image_id(round_, i)}.png").symlink_to(tmp_path / "noise.png")
        lines.append(json.dumps(_stats(round_, Feedback()).to_dict()))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    target = write_report(tmp_path)
    assert target.stat().st_size < 8_000_000
    assert len(Page(target).all("img")) > rounds


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, "from_pretrained(model_path())"),
        (
            {"path": "org/model", "dtype": "float16", "variant": "fp16"},
            'from_pretrained("org/model", variant="fp16", dtype=torch.float16)',
        ),
    ],
)
def test_the_snippet_is_python_and_names_the_model(tmp_path: Path, model: dict[str, str], said: str) -> None:
    _config(tmp_path, model=model, sampling={"num_steps": 20, "guidance_scale": 2.5, "height": 64})
    _lora(tmp_path)
    page = Page(write_report(tmp_path))
    start = page.source.index("<pre><code>") + len("<pre><code>")
    snippet = page.source[start : page.source.index("</code></pre>")].replace("&#34;", '"')
    compile(snippet, "snippet", "exec")
    assert said in snippet
    assert "num_inference_steps=20" in snippet
    assert "guidance_scale=2.5" in snippet
    assert "height=64" in snippet
    assert ("from hero.tinyworld import model_path" in snippet) is (not model)


def test_settings_are_all_listed_and_changed_ones_marked(tmp_path: Path) -> None:
    _config(tmp_path, rounds=3)
    page = Page(write_report(tmp_path))
    assert "sampling.guidance_scale" in page.text
    assert "update.ppo.clip_range" in page.text
    assert "0.0001" in page.text
    assert len(page.all("tr", class_="changed")) == 4  # rounds, and the three settings of the task


def test_images_that_may_be_unwelcome_stay_folded(run: Path) -> None:
    def pair_sections(page: Page) -> list[dict[str, str | None]]:
        return page.all("details", class_="examples") + page.all("details", class_="round")

    assert any("open" in found for found in pair_sections(Page(write_report(run))))
    task = get_task("modest-figure")
    _config(run, task={"name": task.name, "prompts": task.prompts, "criterion": task.criterion})
    page = Page(write_report(run))
    assert "may be unwelcome" in page.text
    assert not any("open" in found for found in pair_sections(page))


def test_absolute_paths_are_not_given_away(run: Path) -> None:
    assert run.is_absolute()
    assert str(run.parent) not in Page(write_report(run)).source


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("config.toml", "rounds =", ConfigError, "config.toml"),
        ("metrics.jsonl", '{"round": 1', RunError, "metrics.jsonl"),
        ("evaluation/result.json", "{", RunError, "hero evaluate"),
        ("rounds/0001/images/r0001-i0000.png", "no image", RunError, "r0001-i0000.png"),
    ],
)
def test_broken_files_are_named(run: Path, name: str, content: str, error: type[Exception], said: str) -> None:
    (run / name).write_text(content)
    with pytest.raises(error, match=re.escape(said)):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.toml"):
        write_report(tmp_path)


# --------------------------------------------------------------------------- several evaluators, two judges


def test_practice_has_its_time_and_its_draws(run: Path) -> None:
    assert "practising" not in write_report(run).read_text().split("<style")[1].split("</style>")[1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"draws": 192, "seconds_practising": 75.0}
        line["figures"] |= {"practice_score": 0.7, "practice_steps": 24, "share_good": 0.82, "share_good_error": 0.04}
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    page = write_report(run).read_text()
    assert "practising 2 min 30 s" in page
    assert page.count('<td class="n">192</td>') == 2
    told = round_line(RoundStats.from_dict(lines[0]), 2)
    assert "practised on 192 images · about 82 % good now (± 8 %) · 143.2 s" in told


def test_several_evaluators_agreement_and_what_they_disagreed_on(run: Path) -> None:
    with LabelStore(run / "feedback.db") as store:
        ids = [image_id(1, i) for i in range(IMAGES)]
        # One more is good than the oracle said. By hand, of 12 verdicts 5 are good: alpha = 1 − 11 · 1 / (5 · 7).
        store.record(1, Feedback({i: "good" if k < 3 else "bad" for k, i in enumerate(ids)}), "ben", 1.0)
    page = Page(write_report(run))
    assert "2 evaluators (ben, oracle)" in page.text
    assert "said the same of 83 % of 6 images; Krippendorff’s alpha is 0.69" in page.text
    assert "They disagreed on r0001-i0002." in page.text
    assert page.text.count("evaluators (") == 1  # round 2 had one


def _judged_by_people(run: Path) -> None:
    """9 of 16 base and 14 of 16 tuned images, as two people saw them."""
    path = run / "evaluation" / "result.json"
    result = json.loads(path.read_text())
    shares = {name: Measured.share([i < k for i in range(16)]) for name, k in (("base", 9), ("tuned_fresh", 14))}
    result["people"] = {
        "judge": "web",
        "evaluators": ["ann", "ben"],
        "images": 16,
        "success": {name: m.value for name, m in shares.items()} | {"tuned_refined": None},
        "success_interval": {name: [m.low, m.high] for name, m in shares.items()} | {"tuned_refined": None},
        "judged": {"base": 16, "tuned_fresh": 16, "tuned_refined": 0},
        "agreement": {
            "images": 32,
            "share": 0.875,
            "alpha": 0.71,
            "good_by_people_only": 3,
            "good_by_oracle_only": 1,
        },
        "verdicts": {},
    }
    path.write_text(json.dumps(result))


def test_both_judges_are_shown(run: Path) -> None:
    _judged_by_people(run)
    page = Page(write_report(run))
    for said in (
        "Success on fresh noise rose from 25 % to 75 % after 12 labels.",
        "5 of 20 images",
        "As ann, ben saw it",
        "9 of 16 images",
        "14 of 16 images",
        "said the same of 88 % of these 32 images (Krippendorff’s alpha 0.71)",
        "3 only they called good, 1 only the judge",
    ):
        assert said in page.text, said
    assert len(page.all("article")) == 6
    assert page.open == []


def test_people_speak_where_no_judge_can(run: Path) -> None:
    _judged_by_people(run)
    path = run / "evaluation" / "result.json"
    unknown = dict.fromkeys(("base", "tuned_fresh", "tuned_refined"))
    result = {**json.loads(path.read_text()), "success": unknown, "success_interval": unknown}
    result["people"]["agreement"] = None
    result["people"]["evaluators"] = ["me"]
    path.write_text(json.dumps(result))
    assert "as one evaluator saw it" in Page(write_report(run)).text
    result["people"]["evaluators"] = ["ann", "ben"]
    path.write_text(json.dumps(result))
    page = Page(write_report(run))
    assert "Success on fresh noise, as ann, ben saw it, rose from 56 % to 88 %" in page.text
    assert "Success is not known" not in page.text
    assert "The task’s judge said" not in page.text
    assert len(page.all("article")) == 3


def test_where_success_is_unknown_report_and_terminal_name_blind_judging(run: Path) -> None:
    path = run / "evaluation" / "result.json"
    unknown = dict.fromkeys(("base", "tuned_fresh", "tuned_refined"))
    result = {**json.loads(path.read_text()), "success": unknown, "success_interval": unknown}
    result["details"]["verdicts"] = unknown
    path.write_text(json.dumps(result))
    page = Page(write_report(run))
    assert f"hero evaluate {run.name} --evaluator web lets you judge them blind" in page.text
    blind = f"hero evaluate {run} --evaluator web"
    commands = closing_lines(run, 2, result)
    assert blind in next(line for line in commands[commands.index("next:") :] if line != "next:")
    _judged_by_people(run)
    assert blind not in "\n".join(closing_lines(run, 2, json.loads(path.read_text())))
