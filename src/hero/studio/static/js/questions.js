// The questions of the form of a new run: its controls, and the wish that they amount to.

import { h, set } from "../../page/js/dom.js";
import { Advanced } from "./advanced.js";
import { nameFor } from "./words.js";

const USUAL_METHOD = "heron";

/** The controls. Who extends it has `changed(field)`, `varied()`, `estimate()` and `make(start)`, which they call. */
export class Questions {
  /** @param like the name of the run that the new one is a copy of, or null. */
  constructor(root, options, like, taken) {
    Object.assign(this, { root, options, like, taken });
    this.build();
  }

  build() {
    const { tasks, methods, models } = this.options;
    const changed = (field) => () => this.changed(field);
    const field = (name, label, control, hint = "") => this.field(name, label, control, hint);
    this.prompts = h("textarea", {
      id: "f-prompts",
      rows: "3",
      spellcheck: "true",
      placeholder: "a lighthouse at dusk",
      on: { input: changed("prompts") },
    });
    this.criterion = h("input", {
      id: "f-criterion",
      type: "text",
      maxlength: "400",
      placeholder: "one lighthouse, its light is on",
      autocomplete: "off",
      on: { input: changed("criterion") },
    });
    this.name = h("input", {
      id: "f-name",
      type: "text",
      maxlength: "80",
      autocomplete: "off",
      spellcheck: "false",
      on: { input: changed("name") },
    });
    this.task = h(
      "select",
      { id: "f-task", on: { change: changed("task") } },
      ...tasks.map((task) => h("option", { value: task.name }, `${task.title} (${task.name})`)),
    );
    this.model = h("select", { id: "f-model", on: { change: changed("model") } });
    this.models = [
      ["tinyworld", "The tiny world (bundled, no GPU)"],
      ...models.map((model) => [model.path, `${model.name}: ${model.pipeline.replace(/Pipeline$/, "")}`]),
    ];
    this.model.append(
      ...this.models.map(([value, words]) => h("option", { value }, words)),
      h("option", { value: "" }, "From the Hugging Face Hub…"),
    );
    this.hub = h("input", {
      id: "f-hub",
      type: "text",
      maxlength: "200",
      placeholder: "owner/name",
      "aria-label": "Hub id",
      autocomplete: "off",
      spellcheck: "false",
      hidden: true,
      on: { input: changed("model") },
    });
    this.method = h(
      "select",
      { id: "f-method", on: { change: changed("method") } },
      ...methods.map((method) => h("option", { value: method.name }, method.name)),
    );
    this.method.value = USUAL_METHOD;
    const number = (id, name) =>
      h("input", {
        id: `f-${id}`,
        type: "text",
        inputmode: "numeric",
        maxlength: "12",
        autocomplete: "off",
        on: { input: changed(name) },
      });
    this.rounds = number("rounds", "rounds");
    this.images = number("images_per_round", "images_per_round");
    this.people = number("people", "people");
    this.seed = number("seed", "seed");
    this.judge = h(
      "select",
      { id: "f-judge", on: { change: changed("judge") } },
      h("option", { value: "web" }, "People, in the browser"),
      h("option", { value: "oracle" }, "The task's own judge (nobody has to click)"),
    );
    this.variety = h("input", {
      id: "f-variety",
      type: "range",
      min: "0.6",
      max: "1",
      step: "0.01",
      on: { input: () => this.varied() },
    });
    this.varietyField = h(
      "div",
      { class: "field variety", hidden: true },
      h("label", { for: "f-variety" }, "Exact or varied"),
      h("div", { class: "ends" }, h("span", {}, "varied"), this.variety, h("span", {}, "exact")),
      h("p", { class: "hint" }),
    );
    this.source = h(
      "fieldset",
      { class: "choice-row" },
      h("legend", {}, "What is wanted"),
      ...[
        ["own", "Prompts of my own"],
        ["task", "A task of the tiny world"],
      ].map(([value, words]) =>
        h(
          "label",
          {},
          h("input", {
            type: "radio",
            name: "source",
            value,
            checked: value === "own",
            on: {
              change: () => {
                this.showSource();
                this.changed("prompts");
              },
            },
          }),
          words,
        ),
      ),
    );
    this.own = h(
      "div",
      { class: "fields" },
      field("prompts", "Prompts", this.prompts, "One a line. Images are shared out evenly among them."),
      field("criterion", "The wish in words", this.criterion, "What makes an image good; shown to whoever judges."),
    );
    this.builtIn = h(
      "div",
      { class: "fields" },
      field("task", "Task", this.task),
      (this.taskWords = h("p", { class: "hint" })),
    );
    this.advanced = new Advanced(this.options.settings, (key) => this.changed(key));
    this.whole = h("p", { class: "problem", role: "alert" });
    this.total = h("p", { class: "total" });
    this.labels = h("p", { class: "muted" });
    this.memoryWords = h("p", { class: "muted", role: "status" });
    this.memoryButton = h(
      "button",
      { type: "button", class: "plain-button outlined", on: { click: () => this.estimate() } },
      "How much memory?",
    );
    this.later = h(
      "button",
      { type: "button", class: "plain-button", on: { click: () => this.make(false) } },
      "Only save it",
    );
    this.submit = h("button", { type: "submit", class: "primary" }, "Start");
    this.methodHint = h("p", { class: "hint" });
    const form = h(
      "form",
      { class: "new-run", novalidate: true, on: { submit: (event) => (event.preventDefault(), this.make(true)) } },
      h(
        "div",
        { class: "form-main" },
        h("h1", { class: "big-title" }, this.like ? `Like ${this.like}, but…` : "New run"),
        h("section", { class: "card" }, this.source, this.own, this.builtIn),
        h(
          "section",
          { class: "card" },
          h("h2", {}, "How"),
          h(
            "div",
            { class: "fields two" },
            field("model", "Model", h("div", { class: "stacked" }, this.model, this.hub)),
            h(
              "div",
              { class: "field", "data-field": "method" },
              h("label", { for: "f-method" }, "Method"),
              this.method,
              this.methodHint,
              h("p", { class: "problem", "aria-live": "polite" }),
            ),
            field("images_per_round", "Images a round", this.images, "How many you judge before it learns."),
            field("rounds", "Rounds", this.rounds, "More can be added at any time."),
            field("judge", "Who judges", this.judge),
            field("people", "How many people", this.people, "A round is learnt from when so many have submitted it."),
          ),
          this.varietyField,
        ),
        h(
          "details",
          { class: "card advanced" },
          h(
            "summary",
            {},
            h("h2", {}, "All settings"),
            h("span", { class: "muted" }, "with their usual values for this method and model"),
          ),
          field("seed", "seed", this.seed, "Seed of every random draw."),
          this.advanced.element,
        ),
      ),
      h(
        "aside",
        { class: "form-side card" },
        h("h2", {}, "The run"),
        field("name", "Name", this.name),
        this.total,
        this.labels,
        this.memoryButton,
        this.memoryWords,
        this.whole,
        h("div", { class: "buttons" }, this.submit, this.later),
      ),
    );
    this.root.replaceChildren(form);
    this.form = form;
  }

  field(name, label, control, hint) {
    const input = control.matches("input, select, textarea") ? control : control.querySelector("select, input");
    const problem = h("p", { class: "problem", id: `p-${name}`, "aria-live": "polite" });
    input.setAttribute("aria-describedby", problem.id);
    return h(
      "div",
      { class: "field", "data-field": name },
      h("label", { for: input.id }, label),
      control,
      hint && h("p", { class: "hint" }, hint),
      problem,
    );
  }

  get ownPrompts() {
    return this.source.querySelector("input:checked").value === "own";
  }

  showSource() {
    this.own.hidden = !this.ownPrompts;
    this.builtIn.hidden = this.ownPrompts;
    if (!this.ownPrompts) this.model.value = "tinyworld";
    this.shownDetails();
  }

  shownDetails() {
    const { tasks, methods } = this.options;
    const task = tasks.find((one) => one.name === this.task.value);
    set(this.taskWords, { text: `${task.criterion} Prompt: ${task.prompts.join(", ")}` });
    set(this.methodHint, { text: methods.find((one) => one.name === this.method.value)?.summary ?? "" });
    this.hub.hidden = this.model.value !== "";
    const oracle = !this.ownPrompts && this.model.value === "tinyworld";
    this.judge.options[1].disabled = !oracle;
    if (!oracle) this.judge.value = "web";
    this.form.querySelector('[data-field="people"]').hidden = this.judge.value !== "web";
  }

  fill(wish) {
    this.source.querySelector(`[value="${wish.task === null ? "own" : "task"}"]`).checked = true;
    if (wish.task !== null) this.task.value = wish.task;
    this.prompts.value = wish.prompts.join("\n");
    this.criterion.value = wish.criterion;
    if (!this.models.some(([value]) => value === wish.model)) {
      const onHub = /^[\w.-]+\/[\w.-]+$/.test(wish.model);
      if (onHub) this.hub.value = wish.model;
      else this.model.prepend(h("option", { value: wish.model }, wish.model));
      this.model.value = onHub ? "" : wish.model;
    } else this.model.value = wish.model;
    this.method.value = wish.method;
    this.rounds.value = wish.rounds ?? "";
    this.images.value = wish.images_per_round ?? "";
    this.people.value = wish.people ?? "";
    this.seed.value = wish.seed ?? "";
    this.judge.value = wish.judge;
    this.advanced.fill(wish.settings);
  }

  wish() {
    const own = this.ownPrompts;
    const given = (input) => input.value.trim() || null;
    return {
      name: this.name.value.trim() || this.suggested(),
      task: own ? null : this.task.value,
      prompts: own
        ? this.prompts.value
            .split("\n")
            .map((line) => line.trim())
            .filter(Boolean)
        : [],
      criterion: own ? this.criterion.value.trim() : "",
      model: this.model.value || this.hub.value.trim(),
      method: this.method.value,
      judge: this.judge.value,
      rounds: given(this.rounds),
      images_per_round: given(this.images),
      seed: given(this.seed),
      people: given(this.people),
      like: this.like,
      settings: this.advanced.values(),
    };
  }

  suggested() {
    const words = this.ownPrompts ? this.prompts.value.split("\n")[0] || this.criterion.value : this.task.value;
    return nameFor(`${words} ${this.method.value}`, this.taken);
  }
}
