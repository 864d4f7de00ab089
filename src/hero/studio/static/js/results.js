// What has been learnt: figures, base and tuned side by side, and the model after each round.

import { count, h, set } from "../../page/js/dom.js";
import { blindUrl, evaluate, evaluatedUrl, imageUrl, stopJob } from "./api.js";
import { curve } from "./curve.js";
import { tried } from "./deeds.js";
import { percent } from "./words.js";

// ------------------------------------------------------------------------------------------- figures

export function figures(run) {
  if (!run.history.length) return [];
  const { evaluation } = run;
  const head = h("h2", {}, "What it has learnt");
  const words = evaluation?.finding || whatIsMissing(run);
  return [
    h(
      "div",
      { class: "card" },
      head,
      h("p", { class: "finding" }, words),
      evaluation?.outdated && h("p", { class: "note" }, evaluation.outdated),
      evaluation && bars(evaluation.people ? evaluation.people.tiles : evaluation.tiles, evaluation.people?.who),
      evaluation && facts(evaluation),
      chart(run),
      measuring(run),
    ),
  ];
}

function whatIsMissing(run) {
  const shares = run.history.filter((line) => line.share !== null);
  const marked = shares.length
    ? `Of the images of the newest round, ${percent(shares.at(-1).share)} were marked good. `
    : "";
  if (!run.evaluation) return `${marked}Base and tuned model have not been compared yet.`;
  return `${marked}No judge was made for this model and these prompts, so success is unknown: judge base and tuned images blind, and it is known.`;
}

function bars(tiles, who) {
  const known = tiles.filter((tile) => tile.value !== null);
  if (!known.length) return null;
  return h(
    "table",
    { class: "bars" },
    h(
      "caption",
      {},
      who
        ? `Success as ${who} saw it, blind; with its 95 % interval`
        : "Success on held-out images, with its 95 % interval",
    ),
    h(
      "tbody",
      {},
      ...known.map((tile) =>
        h(
          "tr",
          { class: tile.model.startsWith("Base") ? "base" : "tuned" },
          h("th", { scope: "row" }, `${tile.model}, ${tile.noise}`),
          h("td", { class: "bar-cell" }, bar(tile)),
          h(
            "td",
            { class: "bar-value" },
            h("b", {}, percent(tile.value)),
            h("span", { class: "muted" }, ` ${percent(tile.low)}–${percent(tile.high)}`),
          ),
        ),
      ),
    ),
  );
}

function bar(tile) {
  const fill = h("span", { class: "bar-fill" });
  const range = h("span", { class: "bar-range" });
  fill.style.width = `${tile.value * 100}%`;
  range.style.left = `${tile.low * 100}%`;
  range.style.width = `${(tile.high - tile.low) * 100}%`;
  return h("span", { class: "bar-track", title: tile.count }, fill, range);
}

function facts(evaluation) {
  const found = [];
  if (evaluation.variety !== null)
    found.push(["Variety kept", percent(evaluation.variety), "Of the base model's, on fresh noise: learning narrows."]);
  if (evaluation.drift !== null)
    found.push(["Drift", evaluation.drift.toFixed(3), "How far images of unrelated prompts moved; 0 is not at all."]);
  if (evaluation.people?.agreement)
    found.push([
      "Agreement with the judge",
      percent(evaluation.people.agreement.share),
      "Share of images on which people and the task's judge agree.",
    ]);
  found.push([
    "Measured",
    `on ${count(evaluation.images, "image")} a set, at ${count(evaluation.labels, "label")}`,
    "",
  ]);
  return h(
    "dl",
    { class: "facts-list" },
    ...found.map(([name, value, meaning]) => h("div", { title: meaning }, h("dt", {}, name), h("dd", {}, value))),
  );
}

function chart(run) {
  const judged = run.history.filter((line) => line.share !== null);
  if (!judged.length) return null;
  const point = (line, value, [low, high], words) => ({
    labels: line.labels,
    value,
    low,
    high,
    title: `Round ${line.round}: ${words}`,
  });
  const lines = [
    {
      name: "marked good",
      className: "marked",
      points: judged.map((line) =>
        point(line, line.share, line.interval, `${line.good} of ${line.good + line.bad} marked good`),
      ),
    },
  ];
  const known = run.history.filter((line) => line.success !== null);
  if (known.length && known.some((line) => line.success[0] !== line.share)) {
    lines.push({
      name: "success by the task's judge",
      className: "judged",
      points: known.map((line) => point(line, line.success[0], line.success[1], `success ${percent(line.success[0])}`)),
    });
  }
  return h(
    "figure",
    { class: "chart-box" },
    h("figcaption", {}, "Good images of each round, over the labels so far"),
    curve(lines),
    h("ul", { class: "legend" }, ...lines.map((line) => h("li", { class: line.className }, line.name))),
    run.method !== "heron" &&
      h(
        "p",
        { class: "hint" },
        "From round 2 on images may start from refined noise; success above is on fresh noise, and the two cannot be compared.",
      ),
  );
}

function measuring(run) {
  const { standing, blind } = run.evaluating;
  if (standing === "running") {
    return h(
      "div",
      { class: "job" },
      h("p", { role: "status" }, blind ? "The blind comparison is open." : "Being measured…"),
      blind && h("a", { class: "primary as-button", href: blindUrl(run.name) }, "Judge"),
      h(
        "button",
        {
          type: "button",
          class: "plain-button outlined",
          on: { click: () => tried(() => stopJob(run.name, "evaluate")) },
        },
        "Stop",
      ),
    );
  }
  const start = (by) => () => tried(() => evaluate(run.name, by));
  return h(
    "div",
    { class: "job" },
    ["failed", "killed"].includes(standing) && h("p", { class: "problem" }, run.evaluating.message),
    !run.doing.active &&
      h(
        "button",
        { type: "button", class: "plain-button outlined", on: { click: start(false) } },
        run.evaluation ? "Measure again" : "Measure it",
      ),
    h(
      "button",
      {
        type: "button",
        class: "plain-button outlined",
        title: "Images of both models, mixed and unmarked; you say which are good",
        on: { click: start(true) },
      },
      "Judge blind…",
    ),
  );
}

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
