// Prompts of one's own, drawn by the base and the tuned model, or over LoRA strengths, from the same noises.

import { count, h, set } from "../../page/js/dom.js";
import { draw, drawnUrl, stopJob } from "./api.js";
import { tried } from "./deeds.js";
import { slider } from "./results.js";

const STRIP = [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2];
const SHOWN = 6;

/** The form stays, with what is being typed, while the drawings under it change. */
export function drawings(run, part) {
  if (!run.lora) return [];
  const card = part.querySelector(".draw") ?? makeCard(run);
  const running = run.draws.some((one) => one.standing === "running");
  set(card.querySelector(".primary"), { "aria-disabled": running ? "true" : null });
  const under = card.querySelector(".drawings");
  const shown = new Map([...under.children].map((one) => [one.dataset.key, one]));
  under.replaceChildren(
    ...run.draws.slice(0, SHOWN).map((one) => {
      const key = `${one.id} ${one.standing} ${one.labels === run.labels}`;
      return shown.get(key) ?? set(drawing(run, one), { "data-key": key });
    }),
  );
  return [card];
}

function makeCard(run) {
  const words =
    "Also ones that it was never trained on. Each is drawn from the same noises with and without what was learnt.";
  return h(
    "div",
    { class: "card draw" },
    h("h2", {}, "Prompts of your own"),
    h("p", { class: "hint" }, words),
    makeForm(run),
    h("div", { class: "drawings" }),
  );
}

function makeForm(run) {
  const prompts = h("textarea", { id: "draw-prompts", rows: "2", placeholder: run.prompts[0] });
  const images = h("input", { type: "number", id: "draw-images", min: "1", max: "64", value: "4" });
  const strip = h("input", { type: "checkbox", id: "draw-strip" });
  const go = async (event) => {
    event.preventDefault();
    const lines = prompts.value
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
    await tried(() =>
      draw(run.name, {
        prompts: lines.length ? lines : run.prompts.slice(0, 16),
        images: Number(images.value),
        strengths: strip.checked ? STRIP : [0, 1],
        seed: Math.floor(Math.random() * 2 ** 31),
      }),
    );
  };
  return h(
    "form",
    { class: "draw-form", on: { submit: go } },
    h("div", { class: "field" }, h("label", { for: "draw-prompts" }, "Prompts, one a line"), prompts),
    h(
      "div",
      { class: "draw-row" },
      h("label", { for: "draw-images" }, "Images"),
      images,
      h("label", { class: "check" }, strip, "a strip over LoRA strengths, 0 to 1.2"),
      h("button", { type: "submit", class: "primary" }, "Draw"),
    ),
  );
}

function drawing(run, one) {
  const words = `${one.prompts.join(" · ")}`;
  const head = h("h3", {}, words);
  if (one.standing === "running") {
    return h(
      "div",
      { class: "drawing" },
      head,
      h("p", { role: "status" }, `Drawing ${count(one.images * one.strengths.length, "image")}…`),
      h(
        "button",
        {
          type: "button",
          class: "plain-button outlined",
          on: { click: () => tried(() => stopJob(run.name, `draws/${one.id}`)) },
        },
        "Stop",
      ),
    );
  }
  if (one.standing !== "done")
    return h("div", { class: "drawing" }, head, h("p", { class: "problem" }, one.message || "Stopped."));
  const aged = one.labels !== run.labels ? h("p", { class: "hint" }, `Drawn at ${count(one.labels, "label")}.`) : null;
  const prompt = (index) => one.prompts[index % one.prompts.length];
  const at = (strength, index, pixels) => drawnUrl(run.name, one.id, strength, index, pixels);
  const indexes = Array.from({ length: one.images }, (_, k) => k);
  const body =
    one.strengths.length === 2
      ? h(
          "div",
          { class: "drawn-pairs" },
          ...indexes.map((k) =>
            slider(at(one.strengths[0], k, 320), at(one.strengths[1], k, 320), ["before", "after"], prompt(k)),
          ),
        )
      : h(
          "div",
          { class: "scroll" },
          h(
            "table",
            { class: "strip" },
            h("thead", {}, h("tr", {}, ...one.strengths.map((strength) => h("th", { scope: "col" }, strength)))),
            h(
              "tbody",
              {},
              ...indexes.map((k) =>
                h(
                  "tr",
                  {},
                  ...one.strengths.map((strength) =>
                    h(
                      "td",
                      {},
                      h("img", {
                        src: at(strength, k, 160),
                        alt: `${prompt(k)}, strength ${strength}`,
                        loading: "lazy",
                        width: "160",
                        height: "160",
                      }),
                    ),
                  ),
                ),
              ),
            ),
          ),
        );
  return h("div", { class: "drawing" }, head, aged, body);
}
