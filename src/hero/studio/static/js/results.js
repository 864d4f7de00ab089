// Pictures of what has been learnt: base and tuned side by side, and the model after each round.

import { h, set } from "../../page/js/dom.js";
import { evaluatedUrl, imageUrl } from "./api.js";

// ------------------------------------------------------------------------------------------- side by side

/** Two pictures of one size with a line between them that can be moved. */
export function slider(left, right, [leftName, rightName], alt) {
  const over = h("img", { src: left, alt: `${leftName}: ${alt}`, class: "over" });
  const under = h("img", { src: right, alt: `${rightName}: ${alt}` });
  const range = h("input", {
    type: "range",
    min: "0",
    max: "100",
    value: "50",
    "aria-label": `How much of ${leftName} and of ${rightName} is shown`,
  });
  const box = h(
    "div",
    { class: "slider" },
    under,
    over,
    h("span", { class: "slider-line", "aria-hidden": "true" }),
    range,
    h("span", { class: "tag left" }, leftName),
    h("span", { class: "tag right" }, rightName),
  );
  range.addEventListener("input", () => box.style.setProperty("--at", `${range.value}%`));
  box.show = (newLeft, newRight, newAlt) => {
    set(over, { src: newLeft, alt: `${leftName}: ${newAlt}` });
    set(under, { src: newRight, alt: `${rightName}: ${newAlt}` });
  };
  return box;
}

const MOST_PAIRS = 48;

export function comparison(run) {
  const pairs = pairsOf(run);
  if (!pairs.length) return [];
  let at = 0;
  const first = pairs[0];
  const big = slider(first.left(512), first.right(512), ["before", "after"], first.prompt);
  const prompt = h("p", { class: "hint" }, first.prompt);
  const thumbs = pairs.map((pair, index) =>
    h(
      "button",
      {
        type: "button",
        class: "pair-thumb",
        "aria-label": `Pair ${index + 1}`,
        "aria-pressed": String(index === 0),
        on: { click: () => show(index) },
      },
      h("img", { src: pair.left(72), alt: "", loading: "lazy" }),
      h("img", { src: pair.right(72), alt: "", loading: "lazy" }),
    ),
  );
  const strip = h("div", { class: "pair-strip" }, ...thumbs);

  function show(index) {
    at = (index + pairs.length) % pairs.length;
    const pair = pairs[at];
    big.show(pair.left(512), pair.right(512), pair.prompt);
    set(prompt, { text: pair.prompt });
    thumbs.forEach((thumb, one) => set(thumb, { "aria-pressed": String(one === at) }));
    thumbs[at].scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  strip.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(at + step);
    thumbs[at].focus();
  });
  const words = run.evaluation?.sets.base
    ? "The same noises, drawn by the base model and by what it has become; in order, not selected."
    : "Previews before training and now, from the same noises.";
  return [
    h(
      "div",
      { class: `card compare${run.sensitive ? " veiled" : ""}` },
      h("h2", {}, "Before and after"),
      h("p", { class: "hint" }, words),
      h("div", { class: "compare-box" }, h("div", { class: "compare-big" }, big, prompt), strip),
    ),
  ];
}

function pairsOf(run) {
  const { evaluation, previews, name } = run;
  const measured = Math.min(evaluation?.sets.base ?? 0, evaluation?.sets.tuned_fresh ?? 0, MOST_PAIRS);
  if (measured) {
    return Array.from({ length: measured }, (_, k) => ({
      prompt: evaluation.prompts[k] ?? "",
      left: (pixels) => evaluatedUrl(name, "base", k, pixels),
      right: (pixels) => evaluatedUrl(name, "tuned_fresh", k, pixels),
    }));
  }
  if (previews.length < 2) return [];
  const [before, after] = [previews[0].images, previews.at(-1).images];
  return before.slice(0, after.length).map((image, k) => ({
    prompt: image.prompt,
    left: (pixels) => imageUrl(name, image.id, pixels),
    right: (pixels) => imageUrl(name, after[k].id, pixels),
  }));
}

// ------------------------------------------------------------------------------------------- round by round

export function learning(run) {
  const { previews, name } = run;
  if (previews.length < 2) return [];
  const images = previews[0].images.map((image) =>
    h("img", { src: imageUrl(name, image.id, 220), alt: image.prompt, width: "220", height: "220" }),
  );
  const words = h("output", { for: "watch" });
  const range = h("input", {
    type: "range",
    id: "watch",
    min: "0",
    max: String(previews.length - 1),
    value: String(previews.length - 1),
    "aria-label": "Round",
  });
  const show = () => {
    const chosen = previews[Number(range.value)];
    chosen.images.forEach((image, k) => images[k] && set(images[k], { src: imageUrl(name, image.id, 220) }));
    set(words, { text: chosen.round ? `after round ${chosen.round}` : "before training" });
  };
  range.addEventListener("input", show);
  show();
  return [
    h(
      "div",
      { class: `card watch${run.sensitive ? " veiled" : ""}` },
      h("h2", {}, "Watch it learn"),
      h("p", { class: "hint" }, "Always the same noises: what changes is the model."),
      h("div", { class: "watch-images" }, ...images),
      h("div", { class: "watch-line" }, range, words),
    ),
  ];
}
