// Rounds that are over, with their marks: to look at, not to change.

import { getRound } from "./api.js";
import { count, h, set, toast } from "./dom.js";
import { Grid } from "./grid.js";
import { severalPrompts } from "./state.js";

export class Past {
  constructor({ store, act, zoom }) {
    Object.assign(this, { store, act, zoom });
    this.tabs = h("nav", { class: "round-tabs", "aria-label": "Rounds" });
    this.words = h("p", { class: "past-words" });
    this.grid = new Grid("Images of a past round", { zoom: (id) => this.look(id) });
    this.back = h("button", { type: "button", class: "plain-button", on: { click: () => act.past(null) } });
    this.root = h(
      "div",
      { class: "past" },
      h("div", { class: "past-head" }, this.tabs, this.back),
      this.words,
      this.grid.root,
    );
    this.loaded = null;
  }

  async load(round) {
    const { evaluator } = this.store.get();
    this.round = round;
    this.loaded = null;
    try {
      const loaded = await getRound(round, evaluator);
      if (this.round === round) this.loaded = loaded;
    } catch (error) {
      toast(error.message === "no answer" ? "The server is away; try again in a moment." : error.message, "error");
    }
    this.store.patch({}); // shows it
  }

  look(id) {
    this.zoom(this.loaded.images.map((image) => image.id), id, (one) => this.lookOf(one));
  }

  lookOf(id) {
    const { mine, answer, verdicts } = this.loaded;
    const votes = verdicts?.[id];
    const disputed = votes && votes.good > 0 && votes.bad > 0;
    const own = mine?.marks[id] ?? null;
    const verdict = disputed || !own ? majority(votes) ?? own : own;
    return {
      verdict,
      best: (answer?.best ?? mine?.best ?? []).includes(id),
      note: disputed ? `${votes.good} good, ${votes.bad} bad` : null,
      reason: mine?.reasons?.[id] ?? null,
      prompt: severalPrompts(this.store.get()) ? this.loaded.images.find((image) => image.id === id)?.prompt : null,
    };
  }

  update(state, height) {
    if (state.past !== this.round) this.load(state.past);
    const rounds = state.answers.map((answer) => answer.round);
    const key = `${rounds.join()}/${state.past}`;
    if (this.key !== key) {
      this.key = key;
      this.tabs.replaceChildren(
        ...rounds.map(
          (round) => h(
            "button",
            {
              type: "button",
              class: "round-tab",
              "aria-label": `Round ${round}`,
              "aria-current": round === state.past ? "true" : null,
              on: { click: () => this.act.past(round) },
            },
            String(round),
          ),
        ),
      );
    }
    set(this.back, { text: state.round ? `Back to round ${state.round.round}` : "Back" });
    if (!this.loaded) return set(this.words, { text: "Loading…" });
    const { images, answer } = this.loaded;
    set(this.words, { text: answer ? summary(answer) : "" });
    return this.grid.show(
      images,
      (id) => this.lookOf(id),
      { total: images.length, height: height - 96, size: state.size },
    );
  }
}

function majority(votes) {
  if (!votes) return null;
  return votes.good > votes.bad ? "good" : "bad";
}

function summary(answer) {
  const { good, bad, evaluators = [], disagreements = [] } = answer;
  const words = [`${good} good, ${bad} bad.`];
  if (evaluators.length > 1) words.push(`${count(evaluators.length, "evaluator")}: ${evaluators.join(", ")}.`);
  if (disagreements.length) words.push(`They disagreed on ${count(disagreements.length, "image")}, outlined with dashes.`);
  return words.join(" ");
}
