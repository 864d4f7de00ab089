// One image at a time, large: it is decided and the next one comes; left is bad, right is good, up is the best.

import { imageUrl } from "./api.js";
import { count, h, icon, set } from "./dom.js";
import { swipes } from "./swipe.js";

const DECISIONS = [
  ["bad", "close", "Bad", "←"],
  ["unsure", "unsure", "Unsure", "↓"],
  ["best", "star", "Best", "↑"],
  ["good", "check", "Good", "→"],
];
const OF_SWIPE = { left: "bad", right: "good", up: "best", down: "unsure" };
const ALL_DECIDED = "Every image is decided. Submit below, or go back to the grid (v) to look again.";
const LEAVING = 160; // milliseconds that a decided image takes to go

export class Single {
  /** `act.decide(what)`; `act.undo`, `act.why`, `act.view`. */
  constructor({ act, onShow }) {
    Object.assign(this, { act, onShow, id: null, shown: null });
    this.picture = h("img", { alt: "", draggable: "false" });
    this.frame = h("div", { class: "single-frame", tabindex: "-1" }, this.picture);
    this.place = h("p", { class: "single-place" });
    this.prompt = h("p", { class: "single-prompt" });
    this.buttons = DECISIONS.map(([what, sign, words, key]) =>
      h(
        "button",
        {
          type: "button",
          class: `decision ${what}`,
          "aria-keyshortcuts": key,
          "data-what": what,
          on: { click: () => act.decide(what) },
        },
        icon(sign),
        h("span", {}, words),
        h("kbd", { class: "wide-only" }, key),
      ),
    );
    this.done = h("p", { class: "single-done", role: "status" });
    this.root = h(
      "div",
      { class: "single" },
      h("div", { class: "single-head" }, this.place, this.prompt),
      this.frame,
      this.done,
      h("div", { class: "decisions", role: "group", "aria-label": "This image is" }, ...this.buttons),
    );
    swipes(this.frame, (way) => act.decide(OF_SWIPE[way]));
  }

  /** The image that is asked about: the one shown while it is open, else the first open one after it, in `order`. */
  current(order, isOpen) {
    const ids = order.map((image) => image.id);
    if (this.id && ids.includes(this.id) && isOpen(this.id)) return this.id;
    const at = ids.indexOf(this.id);
    return [...ids.slice(at + 1), ...ids.slice(0, Math.max(at, 0))].find(isOpen) ?? null;
  }

  /** @param order images as shown; isOpen(id): nobody has said anything; look as for the grid; total to expect. */
  show(order, isOpen, look, { total, evaluation }) {
    const id = this.current(order, isOpen);
    if (id !== null && id !== this.shown) {
      this.shown = id;
      this.picture.src = imageUrl(id, 768);
      this.onShow(id);
      const following = order.map((image) => image.id).filter((one) => one !== id && isOpen(one)).slice(0, 2);
      for (const next of following) new Image().src = imageUrl(next, 768);
    }
    if (id !== null) this.id = id;
    const open = order.filter((image) => isOpen(image.id)).length;
    const decided = order.length - open;
    const coming = Math.max(total - order.length, 0);
    set(this.place, { text: `${decided} of ${total} decided` });
    const shown = id === null ? {} : look(id);
    set(this.prompt, { text: [shown.prompt, shown.reason && `“${shown.reason}”`].filter(Boolean).join(" · ") });
    const at = order.findIndex((image) => image.id === id);
    set(this.picture, { alt: at < 0 ? "" : `Image ${at + 1} of ${total}` });
    this.frame.hidden = id === null;
    this.done.hidden = id !== null;
    const rest = `${count(coming, "image is", "images are")} still being drawn.`;
    set(this.done, { text: coming ? rest : ALL_DECIDED });
    for (const button of this.buttons) {
      button.hidden = evaluation && button.dataset.what === "best";
      set(button, { "aria-disabled": String(id === null) });
    }
  }

  /** Asks about `id` again: what an undo has opened. */
  ask(id) {
    this.id = id;
  }

  /** The picture goes the way it was decided; purely for the eye. */
  leaveTo(what) {
    this.frame.dataset.leaving = what;
    setTimeout(() => delete this.frame.dataset.leaving, LEAVING);
  }

  focus() {
    this.frame.focus({ preventScroll: true });
  }
}
