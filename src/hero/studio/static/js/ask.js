// Questions in a dialog.

import { h } from "../../page/js/dom.js";
import { ask } from "../../page/js/question.js";

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
