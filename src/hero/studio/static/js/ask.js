// Questions in a dialog.

import { h } from "../../page/js/dom.js";

/** A dialog that is made, shown and thrown away; resolves with what `read` gives, or null when it is closed. */
export function ask({ title, content = [], submit, danger = false, read = () => true, cancel = "Cancel" }) {
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
            answer = read();
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
            dialog.remove();
            resolve(answer);
          },
        },
      },
      form,
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Whether to do it. */
export const confirm = (title, words, submit, danger = true) =>
  ask({ title, content: [h("p", { class: "muted" }, words)], submit, danger });

/** A line of text, or null. */
export function askText(title, label, value, submit, words = "") {
  const field = h("input", {
    type: "text",
    id: "asked",
    value,
    required: true,
    maxlength: "80",
    autofocus: true,
    autocomplete: "off",
  });
  return ask({
    title,
    content: [words && h("p", { class: "muted" }, words), h("label", { for: "asked" }, label), field].filter(Boolean),
    submit,
    read: () => field.value.trim() || null,
  });
}

/** A whole number, or null. */
export function askNumber(title, label, value, submit, words) {
  const field = h("input", {
    type: "number",
    id: "asked",
    min: "1",
    max: "1000",
    value: String(value),
    required: true,
  });
  return ask({
    title,
    content: [h("p", { class: "muted" }, words), h("label", { for: "asked" }, label), field],
    submit,
    read: () => Number(field.value) || null,
  });
}
