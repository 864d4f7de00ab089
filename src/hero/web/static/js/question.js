// A question in a dialog.

import { h } from "./dom.js";

const nothing = () => {};

/**
 * A dialog that is made, shown and thrown away; resolves with what `read` gives, or null when it is closed.
 * `shown` and `gone` are called with what closes it.
 */
export function ask({
  title,
  content = [],
  submit,
  danger = false,
  read = () => true,
  cancel = "Cancel",
  shown = nothing,
  gone = nothing,
}) {
  return new Promise((resolve) => {
    let answer = null;
    const go = submit ? h("button", { type: "submit", class: danger ? "primary danger" : "primary" }, submit) : null;
    const leave = h("button", { type: "button", class: "plain-button", on: { click: () => dialog.close() } }, cancel);
    const form = h(
      "form",
      {
        method: "dialog",
        on: {
          submit: (event) => {
            event.preventDefault();
            answer = read(form);
            if (answer !== null) dialog.close();
          },
        },
      },
      h("h2", {}, title),
      ...content,
      h("div", { class: "buttons" }, leave, go),
    );
    const dialog = h(
      "dialog",
      {
        class: "question",
        "aria-label": title,
        on: {
          click: (event) => event.target === dialog && dialog.close(),
          close: () => {
            gone(close);
            dialog.remove();
            resolve(answer);
          },
        },
      },
      form,
    );
    const close = () => dialog.close();
    document.body.append(dialog);
    dialog.showModal();
    shown(close);
  });
}
