// The list of runs: one card each, and the line of those that wait.

import { count, h, set } from "../../page/js/dom.js";
import { imageUrl, labelUrl, reorder } from "./api.js";
import { buttonsOf, menuOf, runHash, tried } from "./deeds.js";
import { menuButton } from "./menu.js";
import { ago, bytes, doing, modelName, percent, progress, wishOf } from "./words.js";

export class List {
  constructor(root) {
    this.root = root;
    this.cards = new Map();
    this.archived = false;
    this.grid = h("div", { class: "cards" });
    this.line = h("section", { class: "line", "aria-label": "Waiting", hidden: true });
    this.empty = h(
      "section",
      { class: "welcome", hidden: true },
      h("h1", { class: "big-title" }, "Teach a model what you like"),
      h(
        "p",
        { class: "lead" },
        "Write what you want to see. hero draws images, you mark the good ones, and it learns from that at once. " +
          "A few rounds later you have a LoRA for ComfyUI, A1111 or diffusers. The bundled tiny world needs no GPU, " +
          "to try it.",
      ),
      h("a", { class: "primary as-button", href: "#/new" }, "New run"),
    );
    this.toggle = h("button", { type: "button", class: "plain-button", on: { click: () => this.flip() } });
    root.replaceChildren(this.empty, this.line, this.grid, h("div", { class: "list-foot" }, this.toggle));
  }

  flip() {
    this.archived = !this.archived;
    this.update(this.last);
  }

  update({ runs, waiting }) {
    this.last = { runs, waiting };
    const kept = runs.filter((run) => run.archived).length;
    if (!kept) this.archived = false;
    const shown = runs.filter((run) => run.archived === this.archived);
    this.empty.hidden = runs.length > 0;
    this.toggle.hidden = kept === 0;
    set(this.toggle, { text: this.archived ? "Back to the runs" : `Archive (${kept})` });
    this.showLine(waiting);
    const names = new Set(runs.map((run) => run.name));
    const wanted = shown.map((run) => {
      if (!this.cards.has(run.name)) this.cards.set(run.name, new Card());
      const card = this.cards.get(run.name);
      card.update(run, names);
      return card.element;
    });
    for (const name of this.cards.keys()) if (!names.has(name)) this.cards.delete(name);
    const now = [...this.grid.children];
    if (now.length !== wanted.length || now.some((element, at) => element !== wanted[at])) {
      const focused = this.grid.contains(document.activeElement) ? document.activeElement : null;
      this.grid.replaceChildren(...wanted);
      focused?.focus();
    }
  }

  showLine(waiting) {
    const key = waiting.join("\n");
    if (key === this.lineKey) return;
    this.lineKey = key;
    this.line.hidden = waiting.length < 2;
    const up = (at) => {
      const order = [...waiting];
      [order[at - 1], order[at]] = [order[at], order[at - 1]];
      return tried(() => reorder(order));
    };
    this.line.replaceChildren(
      h("h2", { class: "label" }, "In line for this machine"),
      h(
        "ol",
        {},
        ...waiting.map((name, at) =>
          h(
            "li",
            {},
            h("a", { href: runHash(name) }, name),
            at > 0 &&
              h(
                "button",
                {
                  type: "button",
                  class: "small-button",
                  "aria-label": `${name}: earlier`,
                  on: { click: () => up(at) },
                },
                "Earlier",
              ),
          ),
        ),
      ),
    );
  }
}

class Card {
  constructor() {
    this.picture = h("img", { alt: "", loading: "lazy", decoding: "async", width: "256", height: "256" });
    this.nothing = h("span", { class: "no-picture", "aria-hidden": "true" }, "·  ·  ·");
    this.cover = h("a", { class: "cover", tabindex: "-1", "aria-hidden": "true" }, this.picture, this.nothing);
    this.wish = h("a", { class: "wish" });
    this.name = h("p", { class: "card-name" });
    this.facts = h("p", { class: "facts" });
    this.figure = h("p", { class: "figure" });
    this.state = h("p", { class: "state" }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", {}));
    this.fill = h("span", { class: "fill" });
    this.meter = h("div", { class: "meter", hidden: true }, this.fill);
    this.buttons = h("div", { class: "card-buttons" });
    this.menu = menuButton("More", () => menuOf(this.run, { names: this.names }));
    this.element = h(
      "article",
      { class: "run-card" },
      this.cover,
      h(
        "div",
        { class: "card-text" },
        h("h2", {}, this.wish),
        this.name,
        this.facts,
        this.figure,
        h("div", { class: "card-state" }, this.state, this.meter),
        h("div", { class: "card-foot" }, this.buttons, this.menu),
      ),
    );
  }

  update(run, names) {
    this.names = names;
    const key = JSON.stringify(run);
    if (key === this.key) return;
    this.key = key;
    this.run = run;
    const href = runHash(run.name);
    for (const link of [this.cover, this.wish]) set(link, { href });
    set(this.element, {
      "data-what": run.doing.what,
      "data-name": run.name,
      class: `run-card${run.sensitive ? " veiled" : ""}`,
    });
    set(this.wish, { text: wishOf(run) });
    set(this.name, { text: wishOf(run) === run.name ? "" : run.name });
    if (run.picture) set(this.picture, { src: imageUrl(run.name, run.picture, 260) });
    this.picture.hidden = !run.picture;
    this.nothing.hidden = Boolean(run.picture);
    if (run.broken) {
      set(this.facts, { text: run.broken });
      set(this.figure, { text: "" });
    } else {
      set(this.facts, {
        text: [
          count(run.labels, "label"),
          `${run.finished_rounds} of ${count(run.rounds, "round")}`,
          modelName(run.model),
          run.method,
          bytes(run.disk),
          ago(run.changed),
        ].join(" · "),
      });
      set(this.figure, { text: figureOf(run) });
    }
    set(this.state.lastChild, { text: doing(run) });
    const done = progress(run);
    this.meter.hidden = done === null;
    if (done !== null) this.fill.style.setProperty("--done", done);
    this.showButtons(run);
  }

  showButtons(run) {
    const main = mainLink(run);
    const found = main?.[0] === "Results" ? [] : buttonsOf(run).slice(0, main ? 1 : 2);
    const key = `${main?.join()}|${found.map(([words]) => words).join()}`;
    if (key === this.buttonsKey) return;
    this.buttonsKey = key;
    const press = (at) => buttonsOf(this.run)[at][1]();
    this.buttons.replaceChildren(
      ...(main ? [h("a", { class: "primary as-button", href: main[1] }, main[0])] : []),
      ...found.map(([words, , first], at) =>
        h(
          "button",
          { type: "button", class: first && !main ? "primary" : "plain-button", on: { click: () => press(at) } },
          words,
        ),
      ),
    );
  }
}

/** Where to go from the card: to the images that wait, or to the results. */
export function mainLink(run) {
  const { what, active } = run.doing;
  if (run.broken || run.evaluator !== "web") return what === "finished" ? ["Results", runHash(run.name)] : null;
  if (active && ["drawing", "waiting", "learning"].includes(what)) return ["Label", labelUrl(run.name)];
  return what === "finished" || what === "lingering" ? ["Results", runHash(run.name)] : null;
}

function figureOf(run) {
  if (run.success?.tuned_fresh) {
    const [before, after] = [run.success.base[0], run.success.tuned_fresh[0]];
    return `Success ${percent(before)} → ${percent(after)}`;
  }
  const shares = run.shares.filter((share) => share !== null);
  if (!shares.length) return "";
  return shares.length > 1
    ? `Good images ${percent(shares[0])} → ${percent(shares.at(-1))}`
    : `Good images ${percent(shares[0])}`;
}
