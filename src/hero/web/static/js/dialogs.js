// Questions in a dialog: the name, more rounds, stop; and the help.

import { enterLayer, leaveLayer } from "./back.js";
import { h } from "./dom.js";
import { KEYS } from "./keys.js";
import { ask as askIn } from "./question.js";

const ask = (question) => askIn({ ...question, shown: enterLayer, gone: leaveLayer });

export const NAME = /^[\p{L}\p{N} ._@-]{1,40}$/u;

/** Who evaluates; `names` that exist already are offered. */
export function askName(current, names) {
  const field = h(
    "input",
    {
      type: "text",
      name: "name",
      id: "name-field",
      required: true,
      maxlength: "40",
      autocomplete: "nickname",
      value: current,
      list: "known-names",
      autofocus: true,
    },
  );
  const list = h("datalist", { id: "known-names" }, ...names.map((name) => h("option", { value: name })));
  field.addEventListener("input", () => field.setCustomValidity(""));
  return ask({
    title: "Who evaluates?",
    content: [
      h("p", { class: "muted" }, "Your marks are kept under this name. Take the same name again to go on with them."),
      h("label", { for: "name-field" }, "Name"),
      field,
      list,
    ],
    submit: "Go on",
    read: () => {
      const name = field.value.trim();
      if (NAME.test(name)) return name;
      field.setCustomValidity("Letters, digits, spaces and . _ - @, at most 40.");
      field.reportValidity();
      return null;
    },
  });
}

/** How many rounds to add. */
export function askRounds() {
  const field = h(
    "input",
    { type: "number", id: "rounds-field", min: "1", max: "1000", value: "4", required: true, autofocus: true },
  );
  return ask({
    title: "More rounds",
    content: [
      h("p", { class: "muted" }, "They come after those that were planned, with the same settings."),
      h("label", { for: "rounds-field" }, "Rounds to add"),
      field,
    ],
    submit: "Add them",
    read: () => Number(field.value),
  });
}

/** Why an image is marked as it is; "" takes the reason back. */
export function askReason(current) {
  const field = h("textarea", { id: "reason-field", maxlength: "500", rows: "3", autofocus: true });
  field.value = current;
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    field.form.requestSubmit();
  });
  return ask({
    title: "Why?",
    content: [
      h(
        "p",
        { class: "muted" },
        "In your words, kept with the image: nothing is learnt from it, and it is in every export.",
      ),
      h("label", { for: "reason-field" }, "Reason"),
      field,
    ],
    submit: "Keep it",
    read: () => field.value.trim().replace(/\s+/g, " "),
  });
}

/** Whether to stop the run; `name` is what commands call it. */
export function askStop(name) {
  return ask({
    title: "Stop and save?",
    content: [
      h(
        "p",
        { class: "muted" },
        "The run ends after what it is doing now. The model and every label are kept; go on later with",
      ),
      h("p", { class: "command" }, h("code", {}, `hero resume ${name}`)),
    ],
    submit: "Stop and save",
    danger: true,
    cancel: "Keep going",
  });
}

/** Keys, and how a round works. */
export function showHelp(evaluation) {
  const rows = KEYS.filter((key) => !(evaluation && key.training)).map((key) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, ...key.keys.flatMap((name, at) => [at ? " " : "", h("kbd", {}, name)])),
      h("td", {}, key.words),
    ),
  );
  const how = evaluation
    ? "The images come from the model before and after training, mixed. Mark the good ones; what you leave unmarked " +
      "counts as bad."
    : "Mark the good images and one best of each prompt; what you leave unmarked counts as bad. What you mark is " +
      "stored at once: close the page whenever you like, and come back to it.";
  return ask(
    {
      title: "Help",
      content: [h("p", { class: "muted" }, how), h("table", { class: "keys" }, h("tbody", {}, ...rows))],
      submit: null,
      cancel: "Close",
    },
  );
}
