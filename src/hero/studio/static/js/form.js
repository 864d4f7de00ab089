// The form of a new run, checked as one types by the configuration's own rules.

import { announce, count, set } from "../../page/js/dom.js";
import { check, create, getForm, memory } from "./api.js";
import { runHash, tried } from "./deeds.js";
import { Questions } from "./questions.js";
import { bytes } from "./words.js";

const AGAIN = 2000;
const WAIT = 300;
const SETTING_OF_VARIETY = "practice.enough";

export class NewRun extends Questions {
  constructor(root, options, like, latest) {
    super(root, options, like, new Set(latest.runs.map((run) => run.name)));
    this.title = "New run · hero studio";
    this.runs = latest.runs;
    this.touched = new Set();
    this.checked = { problems: [], values: null, labels: null };
    this.start().catch((error) => set(this.whole, { text: error.message }));
  }

  async start() {
    if (this.like !== null) this.fill(await getForm(this.like));
    this.showSource();
    await this.check();
  }

  update({ runs }) {
    this.runs = runs;
    this.taken = new Set(runs.map((run) => run.name));
  }

  leave() {
    clearTimeout(this.timer);
  }

  changed(field) {
    this.touched.add(field);
    this.shownDetails();
    set(this.memoryWords, { text: "" });
    set(this.name, { placeholder: this.suggested() });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check(), WAIT);
  }

  varied() {
    this.advanced.put(SETTING_OF_VARIETY, this.variety.value);
    this.changed(SETTING_OF_VARIETY);
  }

  async check() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    set(this.name, { placeholder: this.suggested() });
    const found = await check(this.wish()).catch((error) => {
      if (turn === this.turn) this.timer = setTimeout(() => this.check(), AGAIN); // a server that is busy, say
      return { problems: [{ field: "", message: error.message }], values: null };
    });
    if (turn !== this.turn) return this.checked;
    this.checked = found;
    this.show();
    return found;
  }

  show() {
    const { problems, values, labels } = this.checked;
    const busy = this.runs.some((run) => run.doing.active || run.doing.what === "queued");
    set(this.submit, { text: busy ? "Put it in line" : "Start" });
    if (values) {
      this.values = values;
      this.advanced.usual(values);
      for (const [input, key] of [
        [this.rounds, "rounds"],
        [this.images, "sampling.images_per_round"],
        [this.people, "evaluator.people"],
        [this.seed, "seed"],
      ])
        set(input, { placeholder: String(values[key]) });
      set(this.total, { text: labels === null ? "" : `${count(labels, "label")} in all` });
      set(this.labels, {
        text: `${count(values.rounds, "round")} of ${count(values["sampling.images_per_round"], "image")}, ${values["sampling.height"] ? `${values["sampling.width"]}×${values["sampling.height"]}, ` : ""}${values["practice.draws"] ? `${count(values["practice.draws"], "image")} of practice after each, which nobody has to look at` : "no practice in between"}.`,
      });
      this.showVariety(values);
    }
    const byField = new Map(problems.map((problem) => [problem.field, problem.message]));
    let rest = "";
    for (const box of this.form.querySelectorAll("[data-field]")) {
      const message = byField.get(box.dataset.field) ?? "";
      const seen = message && (this.asked || this.touched.has(box.dataset.field));
      set(box.querySelector(".problem"), { text: seen ? message : "" });
      const input = box.querySelector("input, select, textarea");
      if (input) set(input, { "aria-invalid": seen ? "true" : null });
      if (message) byField.delete(box.dataset.field);
    }
    for (const [field, message] of byField) if (this.asked || this.touched.has(field) || field === "") rest = message;
    set(this.whole, { text: rest });
  }

  showVariety(values) {
    const practises = values["practice.draws"] > 0;
    this.varietyField.hidden = !practises;
    if (!practises) return;
    const enough = values[SETTING_OF_VARIETY];
    if (document.activeElement !== this.variety) this.variety.value = enough;
    set(this.varietyField.querySelector(".hint"), {
      text:
        enough >= 1
          ? "It goes on learning to the last round."
          : `It leaves the model as it is once ${Math.round(enough * 100)} % of its images are good: every further step costs variety.`,
    });
  }

  async estimate() {
    set(this.memoryButton, { "aria-disabled": "true" });
    set(this.memoryWords, { text: "Loading the model to find out; a large one takes minutes…" });
    try {
      const found = await memory(this.wish());
      if (found.error) set(this.memoryWords, { text: found.error });
      else {
        const fit = found.fits ? "It fits" : "Too much";
        const options = Object.entries(found.options ?? {}).map(
          ([key, value]) => `${key} = ${Array.isArray(value) ? value.join(", ") : value}`,
        );
        const help = found.fits
          ? ""
          : options.length
            ? ` It would fit with ${options.join(" and ")}.`
            : " No setting makes it fit.";
        set(this.memoryWords, {
          text: `${fit}: ${found.words}, of ${bytes(found.available)} (${found.device}).${help}`,
        });
      }
    } catch (error) {
      set(this.memoryWords, { text: error.message });
    }
    set(this.memoryButton, { "aria-disabled": null });
  }

  async make(start) {
    this.asked = true;
    const found = await this.check();
    if (found.problems.length) {
      const first = this.form.querySelector('[aria-invalid="true"]');
      first?.closest("details")?.setAttribute("open", "");
      first?.focus();
      announce(found.problems[0].message);
      return;
    }
    const wish = this.wish();
    if (await tried(() => create(wish, start))) location.hash = runHash(wish.name);
  }
}
