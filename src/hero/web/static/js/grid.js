// The grid of images: cells that come as images are drawn, one tab stop, arrow keys, and only the changes written.

import { imageUrl, imageWidth } from "./api.js";
import { h, iconButton, icon, set } from "./dom.js";

const LARGEST = 280;
const SMALLEST = 104;
const CAPTION = 44;
const TOOLS = 40; // under each picture, where there is no mouse to hover

/** What a cell is called: "Image 12 of 64, good, best". */
function nameOf(place, total, look) {
  const words = [`Image ${place} of ${total}`];
  if (look.best) words.push("best");
  if (look.verdict) words.push(look.suggested ? `suggested ${look.verdict}` : look.verdict);
  if (look.reason) words.push(look.reason);
  if (look.note) words.push(look.note);
  if (look.prompt) words.push(look.prompt);
  return words.join(", ");
}

/**
 * `actions`: {toggle(id), range(ids), bad(id), best(id) or null, zoom(id)}. Cells are gridcells in rows;
 * `aria-selected` says good. A grid without `toggle` is for looking. `seen` is told which cells to watch.
 */
export class Grid {
  constructor(label, actions, seen = null) {
    Object.assign(this, { actions, seen, touch: matchMedia("(hover: none)") });
    this.cells = new Map();
    this.order = [];
    this.active = null;
    this.columns = 0;
    this.pending = 0;
    this.size = null;
    this.root = h("div", {
      class: "grid",
      role: "grid",
      "aria-label": label,
      "aria-multiselectable": Boolean(actions.toggle),
      on: { click: (event) => this.clicked(event), focusin: (event) => this.focused(event) },
    });
    new ResizeObserver(() => this.layout()).observe(this.root);
  }

  /**
   * @param images in the order to show: [{id, prompt}].
   * @param look id -> {verdict, best, suggested, unsent, note, prompt}.
   * @param options total images to expect; height to fill, in pixels; size of a tile in pixels, or null for what fits.
   */
  show(images, look, { total, height, size = null }) {
    const order = images.map((image) => image.id);
    if (order.join() !== this.order.join()) this.arrange(order);
    this.total = Math.max(total, order.length);
    const captioned = images.some((image) => look(image.id).prompt);
    this.under = (captioned ? CAPTION : 0) + (this.touch.matches ? TOOLS : 0);
    if (this.height !== height || this.size !== size || this.pending !== this.total - order.length) {
      Object.assign(this, { height, size, pending: this.total - order.length });
      this.layout();
    }
    images.forEach((image, place) => this.paint(this.cells.get(image.id), place + 1, look(image.id)));
  }

  arrange(order) {
    const wanted = new Set(order);
    for (const [id, cell] of this.cells) {
      if (wanted.has(id)) continue;
      this.seen?.forget(cell);
      cell.remove();
      this.cells.delete(id);
    }
    for (const id of order) if (!this.cells.has(id)) this.cells.set(id, this.cell(id));
    this.order = order;
    if (!wanted.has(this.active)) this.active = order[0] ?? null;
    this.columns = 0;
    this.layout();
  }

  cell(id) {
    const picture = h("img", { alt: "", decoding: "async", draggable: "false" });
    const buttons = [this.button("zoom", "Zoom", id)];
    if (this.actions.best) buttons.push(this.button("star", "Best", id));
    if (this.actions.bad) buttons.unshift(this.button("close", "Bad", id));
    const badge = h("span", { class: "badge", "aria-hidden": "true" }, icon("check"), icon("close"), icon("unsure"));
    const cell = h(
      "div",
      { class: "tile", role: "gridcell", tabindex: "-1", "data-id": id },
      h("div", { class: "frame" }, picture, badge),
      h("div", { class: "tile-tools" }, ...buttons),
      h("span", { class: "caption", "aria-hidden": "true" }),
    );
    this.seen?.watch(cell);
    return cell;
  }

  button(name, label, id) {
    const act = () => {
      this.actions[{ star: "best", zoom: "zoom", close: "bad" }[name]](id);
      if (name !== "zoom") this.focus(id); // or Enter would press the button again instead of submitting
    };
    const button = iconButton(name, `${label}: ${id}`, act, { className: `on-tile ${name}` });
    button.tabIndex = -1;
    button.title = label;
    return button;
  }

  paint(cell, place, look) {
    const good = look.verdict === "good";
    const { verdict, best, suggested, unsent, note, reason } = look;
    const key = [place, this.total, verdict, best, suggested, unsent, note, reason].join("/");
    if (cell.dataset.key === key) return;
    cell.dataset.key = key;
    cell.classList.toggle("good", good);
    cell.classList.toggle("bad", look.verdict === "bad");
    cell.classList.toggle("unsure", look.verdict === "unsure");
    cell.classList.toggle("best", Boolean(look.best));
    cell.classList.toggle("suggested", Boolean(look.suggested));
    cell.classList.toggle("unsent", Boolean(look.unsent));
    cell.classList.toggle("disputed", Boolean(look.note));
    set(
      cell,
      { "aria-label": nameOf(place, this.total, look), "aria-selected": this.actions.toggle ? String(good) : null },
    );
    for (const button of cell.querySelectorAll(".star")) {
      set(button, { "aria-pressed": String(Boolean(look.best)), "aria-label": `Best: image ${place}` });
    }
    for (const button of cell.querySelectorAll(".zoom")) set(button, { "aria-label": `Zoom: image ${place}` });
    for (const button of cell.querySelectorAll(".close")) {
      set(button, { "aria-pressed": String(look.verdict === "bad"), "aria-label": `Bad: image ${place}` });
    }
    const caption = [look.note, look.reason && `“${look.reason}”`, look.prompt].filter(Boolean).join(" · ");
    set(cell.querySelector(".caption"), { text: caption, title: caption });
  }

  /** Columns and size of a tile: the chosen size, or the largest at which the whole round fits the window. */
  fit(width, gap) {
    const smallest = width < 480 ? Math.min(SMALLEST, (width - 2 * gap) / 3) : SMALLEST;
    const wanted = this.size ? [Math.min(this.size, width)] : null;
    const columnsFor = (tile) => Math.max(1, Math.floor((width + gap) / (tile + gap)));
    const tileFor = (columns) => (width - gap * (columns - 1)) / columns;
    if (wanted) return columnsFor(wanted[0]);
    const most = columnsFor(smallest);
    for (let columns = columnsFor(LARGEST); columns < most; columns += 1) {
      const rows = Math.ceil(this.total / columns);
      if (rows * (tileFor(columns) + gap + this.under) - gap <= this.height) return columns;
    }
    return most;
  }

  layout() {
    const width = this.root.clientWidth;
    if (!width || !this.total) return;
    const gap = parseFloat(getComputedStyle(this.root).getPropertyValue("--gap"));
    const columns = this.fit(width, gap);
    const tile = Math.min((width - gap * (columns - 1)) / columns, Math.max(LARGEST, this.size ?? 0));
    if (Math.abs((this.tile ?? 0) - tile) > 0.5) {
      this.tile = tile;
      this.root.style.setProperty("--tile", `${Math.floor(tile * 100) / 100}px`);
      this.root.style.setProperty("--row", `${Math.round(tile + (this.under ?? 0))}px`);
    }
    const slots = `${this.order.length}+${this.pending}`;
    if (columns !== this.columns || this.root.dataset.slots !== slots) this.regroup(columns);
    for (const [id, cell] of this.cells) {
      const picture = cell.querySelector("img");
      const width = imageWidth(tile);
      if (Number(picture.dataset.width ?? 0) >= width) continue;
      picture.dataset.width = width;
      picture.src = imageUrl(id, tile);
    }
    for (const [id, cell] of this.cells) cell.tabIndex = id === this.active ? 0 : -1;
  }

  /** Puts cells into rows. What is in its place already is not touched: moving it would lose a click that is under way. */
  regroup(columns) {
    const focused = document.activeElement?.closest?.(".tile");
    this.columns = columns;
    this.root.style.setProperty("--columns", columns);
    this.root.dataset.slots = `${this.order.length}+${this.pending}`;
    const all = [...this.order.map((id) => this.cells.get(id)), ...Array(this.pending).fill(null)];
    const rows = [...this.root.children];
    for (let start = 0, at = 0; start < all.length; start += columns, at += 1) {
      const row = rows[at] ?? this.root.appendChild(h("div", { class: "row", role: "row" }));
      const wanted = all.slice(start, start + columns);
      wanted.forEach((cell, place) => {
        const there = row.children[place];
        const awaited = there?.classList.contains("awaited");
        if (cell === null ? awaited : there === cell) return;
        const node = cell ?? awaitedCell();
        if (awaited) there.replaceWith(node);
        else row.insertBefore(node, there ?? null);
      });
      while (row.children.length > wanted.length) row.lastChild.remove();
    }
    for (const row of rows.slice(Math.ceil(all.length / columns))) row.remove();
    if (focused && this.cells.has(focused.dataset.id)) focused.focus({ preventScroll: true });
  }

  clicked(event) {
    const cell = event.target.closest(".tile[data-id]");
    if (!cell || event.target.closest("button")) return;
    if (event.shiftKey && this.actions.range && this.order.includes(this.clickedLast)) {
      const [from, to] = [this.clickedLast, cell.dataset.id].map((id) => this.order.indexOf(id));
      this.choose(cell.dataset.id);
      this.actions.range(this.order.slice(Math.min(from, to), Math.max(from, to) + 1));
      return;
    }
    this.clickedLast = cell.dataset.id;
    this.choose(cell.dataset.id);
    if (this.actions.toggle) this.actions.toggle(cell.dataset.id);
    else this.actions.zoom(cell.dataset.id);
  }

  focused(event) {
    const cell = event.target.closest(".tile[data-id]");
    if (cell) this.choose(cell.dataset.id);
  }

  /** Makes `id` the tab stop. */
  choose(id) {
    if (this.active === id) return;
    const before = this.cells.get(this.active);
    if (before) before.tabIndex = -1;
    this.active = id;
    const cell = this.cells.get(id);
    if (cell) cell.tabIndex = 0;
  }

  focus(id = this.active) {
    const cell = this.cells.get(id);
    if (!cell) return;
    this.choose(id);
    cell.focus({ preventScroll: true });
    cell.scrollIntoView({ block: "nearest" });
  }

  /** Moves by arrow, Home or End; false where there is nowhere to go. */
  move(key) {
    const at = this.order.indexOf(this.active);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    const last = this.order.length - 1;
    let to = key === "Home" ? 0 : key === "End" ? last : at + steps[key];
    const rowOf = (place) => Math.floor(place / this.columns);
    if (key === "ArrowDown" && to > last && rowOf(at) < rowOf(last)) to = last; // the last row may be short
    if (to < 0 || to > last) return false;
    this.focus(this.order[to]);
    return true;
  }

  /** On to the next image, if there is one. */
  next() {
    return this.move("ArrowRight");
  }

  /** Draws the eye to cells for a moment: "flash" or "refused". */
  flash(ids, className) {
    for (const id of ids) {
      const cell = this.cells.get(id);
      if (!cell) continue;
      cell.classList.remove("flash", "refused");
      void cell.offsetWidth; // starts the animation anew
      cell.classList.add(className);
      setTimeout(() => cell.classList.remove(className), 1400);
    }
  }
}

function awaitedCell() {
  return h("div", { class: "tile awaited", role: "gridcell", "aria-hidden": "true" }, h("div", { class: "frame" }));
}
