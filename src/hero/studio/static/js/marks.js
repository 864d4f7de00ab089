// The rounds: every image with what was said of it, by whom, and where people disagree.

import { count, h, icon, set } from "../../page/js/dom.js";
import { getRound, imageUrl } from "./api.js";
import { percent } from "./words.js";

export function everybodysMarks(run) {
  const rounds = run.history.map((line) => line.round);
  if (!rounds.length) return [];
  const words = h("p", { class: "hint" });
  const grid = h("div", { class: `marked-grid${run.sensitive ? " veiled" : ""}` });
  const tabs = rounds.map((round) =>
    h(
      "button",
      { type: "button", class: "round-tab", "aria-label": `Round ${round}`, on: { click: () => show(round) } },
      String(round),
    ),
  );
  const box = h(
    "details",
    { class: "card marks" },
    h("summary", {}, h("h2", {}, "Labels"), h("span", { class: "muted" }, count(run.labels, "label"))),
    h("div", { class: "round-tabs" }, ...tabs),
    words,
    grid,
  );
  box.addEventListener("toggle", () => box.open && !grid.hasChildNodes() && show(rounds.at(-1)));

  async function show(number) {
    tabs.forEach((tab, at) => set(tab, { "aria-current": rounds[at] === number ? "true" : null }));
    let round;
    try {
      round = await getRound(run.name, number);
    } catch (error) {
      set(words, { text: error.message });
      return;
    }
    set(words, { text: about(round) });
    const disputed = new Set(round.agreement?.disputed ?? []);
    grid.replaceChildren(
      ...round.images.map((image) => {
        const best = round.best.includes(image.id);
        const who = Object.entries(image.marks)
          .map(([name, mark]) => `${name}: ${mark}`)
          .join(", ");
        const said = [image.verdict ?? "not judged", best && "the best", disputed.has(image.id) && "disputed"]
          .filter(Boolean)
          .join(", ");
        return h(
          "figure",
          {
            class: `marked ${image.verdict ?? "unjudged"}${best ? " is-best" : ""}${disputed.has(image.id) ? " disputed" : ""}`,
            title: `${image.prompt}\n${who}`,
          },
          h("img", {
            src: imageUrl(run.name, image.id, 128),
            alt: `${image.prompt}: ${said}`,
            loading: "lazy",
            width: "128",
            height: "128",
          }),
          (best || image.verdict === "good") && h("span", { class: "mark-badge" }, icon(best ? "star" : "check")),
        );
      }),
    );
  }

  return [box];
}

function about(round) {
  const good = round.images.filter((image) => image.verdict === "good").length;
  const parts = [`${good} of ${count(round.images.length, "image")} good`];
  if (round.evaluators.length) parts.push(`by ${round.evaluators.join(", ")}`);
  if (round.agreement) {
    const alpha = round.agreement.alpha === null ? "" : `, Krippendorff's α ${round.agreement.alpha.toFixed(2)}`;
    parts.push(`they agree on ${percent(round.agreement.full_share)}${alpha}; outlined: where they do not`);
  }
  return `${parts.join(", ")}.`;
}
