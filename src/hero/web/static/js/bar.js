// The bar at the bottom: counts, what submitting means, all and none, undo and redo, and the step before a round is closed.

import { imageUrl } from "./api.js";
import { count, h, iconButton, set } from "./dom.js";
import { hasEnded, isDrawn, isEvaluation } from "./state.js";

export class Bar {
  constructor(root, { marks, store, act, zoom }) {
    Object.assign(this, { root, marks, store, zoom, narrow: matchMedia("(max-width: 860px)") });
    const number = (className, words) => {
      const value = h("b", {}, "0");
      const label = h("span", {}, words);
      return { box: h("span", { class: `count ${className}` }, value, label), value, label };
    };
    this.good = number("good", "good");
    this.best = number("best", "best");
    this.rest = number("rest", "will be bad");
    this.counts = h("div", { class: "counts" }, this.good.box, this.best.box, this.rest.box);
    this.thumbs = h("div", { class: "bar-best" });
    this.words = h("p", { class: "bar-words", id: "bar-words" });
    this.undo = iconButton("undo", "Undo", () => act.undo(), { key: "u" });
    this.redo = iconButton("redo", "Redo", () => act.redo(), { key: "Shift+U" });
    this.all = h(
      "button",
      { type: "button", class: "plain-button", "aria-keyshortcuts": "a", on: { click: () => act.all() } },
      "All good",
    );
    this.none = h(
      "button",
      { type: "button", class: "plain-button", "aria-keyshortcuts": "n", on: { click: () => act.none() } },
      "Clear",
    );
    this.back = h("button", { type: "button", class: "plain-button", on: { click: () => act.cancel() } }, "Back");
    this.go = h(
      "button",
      {
        type: "button",
        class: "primary",
        "aria-describedby": "bar-words",
        on: { click: (event) => this.pressed(act, event) },
      },
    );
    this.tools = h(
      "div",
      { class: "bar-tools" },
      this.undo,
      this.redo,
      h("span", { class: "divider" }),
      this.all,
      this.none,
    );
    this.fill = h("span", { class: "fill" });
    root.append(
      h("div", { class: "bar-progress", "aria-hidden": "true" }, this.fill),
      this.thumbs,
      this.counts,
      this.words,
      this.tools,
      this.back,
      this.go,
    );
    root.setAttribute("aria-label", "Your answer");
    root.setAttribute("role", "region");
  }

  pressed(act, event) {
    if (this.go.getAttribute("aria-disabled") === "true") return;
    if (!this.good.count) act.submit();
    else if (!this.store.get().confirming) act.confirm();
    else if (event.detail < 2) act.submit(); // the second half of a double click confirms nothing
  }

  update(state) {
    const { round, confirming } = state;
    const view = this.marks.now();
    const counts = this.marks.counts(view);
    this.good.count = counts.good;
    const drawn = isDrawn(round);
    const missing = this.marks.promptsWithoutBest(view);
    set(this.good.value, { text: counts.good });
    set(this.best.value, { text: counts.best });
    set(this.rest.value, { text: counts.rest });
    this.best.box.hidden = isEvaluation(state);
    this.root.classList.toggle("confirming", confirming);
    this.fill.style.setProperty("--done", drawn ? 1 : round.images.length / Math.max(round.total, 1));
    this.root.classList.toggle("drawing", !drawn);
    set(this.words, { text: sentence(state, counts, missing, drawn) });
    this.words.classList.toggle("warning", confirming && missing.length > 0);
    this.back.hidden = !confirming;
    this.tools.hidden = confirming;
    set(this.undo, { "aria-disabled": String(!this.marks.done.length) });
    set(this.redo, { "aria-disabled": String(!this.marks.undone.length) });
    set(this.all, { "aria-disabled": String(counts.good === round.images.length) });
    set(this.none, { "aria-disabled": String(counts.good === 0) });
    set(this.go, {
      text: this.label(round, counts, confirming),
      "aria-disabled": String(!drawn),
    });
    this.go.classList.toggle("none-good", drawn && counts.good === 0);
    this.showBest(state, view);
  }

  label(round, counts, confirming) {
    const narrow = this.narrow.matches;
    if (!isDrawn(round)) return `${narrow ? "" : "Drawing "}${round.images.length} of ${round.total}`;
    if (counts.good === 0) return narrow ? "None good" : "None is good";
    return confirming || narrow ? "Submit" : "Submit round";
  }

  /** The best images in small, for screens without a rail. */
  showBest(state, view) {
    const ids = [
      ...state.round.images.filter((image) => view.best.has(image.id)),
      ...this.marks.kept(view),
    ].map((image) => image.id);
    if (this.shown === ids.join()) return;
    this.shown = ids.join();
    const thumbs = ids.slice(0, 3).map((id) =>
      h(
        "button",
        {
          type: "button",
          class: "thumb",
          "aria-label": `Best so far: ${id}, zoom`,
          on: { click: () => this.zoom(id) },
        },
        h("img", { src: imageUrl(id, 64), alt: "" }),
      ),
    );
    this.thumbs.replaceChildren(...thumbs);
  }
}

function sentence(state, counts, missing, drawn) {
  const { confirming } = state;
  if (confirming && counts.good) {
    if (missing.length) {
      const where = state.run.prompts.length > 1 ? ` for ${count(missing.length, "prompt")}` : "";
      return `No best image yet${where}: without one there is little to learn from. Go back and press b on the best.`;
    }
    if (!counts.rest) return `All ${counts.total} count as good.`;
    return `${count(counts.good, "image counts", "images count")} as good, the other ${counts.rest} as bad.`;
  }
  if (!drawn) return hasEnded(state) ? "The run has stopped." : "You can start: what you mark is stored at once.";
  if (!counts.good) return `Nothing marked. If none is good, all ${counts.total} count as bad.`;
  return counts.rest ? "Everything you leave unmarked counts as bad." : "Every image is marked good.";
}
