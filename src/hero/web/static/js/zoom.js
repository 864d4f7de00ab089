// One image, large: arrows walk on, and the keys of the grid work here too; or in its real size, to look closely.

import { fullImageUrl, imageUrl } from "./api.js";
import { enterLayer, leaveLayer } from "./back.js";
import { h, iconButton, set } from "./dom.js";
import { swipes } from "./swipe.js";

const MARKS = [["bad", "Bad", "x"], ["unsure", "Unsure", "s"], ["toggle", "Good", "space"], ["best", "Best", "b"]];
const PRESSED = { bad: "bad", unsure: "unsure", toggle: "good" };

export class Zoom {
  /** `onClose(id)`; `onShow(id)` is told what is looked at. */
  constructor({ onClose, onShow = () => {} }) {
    Object.assign(this, { onClose, onShow });
    this.picture = h("img", { alt: "", draggable: "false" });
    this.place = h("p", { class: "zoom-place" });
    this.caption = h("p", { class: "zoom-caption" });
    this.buttons = Object.fromEntries(MARKS.map(([kind, words, key]) => [kind, this.button(kind, words, key)]));
    this.before = iconButton("left", "Previous image", () => this.step(-1), { key: "←", className: "zoom-step" });
    this.after = iconButton("right", "Next image", () => this.step(1), { key: "→", className: "zoom-step" });
    this.size = h(
      "button",
      { type: "button", class: "plain-button zoom-size", "aria-keyshortcuts": "1", on: { click: () => this.actual() } },
      "Real size",
    );
    this.why = iconButton("note", "Why", () => this.mark("why"), { key: "w" });
    const close = iconButton("close", "Close", () => this.close(), { key: "z" });
    this.frame = h("div", { class: "zoom-frame", tabindex: "-1", autofocus: true }, this.picture);
    this.dialog = h(
      "dialog",
      {
        class: "zoom",
        "aria-label": "One image, large",
        on: { close: () => this.closed(), click: (event) => event.target === this.dialog && this.close() },
      },
      h("div", { class: "zoom-head" }, this.place, this.caption, this.size, this.why, close),
      h("div", { class: "zoom-middle" }, this.before, this.frame, this.after),
      h("div", { class: "zoom-foot" }, ...Object.values(this.buttons)),
    );
    this.back = () => this.dialog.close();
    swipes(this.frame, (way) => {
      if (way === "left" || way === "right") this.step(way === "left" ? 1 : -1);
    }, () => !this.isActual);
    this.drags();
    document.body.append(this.dialog);
  }

  button(kind, words, key) {
    return h(
      "button",
      {
        type: "button",
        class: `zoom-mark ${PRESSED[kind] ?? kind}`,
        "aria-keyshortcuts": key,
        on: { click: () => this.mark(kind) },
      },
      words,
    );
  }

  get isOpen() {
    return this.dialog.open;
  }

  /** `look(id)` as for the grid; `actions`: {toggle, bad, unsure, best or null, why}, or null where one only looks. */
  open(ids, id, look, actions) {
    Object.assign(this, { ids, look, actions });
    this.show(id);
    if (this.dialog.open) return;
    this.dialog.showModal();
    enterLayer(this.back);
  }

  close() {
    this.dialog.close();
  }

  closed() {
    leaveLayer(this.back);
    this.actual(false);
    this.onClose(this.id);
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
    this.actual(false);
    this.picture.src = imageUrl(id, 512);
    const at = this.ids.indexOf(id);
    for (const near of [this.ids[at + 1], this.ids[at - 1]]) if (near) new Image().src = imageUrl(near, 512);
    this.onShow(id);
    this.update();
  }

  get isActual() {
    return this.frame.classList.contains("actual");
  }

  /** The image in its own pixels, one for one of the screen's; moved by dragging or scrolling. */
  actual(wanted = !this.isActual) {
    if (wanted === this.isActual) return;
    this.frame.classList.toggle("actual", wanted);
    if (wanted) {
      this.picture.src = fullImageUrl(this.id);
      this.picture.onload = () => {
        this.picture.style.setProperty("--actual", `${this.picture.naturalWidth / (window.devicePixelRatio || 1)}px`);
        const { scrollWidth, clientWidth, scrollHeight, clientHeight } = this.frame;
        this.frame.scrollTo((scrollWidth - clientWidth) / 2, (scrollHeight - clientHeight) / 2);
      };
    } else {
      this.picture.onload = null;
      if (this.id) this.picture.src = imageUrl(this.id, 512);
    }
    set(this.size, { text: wanted ? "Fit" : "Real size" });
  }

  /** Marks and names anew; called when anything changed. */
  update() {
    if (!this.ids) return;
    const at = this.ids.indexOf(this.id);
    const look = this.look(this.id);
    const words = at < 0 ? "Best so far" : `${at + 1} of ${this.ids.length}`;
    const can = (kind) => Boolean(this.actions?.[kind]) && (at >= 0 || kind === "best");
    set(this.place, { text: words });
    set(this.caption, { text: [look.prompt, look.reason && `“${look.reason}”`].filter(Boolean).join(" · ") });
    set(this.picture, { alt: `Image ${words}${look.verdict ? `, ${look.verdict}` : ""}` });
    const states = ["good", "bad", "unsure"].filter((one) => look.verdict === one && !look.suggested);
    const classes = ["zoom-frame", ...states, look.best && "best", this.isActual && "actual"];
    this.frame.className = classes.filter(Boolean).join(" ");
    for (const [kind, button] of Object.entries(this.buttons)) {
      const pressed = kind === "best" ? Boolean(look.best) : look.verdict === PRESSED[kind];
      set(button, { "aria-pressed": String(pressed) });
      button.hidden = !can(kind);
    }
    this.why.hidden = !can("why");
    set(this.before, { "aria-disabled": String(at <= 0) });
    set(this.after, { "aria-disabled": String(at < 0 || at === this.ids.length - 1) });
  }

  /** In real size the picture follows the mouse; a finger scrolls it anyway. */
  drags() {
    let from = null;
    this.frame.addEventListener("pointerdown", (event) => {
      if (!this.isActual || event.pointerType === "touch") return;
      from = [event.clientX + this.frame.scrollLeft, event.clientY + this.frame.scrollTop];
      this.frame.setPointerCapture(event.pointerId);
    });
    this.frame.addEventListener("pointermove", (event) => {
      if (from) this.frame.scrollTo(from[0] - event.clientX, from[1] - event.clientY);
    });
    for (const end of ["pointerup", "pointercancel"]) this.frame.addEventListener(end, () => (from = null));
  }
}
