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
    this.bad = number("bad", "bad");
    this.unsure = number("unsure", "unsure");
    this.open = number("open", "unmarked");
    this.unseen = h(
      "button",
      {
        type: "button",
        class: "count unseen-count",
        title: "Unmarked, and not yet in view: go to the first",
        on: { click: () => act.toUnseen() },
      },
      h("b", {}, "0"),
      h("span", {}, "not seen"),
    );
    this.counts = h(
      "div",
      { class: "counts" },
      this.good.box,
      this.best.box,
      this.bad.box,
      this.unsure.box,
      this.open.box,
      this.unseen,
    );
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
    if (!this.store.get().confirming) act.confirm();
    else if (event.detail < 2) act.submit(); // the second half of a double click confirms nothing
  }

  update(state) {
    const { round, confirming } = state;
    const view = this.marks.now();
    const counts = this.marks.counts(view);
    const drawn = isDrawn(round);
    const missing = this.marks.promptsWithoutBest(view);
    for (const kind of ["good", "bad", "unsure", "open"]) set(this[kind].value, { text: counts[kind] });
    set(this.best.value, { text: counts.best + counts.kept });
    set(this.best.label, { text: counts.kept && !counts.best ? "best, kept" : "best" });
    set(this.unseen.firstChild, { text: counts.unseen });
    this.best.box.hidden = isEvaluation(state);
    this.unsure.box.hidden = counts.unsure === 0;
    this.unseen.hidden = counts.unseen === 0;
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
    set(this.none, { "aria-disabled": String(counts.good + counts.bad + counts.unsure === 0) });
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
  if (confirming) {
    if (counts.good && missing.length) {
      const where = state.run.prompts.length > 1 ? ` for ${count(missing.length, "prompt")}` : "";
      const remedy = "without one there is little to learn from. Go back and press b on the best.";
      return `No best image yet${where}: ${remedy} ${meaning(counts)}`;
    }
    return meaning(counts);
  }
  if (!drawn && hasEnded(state)) return "The run has stopped.";
  if (!state.round.images.length) return "The first images appear here as they are drawn.";
  if (!drawn) return "You can start: what you mark is stored at once.";
  if (counts.open === counts.total) return `Nothing marked. If none is good, all ${counts.total} count as bad.`;
  return counts.open ? "Everything you leave unmarked counts as bad." : "Every image is marked.";
}

/** What submitting now would mean, with what was never looked at. */
function meaning({ good, bad, unsure, open, unseen, total }) {
  if (good === total) return `All ${total} count as good.`;
  const words = [];
  if (!good) words.push(`No image is good: ${unsure ? bad + open : `all ${total}`} count as bad`);
  else words.push(`${count(good, "image counts", "images count")} as good, ${bad + open} as bad`);
  if (unsure) words.push(`${count(unsure, "unsure one is", "unsure ones are")} left out`);
  const left = open && bad ? ` ${count(open, "of the bad is", "of the bad are")} merely unmarked.` : "";
  const never = unseen ? ` You have not looked at ${unseen === total ? "any of them" : `${unseen} of them`} yet.` : "";
  return `${words.join("; ")}.${left}${never}`;
}
