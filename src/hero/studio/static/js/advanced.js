// Every setting as the configuration's schema describes it: a control each, with the usual value until one is given.

import { h, set } from "../../page/js/dom.js";
import { shown } from "./words.js";

export class Advanced {
  /** @param stages from the studio; onChange(key) is called when a setting is given or taken back. */
  constructor(stages, onChange) {
    this.onChange = onChange;
    this.fields = new Map();
    this.kinds = [];
    this.words = "";
    const find = h("input", {
      type: "search",
      class: "find",
      placeholder: "Find a setting",
      "aria-label": "Find a setting",
      on: { input: () => this.find(find.value) },
    });
    this.sections = stages.map((stage) => this.stage(stage));
    this.element = h("div", {}, find, ...this.sections);
  }

  stage({ stage, about, fields, kinds }) {
    const tables = Object.entries(kinds ?? {}).map(([kind, table]) => {
      const box = h("div", { class: "kind-table" }, ...table.fields.map((field) => this.field(field)));
      this.kinds.push({ key: `${stage}.kind`, kind, box, fields: table.fields.map((field) => field.key) });
      return box;
    });
    return h(
      "details",
      { class: "stage" },
      h("summary", {}, h("h3", {}, stage), h("span", { class: "muted" }, about)),
      ...fields.map((field) => this.field(field)),
      ...tables,
    );
  }

  field(field) {
    const id = `s-${field.key.replaceAll(".", "-")}`;
    const given = () => this.onChange(field.key);
    const control = makeControl(field, id, given);
    const clear = h(
      "button",
      {
        type: "button",
        class: "small-button",
        hidden: true,
        on: {
          click: () => {
            control.clear();
            clear.hidden = true;
            given();
          },
        },
      },
      "Usual value",
    );
    const box = h(
      "div",
      { class: "setting", "data-field": field.key, "data-words": `${field.key} ${field.about}`.toLowerCase() },
      h("div", { class: "setting-head" }, h("label", { for: id }, field.key), clear),
      control.element,
      h("p", { class: "hint" }, field.about),
      h("p", { class: "problem", "aria-live": "polite" }),
    );
    this.fields.set(field.key, { control, clear, box });
    box.addEventListener("input", () => (clear.hidden = false));
    return box;
  }

  /** The settings that were given, by name. */
  values() {
    const found = {};
    for (const [key, { control, clear }] of this.fields)
      if (!clear.hidden && this.isInUse(key) && control.given()) found[key] = control.value();
    return found;
  }

  /** Gives one. */
  put(key, value) {
    const field = this.fields.get(key);
    field?.control.put(value);
    if (field) field.clear.hidden = false;
  }

  fill(settings) {
    for (const [key, value] of Object.entries(settings)) this.put(key, value);
  }

  /** Shows the values that are used where none is given, and the tables of the kinds that are chosen. */
  usual(values) {
    this.chosen = values;
    for (const [key, { control, clear }] of this.fields) if (clear.hidden) control.usual(values[key]);
    for (const { key, kind, box } of this.kinds) box.hidden = values[key] !== kind;
    this.find(this.words); // a table that has come or gone changes what is found
  }

  isInUse(key) {
    const table = this.kinds.find((one) => one.fields.includes(key));
    if (!table) return true;
    const kind = this.fields.get(table.key);
    return (kind && !kind.clear.hidden ? kind.control.value() : this.chosen?.[table.key]) === table.kind;
  }

  find(words) {
    this.words = words;
    const wanted = words.trim().toLowerCase();
    for (const section of this.sections) {
      let any = false;
      section.hidden = false; // or nothing in it would count as seen
      for (const box of section.querySelectorAll(".setting")) {
        box.hidden = wanted !== "" && !box.dataset.words.includes(wanted);
        any ||= !box.hidden && !box.closest("[hidden]");
      }
      section.hidden = !any;
      if (wanted) section.open = any;
    }
  }
}

/** A control: {element, value(), given(), put(value), clear(), usual(value)}. */
function makeControl(field, id, given) {
  switch (field.type) {
    case "switch":
      return select(
        id,
        [
          ["true", "on"],
          ["false", "off"],
        ],
        given,
        (text) => text === "true",
      );
    case "choice":
      return select(
        id,
        field.choices.map((choice) => [choice, choice]),
        given,
        (text) => text,
      );
    case "choices":
      return boxes(field.choices, id, given);
    case "lines":
      return text(
        h("textarea", { id, rows: "2" }),
        given,
        (value) =>
          value
            .split("\n")
            .map((line) => line.trim())
            .filter(Boolean),
        (value) => value.join("\n"),
      );
    default:
      return text(
        h("input", {
          id,
          type: "text",
          inputmode: field.type === "text" ? null : "decimal",
          maxlength: "200",
          autocomplete: "off",
          spellcheck: "false",
        }),
        given,
        (value) => value.trim(),
        String,
      );
  }
}

function text(input, given, read, write) {
  input.addEventListener("input", given);
  return {
    element: input,
    value: () => read(input.value),
    given: () => input.value.trim() !== "",
    put: (value) => (input.value = write(value)),
    clear: () => (input.value = ""),
    usual: (value) => set(input, { placeholder: shown(value) }),
  };
}

function select(id, choices, given, read) {
  const none = h("option", { value: "" }, "usual");
  const input = h(
    "select",
    { id, on: { change: given } },
    none,
    ...choices.map(([value, words]) => h("option", { value }, words)),
  );
  return {
    element: input,
    value: () => read(input.value),
    given: () => input.value !== "",
    put: (value) => (input.value = String(value)),
    clear: () => (input.value = ""),
    usual: (value) => set(none, { text: `usual: ${shown(value)}` }),
  };
}

function boxes(choices, id, given) {
  const inputs = choices.map((choice, at) =>
    h("input", { type: "checkbox", value: choice, id: at ? null : id, on: { change: given } }),
  );
  return {
    element: h("div", { class: "boxes" }, ...inputs.map((input) => h("label", {}, input, input.value))),
    value: () => inputs.filter((input) => input.checked).map((input) => input.value),
    given: () => true,
    put: (value) => inputs.forEach((input) => (input.checked = value.includes(input.value))),
    clear: () => {},
    usual: (value) => inputs.forEach((input) => (input.checked = (value ?? []).includes(input.value))),
  };
}
