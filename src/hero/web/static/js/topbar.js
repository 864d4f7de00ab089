// The line over the images: which round, what the run is doing, and the switches.

import { count, duration, h, icon, iconButton, set } from "./dom.js";
import { isOn } from "./notify.js";
import { hasEnded, isComplete, isDrawn, isEvaluation, missingEvaluators, scene, severalPrompts } from "./state.js";

/** What the run is doing, in a few words. */
export function doing(state) {
  const { phase, round } = state;
  const current = scene({ ...state, past: null });
  if (!phase) return "";
  const left = phase.eta_seconds ? `, ${duration(phase.eta_seconds)} left` : "";
  switch (phase.phase) {
    case "drawing":
      return `Drawing ${round?.images.length ?? 0} of ${round?.total ?? phase.total}${left}`;
    case "waiting":
      if (current === "label") return `${count(round.images.length, "image")}, all drawn`;
      if (phase.step === "settling") return "Learning begins in a moment";
      return missingEvaluators(state) ? "Waiting for others" : "Going on";
    case "learning":
      return `Learning${left}`;
    case "evaluating":
      return `Measuring${left}`;
    case "paused":
      return "Paused";
    case "finished":
      return "Finished";
    case "stopped":
      return isComplete(state) ? "Finished" : "Stopped and saved";
    case "failed":
      return "Failed";
    default:
      return "Starting";
  }
}

export class Topbar {
  constructor(root, { store, act }) {
    Object.assign(this, { root, store, act });
    this.title = h("h2", { class: "round-title" });
    this.status = h("p", { class: "doing" });
    this.suggest = h(
      "button",
      { type: "button", class: "switch", role: "switch", on: { click: () => act.suggest() } },
      h("span", { class: "knob", "aria-hidden": "true" }),
      "Suggestions",
    );
    this.size = h(
      "input",
      {
        type: "range",
        min: "72",
        max: "512",
        step: "8",
        "aria-label": "Size of the images",
        title: "Size of the images; double click: fit to the window",
      },
    );
    this.size.addEventListener("input", () => act.size(Number(this.size.value)));
    this.size.addEventListener("dblclick", () => act.size(null));
    this.size.addEventListener("pointerup", () => {
      this.size.blur(); // or the arrow keys would go on resizing
      act.refocus();
    });
    this.veil = h(
      "button",
      { type: "button", class: "plain-button with-icon", on: { click: () => act.reveal() } },
      icon("eye"),
      h("span", {}),
    );
    this.view = h(
      "button",
      {
        type: "button",
        class: "plain-button with-icon",
        "aria-keyshortcuts": "v",
        title: "One image at a time, or the grid (v)",
        on: { click: () => act.view() },
      },
      icon("single"),
      h("span", { class: "wide-only" }, "One by one"),
    );
    this.prompts = h("select", { class: "prompt-filter", "aria-label": "Images of which prompt" });
    this.prompts.addEventListener("change", () => {
      act.prompt(this.prompts.value || null);
      this.prompts.blur();
    });
    this.pastRounds = h(
      "button",
      { type: "button", class: "plain-button with-icon", on: { click: () => act.past() } },
      icon("clock"),
      h("span", { class: "wide-only" }, "Past rounds"),
    );
    this.pastRounds.setAttribute("aria-label", "Past rounds");
    this.menuButton = iconButton("menu", "Run", () => this.toggleMenu(), { className: "menu-button" });
    set(this.menuButton, { "aria-haspopup": "true", "aria-expanded": "false", "aria-controls": "run-menu" });
    const item = (words, run) =>
      h("button", { type: "button", class: "menu-item", on: { click: () => (this.toggleMenu(false), run()) } }, words);
    this.pause = item("Pause", () => act.command(this.paused ? "resume" : "pause"));
    this.stop = item("Stop and save…", () => act.stop());
    this.more = item("More rounds…", () => act.more());
    this.notify = item("", () => act.notify());
    this.compactOnly = h(
      "div",
      { class: "compact-only menu-group" },
      item("Your name…", () => act.rename()),
      item("Light or dark", () => act.theme()),
      item("Help", () => act.help()),
    );
    this.menu = h(
      "div",
      { class: "menu", id: "run-menu", hidden: true },
      this.pause,
      this.stop,
      this.more,
      this.notify,
      this.compactOnly,
    );
    document.addEventListener("click", (event) => !event.target.closest(".menu-wrap") && this.toggleMenu(false));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.menu.hidden) return;
      this.toggleMenu(false);
      this.menuButton.focus();
    });
    root.append(
      h("div", { class: "round-head" }, this.title, this.status),
      h(
        "div",
        { class: "switches" },
        this.veil,
        this.prompts,
        this.suggest,
        this.size,
        this.view,
        this.pastRounds,
        h("div", { class: "menu-wrap" }, this.menuButton, this.menu),
      ),
    );
  }

  toggleMenu(open = this.menu.hidden) {
    this.menu.hidden = !open;
    set(this.menuButton, { "aria-expanded": String(open) });
    if (open) this.menu.querySelector("button:not([hidden])").focus();
  }

  update(state) {
    const { run, round, phase, past } = state;
    const evaluation = isEvaluation(state);
    const current = scene(state);
    set(this.title, { text: titleOf(state) });
    const elsewhere = round && !hasEnded(state) ? `Round ${round.round}: ${doing(state).toLowerCase()}` : "";
    set(this.status, { text: past === null ? doing(state) : elsewhere });
    this.veil.hidden = !run?.sensitive;
    set(this.veil.lastChild, { text: state.revealed ? "Hide images" : "Show images" });
    this.suggest.hidden = evaluation || current !== "label" || round.round < 2;
    set(
      this.suggest,
      {
        "aria-checked": String(state.suggestions),
        title: "Marks images as the model would, the least certain first; you correct",
      },
    );
    const oneByOne = state.view === "single";
    this.size.hidden = (current !== "label" || oneByOne) && current !== "past";
    this.view.hidden = current !== "label";
    this.prompts.hidden = current !== "label" || !severalPrompts(state);
    if (!this.prompts.hidden) this.showPrompts(state);
    set(this.notify, { text: isOn() ? "No sound when ready" : "Sound when ready" });
    set(this.view, { "aria-pressed": String(oneByOne), "aria-label": "One image at a time" });
    this.pastRounds.hidden = state.answers.length === 0 || evaluation;
    set(this.pastRounds, { "aria-pressed": String(past !== null) });
    this.paused = phase?.phase === "paused";
    set(this.pause, { text: this.paused ? "Go on" : "Pause" });
    this.pause.hidden = this.stop.hidden = !run || hasEnded(state);
    this.more.hidden = !run || evaluation || ["stopped", "failed"].includes(phase?.phase);
    document.title = tabTitle(state, current, round);
  }

  showPrompts({ run, prompt }) {
    const key = run.prompts.join("\n");
    if (this.promptsShown !== key) {
      this.promptsShown = key;
      const options = run.prompts.map((one) => h("option", { value: one }, one));
      this.prompts.replaceChildren(h("option", { value: "" }, "All prompts"), ...options);
    }
    if (this.prompts.value !== (prompt ?? "")) this.prompts.value = prompt ?? "";
  }

  /** The slider shows the size in use where none was chosen. */
  showSize(pixels) {
    if (document.activeElement !== this.size) this.size.value = Math.round(pixels);
  }
}

function titleOf(state) {
  const { run, round, past } = state;
  if (past !== null) return `Round ${past}`;
  if (!run) return "hero";
  if (isEvaluation(state)) return "Blind evaluation";
  if (!round) return "First round";
  return `Round ${round.round} of ${run.rounds}`;
}

function tabTitle(state, current, round) {
  if (!state.run) return "hero";
  if (current === "label") return `${isDrawn(round) ? "● " : ""}Round ${round.round} · ${state.run.name}`;
  return `${doing(state)} · ${state.run.name}`;
}
