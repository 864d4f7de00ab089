// The rail beside the images: the goal in words, the best so far, what was learnt, who else evaluates.

import { imageUrl } from "./api.js";
import { shareChart } from "./chart.js";
import { h, icon, iconButton, set } from "./dom.js";
import { isEvaluation, scene, severalPrompts } from "./state.js";

export class Rail {
  constructor(root, { marks, act, zoom }) {
    Object.assign(this, { marks, act, zoom, keys: {} });
    this.dot = h("span", { class: "dot" });
    this.link = h("span", {}, "Connecting");
    this.status = h("p", { class: "connection", role: "status" }, this.dot, this.link);
    this.name = h("span", { class: "run-name" });
    this.goalLabel = h("p", { class: "label" }, "Goal");
    this.goal = h("h1", { class: "goal" });
    this.prompt = h("p", { class: "prompt" });
    this.cut = h("p", { class: "prompt" });
    this.bestBox = h("section", { class: "best-box", "aria-label": "Best so far" });
    this.learnt = h("section", { class: "learnt", "aria-label": "Learnt so far" });
    this.people = h("section", { class: "people", "aria-label": "Evaluators" });
    this.me = h("span", {});
    const who = h(
      "button",
      { type: "button", class: "who", on: { click: () => act.rename() } },
      icon("person"),
      this.me,
      h("span", { class: "unseen" }, ", change your name"),
    );
    root.append(
      h("div", { class: "brand" }, h("b", { class: "wordmark" }, "hero"), this.name),
      h("div", { class: "goal-box" }, this.goalLabel, this.goal, this.prompt, this.cut),
      this.bestBox,
      this.learnt,
      this.people,
      h(
        "div",
        { class: "rail-foot" },
        who,
        this.status,
        iconButton("theme", "Light or dark", () => act.theme()),
        iconButton("help", "Help", () => act.help(), { key: "?" }),
      ),
    );
  }

  update(state) {
    const { run, connection, unsent } = state;
    const words = { connecting: "Connecting", online: "Connected", away: "Not connected", expired: "Signed out" };
    set(
      this.link,
      { text: connection !== "online" && unsent ? `${words[connection]} · ${unsent} unsent` : words[connection] },
    );
    set(this.status, { "data-connection": connection, title: words[connection] });
    set(this.me, { text: state.evaluator });
    if (!run) return;
    set(this.name, { text: run.name, title: run.name });
    set(this.goalLabel, { text: isEvaluation(state) ? "Good or bad?" : "Goal" });
    set(this.goal, { text: run.criterion || "Mark the images that you like." });
    set(
      this.prompt,
      {
        title: run.prompts.join("\n"),
        text: severalPrompts(state) ? `${run.prompts.length} prompts, one under each image` : `“${run.prompts[0]}”`,
      },
    );
    set(this.cut, { text: run.cut?.length ? `Too long for the model: ${run.cut.join("; ")}` : "" });
    this.cut.hidden = !run.cut?.length;
    this.bests(state);
    this.renderOn("learnt", [state.learned, run.rounds, isEvaluation(state)], () => this.learntSoFar(state));
    this.renderOn("people", [state.evaluators, run.evaluators, state.evaluator], () => this.others(state));
  }

  /** Renders a part only when what it shows has changed. */
  renderOn(part, parts, render) {
    const key = JSON.stringify(parts);
    if (this.keys[part] === key) return;
    this.keys[part] = key;
    render();
  }

  bests(state) {
    this.bestBox.hidden = isEvaluation(state) || !state.round;
    if (this.bestBox.hidden) return;
    const view = this.marks.now();
    const { round, run } = state;
    const answer = state.answers.find((one) => one.round === round.round);
    const isChosen = (id) => (answer ? answer.best.includes(id) : view.best.has(id));
    const cards = run.prompts.map((prompt) => {
      const kept = round.best.find((image) => image.prompt === prompt)?.id ?? null;
      const fresh = round.images.find((image) => image.prompt === prompt && isChosen(image.id))?.id;
      return { prompt, kept, chosen: fresh ?? (kept && isChosen(kept) ? kept : null) };
    });
    const several = severalPrompts(state);
    const open = scene(state) === "label";
    const shown = cards.filter((card) => card.kept || card.chosen || (open && !several));
    this.bestBox.hidden = !open && !shown.length;
    this.renderOn("bests", [shown, several, open], () => {
      const title = h("h2", { class: "label" }, "Best so far");
      if (several && !shown.length) this.bestBox.replaceChildren(title, empty());
      else this.bestBox.replaceChildren(
        title,
        h("div", { class: several ? "best-list" : "best-one" }, ...shown.map((card) => this.card(card, several, open))),
      );
    });
  }

  card({ prompt, kept, chosen }, several, open) {
    const id = chosen ?? kept;
    if (!id) return empty();
    const replaced = kept && chosen && chosen !== kept;
    const standing = chosen ? "Stays the best" : "Stays the best unless you choose another";
    const words = open ? (replaced || !kept ? "Your new best" : standing) : "";
    const note = h("figcaption", {}, h("span", {}, several ? prompt : words));
    if (replaced && open) {
      note.append(
        h(
          "button",
          {
            type: "button",
            class: "keep",
            "aria-label": "Keep the earlier best",
            title: "Keep the earlier best (k)",
            on: { click: () => this.act.keep(kept) },
          },
          h("img", { src: imageUrl(kept, 64), alt: "" }),
          several ? "" : "Keep the earlier one",
        ),
      );
    }
    return h(
      "figure",
      { class: `best-card${chosen ? " chosen" : ""}` },
      h(
        "button",
        {
          type: "button",
          class: "picture",
          "aria-label": `Best so far${several ? `: ${prompt}` : ""}, zoom`,
          on: { click: () => this.zoom(id) },
        },
        h("img", { src: imageUrl(id, several ? 128 : 256), alt: "" }),
        h("span", { class: "star-badge", "aria-hidden": "true" }, icon("star")),
      ),
      note,
    );
  }

  learntSoFar(state) {
    const { learned, run } = state;
    this.learnt.hidden = isEvaluation(state) || learned.length < 2;
    if (this.learnt.hidden) return;
    const labels = learned.at(-1).labels;
    this.learnt.replaceChildren(
      h("h2", { class: "label" }, "Good images, round by round"),
      shareChart(learned, run.rounds, "small"),
      h("p", { class: "small" }, `${labels} images judged so far`),
    );
  }

  others(state) {
    const { run, evaluator, round } = state;
    const others = state.evaluators.filter((person) => person.name !== evaluator);
    const me = state.evaluators.find((person) => person.name === evaluator) ?? {
      name: evaluator,
      marked: 0,
      submitted: false,
    };
    const evaluators = [me, ...others];
    this.people.hidden = run.evaluators < 2 && others.length === 0;
    if (this.people.hidden) return;
    const total = round?.total ?? 1;
    const rows = evaluators.map((person) => {
      const bar = h("span", { class: "person-bar" }, h("span", { class: "fill" }));
      bar.firstChild.style.setProperty("--done", person.submitted ? 1 : Math.min(person.marked / total, 1));
      const words = person.submitted ? "done" : `${person.marked} marked`;
      return h(
        "li",
        { class: person.submitted ? "submitted" : "" },
        h("span", { class: "person-name" }, person.name === evaluator ? `${person.name} (you)` : person.name),
        h("span", { class: "small" }, words),
        bar,
      );
    });
    const submitted = evaluators.filter((person) => person.submitted).length;
    this.people.replaceChildren(
      h("h2", { class: "label" }, `Evaluators: ${submitted} of ${Math.max(run.evaluators, evaluators.length)} done`),
      h("ul", {}, ...rows),
    );
  }
}

function empty() {
  return h(
    "p",
    { class: "best-empty" },
    "None yet. Press ",
    h("kbd", {}, "b"),
    " on the image you like most, or click its star.",
  );
}
