// What there is to see while the model learns, and at the end: what happens, how long, the good share, previews.

import { imageUrl, loraUrl, reportUrl } from "./api.js";
import { shareChart } from "./chart.js";
import { count, duration, h, iconButton, rich, set, toast } from "./dom.js";
import { canReopen, commandName, isComplete, isEvaluation, missingEvaluators, scene } from "./state.js";

const STEPS = {
  representation: "Learning what good looks like",
  reward: "Rating the images",
  update: "Improving the model",
  practice: "Practising on images that nobody has to look at",
  noise: "Finding better starting points",
  preview: "Drawing previews",
  evaluation: "Measuring what was learnt",
  loading: "Loading the model",
  saving: "Saving",
};

const MOST_PREVIEWS = 8;
const REFINED =
  "The images that you judge start near the noises of good ones (refined noise), so this curve is ahead of what other " +
  "programs draw. The previews start from fresh noise, and change less.";
const UNKNOWN =
  "Success is unknown: no judge was made for these prompts. You can be the judge: base and tuned images, shuffled and " +
  "unmarked.";
const SETS = { base: "Base model", tuned_fresh: "Tuned, fresh noise", tuned_refined: "Tuned, refined noise" };

export class Training {
  constructor({ zoom, act }) {
    Object.assign(this, { zoom, act, keys: {} });
    this.title = h("h2", { class: "big-title" });
    this.words = h("p", { class: "lead" });
    this.fill = h("span", { class: "fill" });
    this.meter = h(
      "div",
      {
        class: "meter",
        role: "progressbar",
        "aria-valuemin": "0",
        "aria-valuemax": "100",
        "aria-label": "Progress of this step",
      },
      this.fill,
    );
    this.step = h("span", {});
    this.eta = h("span", { class: "muted" });
    this.progress = h(
      "div",
      { class: "progress" },
      h("p", { class: "progress-words" }, this.step, this.eta),
      this.meter,
    );
    this.extra = h("div", { class: "extra" });
    this.result = h("section", { class: "card result", "aria-label": "Result" });
    this.answer = h("section", { class: "card answer" });
    this.chart = h("section", { class: "card" });
    this.previews = h("section", { class: "card previews" });
    this.root = h(
      "div",
      { class: "training" },
      h("div", { class: "hero-head" }, this.title, this.words, this.progress, this.extra),
      this.result,
      this.answer,
      this.chart,
      this.previews,
    );
  }

  update(state) {
    const { phase, round } = state;
    const current = scene(state);
    const [title, words] = headline(state, current);
    set(this.title, { text: title });
    if (this.shownWords !== words) this.words.replaceChildren(...rich(words));
    this.shownWords = words;
    this.words.hidden = !words;
    const name = phase?.phase;
    const busy = current === "training" && ["starting", "drawing", "learning", "evaluating"].includes(name);
    this.progress.hidden = !busy && current !== "loading";
    const known = busy && phase.total > 0 && (phase.done > 0 || name !== "starting");
    const done = known ? Math.min(phase.done / phase.total, 1) : 0;
    set(this.step, { text: stepWords(phase) });
    set(this.eta, { text: phase?.eta_seconds ? `${duration(phase.eta_seconds)} left` : "" });
    this.meter.classList.toggle("unknown", !known);
    this.fill.style.setProperty("--done", done);
    set(
      this.meter,
      {
        "aria-valuenow": known ? Math.round(done * 100) : null,
        "aria-valuetext": known ? `${Math.round(done * 100)} %` : "under way",
      },
    );
    this.renderOn(
      "extra",
      [
        current,
        name,
        phase?.step,
        state.run?.lora,
        round?.round,
        canReopen(state),
        state.result?.report,
        state.connection,
        isEvaluation(state),
      ],
      () => this.renderExtra(state, current),
    );
    this.renderOn("result", [state.result, current, state.run?.folder], () => this.renderResult(state, current));
    this.renderOn("answer", [state.answers.at(-1), round?.round, current], () => this.renderAnswer(state, current));
    this.renderOn(
      "chart",
      [state.learned, state.run?.rounds, state.run?.refined, isEvaluation(state)],
      () => this.renderChart(state),
    );
    this.renderOn("previews", [state.previews], () => this.renderPreviews(state));
  }

  renderOn(part, parts, render) {
    const key = JSON.stringify(parts);
    if (this.keys[part] === key) return;
    this.keys[part] = key;
    render();
  }

  renderExtra(state, current) {
    const { run, phase } = state;
    const parts = [];
    const online = state.connection === "online";
    const link = (words, href, download = false) => h(
      "a",
      {
        class: "plain-button link-button",
        href,
        ...(download ? { download: true } : { target: "_blank", rel: "noopener" }),
      },
      words,
    );
    const button = (className, words, deed) => h(
      "button",
      { type: "button", class: className, on: { click: deed } },
      words,
    );
    if (phase?.phase === "paused") parts.push(button("primary", "Go on", () => this.act.command("resume")));
    if (current !== "loading" && canReopen(state)) {
      parts.push(
        h("div", { class: "buttons" }, button("plain-button outlined", "Change my answer (u)", () => this.act.reopen())),
      );
    }
    if (current === "end" && run.lora && !isEvaluation(state)) {
      const files = h("div", { class: "buttons" });
      if (online) files.append(link("Download the LoRA", loraUrl, true));
      if (online && state.result?.report) files.append(link("Open the report", reportUrl));
      parts.push(
        h("p", { class: "label" }, ...rich("The LoRA, in diffusers’ layout; `hero export` writes it for other programs")),
        h("p", { class: "path" }, h("code", {}, run.lora), iconButton("copy", "Copy the path", () => copy(run.lora))),
        files,
      );
    }
    if (phase?.phase === "stopped" && isComplete(state) && online) {
      parts.push(h("div", { class: "buttons" }, button("primary", "Close", () => this.act.command("finish"))));
    }
    if (phase?.phase === "finished" && !isEvaluation(state)) {
      const more = button("primary", "More rounds", () => this.act.more());
      const finish = button("plain-button", "Finish", () => this.act.command("finish", { stay: true }));
      parts.push(h("div", { class: "buttons" }, more, finish));
    }
    this.extra.replaceChildren(...parts);
    this.extra.hidden = parts.length === 0;
  }

  /** Success before and after; where nobody can say, what would tell. */
  renderResult({ result, run }, current) {
    this.result.hidden = current !== "end" || !result;
    if (this.result.hidden) return;
    const blind = `hero evaluate ${commandName(run)} --evaluator web`;
    const known = [
      result.success && [`On ${count(result.images, "held-out image")} a row`, result],
      result.people && [`Blind, by ${result.people.evaluators.join(", ")}`, result.people],
    ].filter((one) => one && one[1].success.base !== null);
    const tables = known.map(([words, figures]) => successTable(words, figures));
    const measure = `hero evaluate ${commandName(run)}`;
    const advice = known.length ? [] : !result.success ? [
      h("p", {}, "Success was not measured."),
      h("p", { class: "path" }, h("code", {}, measure), iconButton("copy", "Copy the command", () => copy(measure))),
    ] : [
      h("p", {}, UNKNOWN),
      h("p", { class: "path" }, h("code", {}, blind), iconButton("copy", "Copy the command", () => copy(blind))),
    ];
    this.result.replaceChildren(h("h3", {}, "What was learnt"), ...tables, ...advice);
  }

  renderAnswer(state, current) {
    const answer = state.answers.find((one) => one.round === state.round?.round);
    this.answer.hidden = current !== "training" || !answer || isEvaluation(state);
    if (this.answer.hidden) return;
    const bests = answer.best.map((id) => thumb(id, "Best", () => this.zoom([id], id), "best"));
    const disputes = answer.disagreements?.length ?? 0;
    const disputed = disputes ? ` The evaluators disagreed on ${count(disputes, "image")}.` : "";
    this.answer.replaceChildren(
      h(
        "div",
        {},
        h("h3", {}, `Answer to round ${answer.round}`),
        h("p", { class: "muted" }, `${count(answer.good, "image")} good, ${answer.bad} bad.${disputed}`),
      ),
      h("div", { class: "thumbs" }, ...bests.slice(0, 6)),
    );
  }

  renderChart(state) {
    const { learned, run } = state;
    this.chart.hidden = !run || isEvaluation(state) || learned.length < 2;
    if (this.chart.hidden) return;
    const last = learned.at(-1);
    const note = last.note ? h("p", { class: "note" }, `Round ${last.round}: ${last.note}.`) : "";
    this.chart.replaceChildren(
      h("h3", {}, "Good images, round by round"),
      h("p", { class: "muted" }, `${last.labels} images judged so far.`),
      shareChart(learned, run.rounds, "large"),
      run.refined ? h("p", { class: "muted refined-note" }, REFINED) : "",
      note,
    );
  }

  renderPreviews(state) {
    const { previews } = state;
    this.previews.hidden = previews.length === 0;
    if (this.previews.hidden) return;
    const rows = shownPreviews(previews).map(({ round, images }) => {
      const ids = images.map((image) => image.id);
      const label = round === 0 ? "Before" : `Round ${round}`;
      return h(
        "li",
        {},
        h("span", { class: "row-label" }, label),
        h(
          "div",
          { class: "thumbs" },
          ...images.slice(0, MOST_PREVIEWS).map(
            (image, at) => thumb(image.id, `${label}, image ${at + 1}`, () => this.zoom(ids, image.id)),
          ),
        ),
      );
    });
    this.previews.replaceChildren(
      h("h3", {}, "The same starting points, round by round"),
      h(
        "p",
        { class: "muted" },
        "Each column starts from one fixed, fresh noise, as in any program that loads the LoRA: what changes is the model.",
      ),
      h("ul", { class: "preview-rows" }, ...rows),
    );
  }
}

function successTable(words, { success, success_interval: intervals }) {
  const rows = Object.entries(SETS).filter(([name]) => typeof success[name] === "number").map(([name, label]) => {
    const bar = h("span", { class: "share" }, h("span", { class: "fill" }));
    bar.firstChild.style.setProperty("--done", success[name]);
    const [low, high] = (intervals?.[name] ?? []).map((value) => Math.round(100 * value));
    return h(
      "tr",
      { class: name },
      h("th", { scope: "row" }, label),
      h("td", { class: "bar-cell", "aria-hidden": "true" }, bar),
      h("td", { class: "figure" }, `${Math.round(100 * success[name])} %`),
      h("td", { class: "muted" }, low === undefined ? "" : `${low}–${high} %`),
    );
  });
  return h(
    "table",
    { class: "success" },
    h("caption", { class: "muted" }, `${words}, with 95 % intervals`),
    h("tbody", {}, ...rows),
  );
}

/** The first and the newest rounds, where there are many. */
function shownPreviews(previews) {
  return previews.length <= 6 ? previews : [previews[0], ...previews.slice(-5)];
}

function thumb(id, label, onClick, className = "") {
  return h(
    "button",
    { type: "button", class: `thumb ${className}`, "aria-label": `${label}, zoom`, on: { click: onClick } },
    h("img", { src: imageUrl(id, 96), alt: "", loading: "lazy" }),
  );
}

function stepWords(phase) {
  if (!phase) return "Loading";
  if (phase.phase === "drawing") return "Drawing the first images";
  if (phase.phase === "evaluating") return STEPS.evaluation;
  if (phase.phase === "starting") return STEPS[phase.step] ?? "Loading the model";
  return STEPS[phase.step] ?? (phase.step ? phase.step[0].toUpperCase() + phase.step.slice(1) : "Learning");
}

function headline(state, current) {
  const { phase, round, run, mine } = state;
  if (current === "loading") return ["Starting", "The run has not said anything yet. This page fills by itself."];
  const rounds = round ? count(round.round, "round") : "no rounds";
  switch (phase?.phase) {
    case "finished":
      if (isEvaluation(state)) return ["Thank you", "Every image is judged. The figures are in the report of the run."];
      return [
        `Finished after ${rounds}`,
        phase.message || "Go on with more rounds, or finish: the model is saved either way.",
      ];
    case "stopped":
      if (isComplete(state)) return [`Finished after ${rounds}`, phase.message];
      return [
        "Stopped and saved",
        phase.message || `Everything is on disk. Go on whenever you like: \`hero resume ${commandName(run)}\``,
      ];
    case "failed":
      return ["The run has failed", phase.message || "The terminal where it runs says why. Every label is stored."];
    case "paused":
      return ["Paused", "Nothing is computed until you go on."];
    case "learning":
      return [
        `Learning from round ${round?.round ?? phase.round}`,
        "Nothing to do for now: the next images appear here by themselves.",
      ];
    case "evaluating":
      return ["Measuring", "The trained model is compared with the one before."];
    case "waiting":
      return mine.submitted ? ["Your answer is stored", waitingFor(state)] : ["One moment", ""];
    default:
      return mine.submitted ? ["Your answer is stored", "The run goes on in a moment."] : [
        "Starting",
        "The first images appear here as they are drawn.",
      ];
  }
}

function waitingFor(state) {
  const missing = missingEvaluators(state);
  const marks = Object.values(state.mine.marks);
  const good = marks.filter((value) => value === "good").length;
  const own = marks.length ? `You found ${good} of ${state.round.total} good. ` : "";
  if (!missing) return `${own}The run goes on in a moment.`;
  const open = state.evaluators.filter(
    (person) => !person.submitted && person.marked && person.name !== state.evaluator,
  ).map((person) => person.name);
  const names = open.length ? ` ${open.join(", ")} ${open.length === 1 ? "is" : "are"} at it.` : "";
  return `${own}Waiting for ${count(missing, "more evaluator")}.${names}`;
}

async function copy(words) {
  try {
    await navigator.clipboard.writeText(words);
    toast("Copied.");
  } catch {
    toast("The browser does not allow copying here; select the path instead.", "error");
  }
}

