// One image, large: arrows walk on, and the keys of the grid work here too.

import { imageUrl } from "./api.js";
import { h, iconButton, set } from "./dom.js";

export class Zoom {
  /** `look(id)` as for the grid; `actions`: {toggle, best} or null where images are only looked at. */
  constructor({ onClose }) {
    this.onClose = onClose;
    this.picture = h("img", { alt: "" });
    this.place = h("p", { class: "zoom-place" });
    this.caption = h("p", { class: "zoom-caption" });
    this.good = h(
      "button",
      { type: "button", class: "zoom-mark good", on: { click: () => this.mark("toggle") } },
      "Good",
    );
    this.best = h(
      "button",
      { type: "button", class: "zoom-mark best", on: { click: () => this.mark("best") } },
      "Best",
    );
    this.before = iconButton("left", "Previous image", () => this.step(-1), { key: "←", className: "zoom-step" });
    this.after = iconButton("right", "Next image", () => this.step(1), { key: "→", className: "zoom-step" });
    const close = iconButton("close", "Close", () => this.close(), { key: "z" });
    this.frame = h("div", { class: "zoom-frame", tabindex: "-1", autofocus: true }, this.picture);
    this.dialog = h(
      "dialog",
      {
        class: "zoom",
        "aria-label": "One image, large",
        on: { close: () => this.onClose(this.id), click: (event) => event.target === this.dialog && this.close() },
      },
      h("div", { class: "zoom-head" }, this.place, this.caption, close),
      h("div", { class: "zoom-middle" }, this.before, this.frame, this.after),
      h("div", { class: "zoom-foot" }, this.good, this.best),
    );
    this.swipes();
    document.body.append(this.dialog);
  }

  get isOpen() {
    return this.dialog.open;
  }

  open(ids, id, look, actions) {
    Object.assign(this, { ids, look, actions });
    this.show(id);
    if (!this.dialog.open) this.dialog.showModal();
  }

  close() {
    this.dialog.close();
  }

  step(by) {
    const to = this.ids.indexOf(this.id) + by;
    if (to >= 0 && to < this.ids.length) this.show(this.ids[to]);
  }

  mark(kind) {
    if (this.actions?.[kind]) this.actions[kind](this.id);
    this.update();
  }

  show(id) {
    this.id = id;
    this.picture.src = imageUrl(id, 512);
    const at = this.ids.indexOf(id);
    for (const near of [this.ids[at + 1], this.ids[at - 1]]) if (near) new Image().src = imageUrl(near, 512);
    this.update();
  }

  /** Marks and names anew; called when anything changed. */
  update() {
    if (!this.ids) return;
    const at = this.ids.indexOf(this.id);
    const look = this.look(this.id);
    const words = at < 0 ? "Best so far" : `${at + 1} of ${this.ids.length}`;
    const can = (kind) => Boolean(this.actions?.[kind]) && (at >= 0 || kind === "best");
    set(this.place, { text: words });
    set(this.caption, { text: look.prompt ?? "" });
    set(this.picture, { alt: `Image ${words}${look.verdict ? `, ${look.verdict}` : ""}` });
    this.frame.className = `zoom-frame${look.verdict === "good" ? " good" : ""}${look.best ? " best" : ""}`;
    set(this.good, { "aria-pressed": String(look.verdict === "good") });
    set(this.best, { "aria-pressed": String(Boolean(look.best)) });
    this.good.hidden = !can("toggle");
    this.best.hidden = !can("best");
    set(this.before, { "aria-disabled": String(at <= 0) });
    set(this.after, { "aria-disabled": String(at < 0 || at === this.ids.length - 1) });
  }

  swipes() {
    let from = null;
    this.frame.addEventListener(
      "pointerdown",
      (event) => (from = event.pointerType === "touch" ? event.clientX : null),
    );
    this.frame.addEventListener("pointerup", (event) => {
      if (from !== null && Math.abs(event.clientX - from) > 48) this.step(event.clientX < from ? 1 : -1);
      from = null;
    });
  }
}
