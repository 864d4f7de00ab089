// A button with a menu under it.

import { h, icon, set } from "../../page/js/dom.js";

/** @param lines gives the menu's lines, [words, what to do], when it opens. */
export function menuButton(label, lines) {
  const menu = h("div", { class: "menu", hidden: true });
  const button = h(
    "button",
    {
      type: "button",
      class: "icon-button menu-button",
      "aria-label": label,
      title: label,
      "aria-haspopup": "true",
      "aria-expanded": "false",
      on: { click: () => toggle() },
    },
    icon("menu"),
  );
  const wrap = h("div", { class: "menu-wrap" }, button, menu);

  function toggle(open = menu.hidden) {
    if (open) {
      menu.replaceChildren(
        ...lines().map(([words, run]) =>
          h("button", { type: "button", class: "menu-item", on: { click: () => (toggle(false), run()) } }, words),
        ),
      );
      document.addEventListener("click", outside);
    } else document.removeEventListener("click", outside);
    menu.hidden = !open;
    set(button, { "aria-expanded": String(open) });
    if (open) menu.querySelector("button")?.focus();
  }

  function outside(event) {
    if (!wrap.contains(event.target)) toggle(false);
  }

  wrap.addEventListener("keydown", (event) => {
    if (menu.hidden) return;
    const items = [...menu.children];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) items[(items.indexOf(document.activeElement) + step + items.length) % items.length].focus();
    if (event.key === "Escape") {
      toggle(false);
      button.focus();
    }
    if (step || event.key === "Escape") event.preventDefault();
  });
  return wrap;
}
