// What a run has learnt in figures: success with its interval, variety, drift, and good images over labels.

import { count, h } from "../../page/js/dom.js";
import { blindUrl, evaluate, stopJob } from "./api.js";
import { curve } from "./curve.js";
import { tried } from "./deeds.js";
import { percent } from "./words.js";

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
    run.evaluation?.tiles.length > 0 &&
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
