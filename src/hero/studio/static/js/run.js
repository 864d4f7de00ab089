// One run: what it does, what it has learnt, and what can be made of it.

import { count, h, set } from "../../page/js/dom.js";
import { getLog, getRun, labelUrl } from "./api.js";
import { buttonsOf, menuOf } from "./deeds.js";
import { downloads } from "./downloads.js";
import { drawings } from "./drawings.js";
import { figures } from "./figures.js";
import { everybodysMarks } from "./marks.js";
import { menuButton } from "./menu.js";
import { comparison, learning } from "./results.js";
import { mainLink } from "./list.js";
import { bytes, doing, modelName, progress, wishOf } from "./words.js";

/** The parts of the page: what of the run each depends on, and what makes it; a part is made anew only when that changes. */
const PARTS = [
  ["figures", (run) => [run.history, run.evaluation, run.evaluating, run.doing.active], figures],
  [
    "comparison",
    (run) => [run.evaluation, run.previews.length && [run.previews[0], run.previews.at(-1)], run.sensitive],
    comparison,
  ],
  ["learning", (run) => [run.previews, run.sensitive], learning],
  ["drawings", (run) => [run.lora, run.draws, run.prompts], drawings],
  ["marks", (run) => [run.history.length, run.sensitive], everybodysMarks],
  ["downloads", (run) => [run.files, run.exports, run.labels, run.lora], downloads],
];

export class RunView {
  constructor(root, name) {
    Object.assign(this, { root, name });
    this.title = `${name} · hero studio`;
    this.keys = new Map();
    this.build();
  }

  build() {
    this.wish = h("h1", { class: "big-title" });
    this.facts = h("p", { class: "facts" });
    this.prompts = h("p", { class: "lead" });
    this.state = h("p", { class: "state" }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", {}));
    this.fill = h("span", { class: "fill" });
    this.meter = h("div", { class: "meter", hidden: true }, this.fill);
    this.buttons = h("div", { class: "buttons" });
    this.menu = menuButton("More", () => menuOf(this.run, { backTo: this.run.back_to, names: this.names }));
    this.problem = h("div", { class: "notice away", hidden: true });
    this.parts = new Map(PARTS.map(([key]) => [key, h("section", { class: `part part-${key}` })]));
    this.settings = h("details", { class: "card settings" }, h("summary", {}, h("h2", {}, "Settings")));
    this.settings.addEventListener("toggle", () => this.settings.open && this.showSettings());
    this.logText = h("pre", { class: "log", tabindex: "0" });
    this.log = h("details", { class: "card" }, h("summary", {}, h("h2", {}, "What it printed")), this.logText);
    this.log.addEventListener("toggle", () => this.log.open && this.showLog());
    this.root.replaceChildren(
      h("a", { class: "back", href: "#/" }, "All runs"),
      h(
        "header",
        { class: "run-head" },
        h("div", { class: "run-words" }, this.wish, this.prompts, this.facts),
        h(
          "div",
          { class: "run-do" },
          h("div", { class: "card-state" }, this.state, this.meter),
          h("div", { class: "run-buttons" }, this.buttons, this.menu),
        ),
      ),
      this.problem,
      ...this.parts.values(),
      this.settings,
      this.log,
    );
  }

  async update({ runs }) {
    this.names = new Set(runs.map((run) => run.name));
    const run = await getRun(this.name);
    this.run = run;
    set(this.root, { "data-what": run.doing.what, "data-name": run.name });
    set(this.wish, { text: wishOf(run) });
    this.showState(run);
    if (!run.history) return;
    set(this.prompts, { text: run.criterion || run.title ? run.prompts.join(" · ") : "" });
    set(this.facts, {
      text: [
        run.name,
        `${run.finished_rounds} of ${count(run.rounds, "round")}`,
        count(run.labels, "label"),
        modelName(run.model),
        run.method,
        bytes(run.disk),
      ].join(" · "),
    });
    for (const [key, depends, make] of PARTS) {
      const now = JSON.stringify(depends(run));
      if (this.keys.get(key) === now) continue;
      this.keys.set(key, now);
      const part = this.parts.get(key);
      const content = make(run, part);
      part.hidden = content.length === 0;
      if (content.length === 0 || content[0] !== part.firstChild) part.replaceChildren(...content);
    }
    if (this.log.open) this.showLog();
  }

  showState(run) {
    set(this.state.lastChild, { text: doing(run) });
    const done = progress(run);
    this.meter.hidden = done === null;
    if (done !== null) this.fill.style.setProperty("--done", done);
    const message = run.broken || run.doing.message;
    this.problem.hidden = !message;
    set(this.problem, { text: message });
    const main = run.broken ? null : labelLink(run);
    const found = buttonsOf(run);
    const key = `${main?.join()}|${found.map(([words]) => words).join()}`;
    if (key === this.buttonsKey) return;
    this.buttonsKey = key;
    this.buttons.replaceChildren(
      ...(main ? [h("a", { class: "primary as-button", href: main[1] }, main[0])] : []),
      ...found.map(([words, , first], at) =>
        h(
          "button",
          {
            type: "button",
            class: first && !main ? "primary" : "plain-button outlined",
            on: { click: () => buttonsOf(this.run)[at][1]() },
          },
          words,
        ),
      ),
    );
  }

  async showLog() {
    const words = (await getLog(this.name)) || "Nothing: it was not started from the studio, or has not begun.";
    const atEnd = this.logText.scrollTop + this.logText.clientHeight >= this.logText.scrollHeight - 20;
    set(this.logText, { text: words });
    if (atEnd) this.logText.scrollTop = this.logText.scrollHeight;
  }

  showSettings() {
    if (this.settings.querySelector("table")) return;
    const rows = this.run.settings.map((one) =>
      h(
        "tr",
        { class: one.changed ? "changed" : null, title: one.meaning },
        h("th", { scope: "row" }, one.key),
        h("td", {}, one.value),
      ),
    );
    this.settings.append(h("div", { class: "scroll" }, h("table", { class: "plain-table" }, h("tbody", {}, ...rows))));
  }
}

function labelLink(run) {
  const main = mainLink(run);
  if (main?.[0] === "Label") return main;
  return run.doing.active && run.evaluator === "web" && run.finished_rounds > 0 && run.doing.what === "paused"
    ? ["Label", labelUrl(run.name)]
    : null;
}
