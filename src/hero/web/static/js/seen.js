// Which images the person has had before their eyes: in view for a moment, as a picture and not blurred.

import { read, write } from "./memory.js";

const DWELL = 400; // milliseconds
const MOSTLY = 0.6; // share of a tile
const BARS = "-56px 0px -64px 0px"; // what lies over the images at the top and the bottom

export class Seen {
  /** `onChange()` is told when there are more. */
  constructor(onChange) {
    this.onChange = onChange;
    this.key = null;
    this.ids = new Set();
    this.inView = new Map(); // id -> element
    this.timer = null;
    this.observer = new IntersectionObserver((entries) => this.moved(entries), { threshold: MOSTLY, rootMargin: BARS });
    document.addEventListener("visibilitychange", () => this.wait());
  }

  /** Another round, person or desk: what a reload has forgotten is taken up again. */
  begin(key) {
    if (this.key === key) return;
    const kept = read("seen");
    this.key = key;
    this.ids = new Set(kept?.key === key ? kept.ids : []);
    this.wait();
  }

  has(id) {
    return this.ids.has(id);
  }

  /** Was looked at for certain: marked, or shown large. */
  add(id) {
    if (!this.ids.has(id)) this.take([id]);
  }

  watch(element) {
    this.observer.observe(element);
  }

  forget(element) {
    this.observer.unobserve(element);
    this.inView.delete(element.dataset.id);
  }

  moved(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.inView.set(target.dataset.id, target);
      else this.inView.delete(target.dataset.id);
    }
    this.wait();
  }

  /** Looks again in a moment, while there is anything in view that was not seen: no timer runs otherwise. */
  wait() {
    clearTimeout(this.timer);
    if (!document.hidden && [...this.inView.keys()].some((id) => !this.ids.has(id))) {
      this.timer = setTimeout(() => this.look(), DWELL);
    }
  }

  look() {
    const veiled = document.documentElement.classList.contains("veiled");
    const isThere = (element) => !veiled && element.querySelector("img")?.classList.contains("loaded");
    this.take([...this.inView].filter(([id, element]) => !this.ids.has(id) && isThere(element)).map(([id]) => id));
    if (!veiled) this.wait();
  }

  take(ids) {
    if (!ids.length) return;
    for (const id of ids) this.ids.add(id);
    write("seen", { key: this.key, ids: [...this.ids] });
    this.onChange();
  }
}
