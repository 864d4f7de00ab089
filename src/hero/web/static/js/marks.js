// What this person has said about the round: confirmed marks with unsent ones over them, so that a click shows at once;
// how it is taken back (undo, or a refusal); and what a suggestion says where the person has said nothing.

import { isEvaluation } from "./state.js";

/**
 * `store` holds the state, `outbox` what is not confirmed yet; `onChange(ids, why)` is told which images an undo, a redo
 * or a refusal changed.
 */
export class Marks {
  constructor(store, outbox, onChange) {
    Object.assign(this, { store, outbox, onChange });
    this.restart();
  }

  /** A new round, or another person: nothing to undo, and the clock starts. */
  restart() {
    this.done = [];
    this.undone = [];
    this.watch = new Stopwatch();
    this.roundWatch = new Stopwatch();
  }

  get round() {
    return this.store.get().round;
  }

  get suggestions() {
    const { suggestions, round } = this.store.get();
    return (suggestions && round?.suggestions) || {};
  }

  /** {marks: {id: verdict}, best: Set of ids, unsent: Set of ids} as the person sees them. */
  now() {
    const { mine, round, evaluator } = this.store.get();
    const view = { marks: { ...mine.marks }, best: new Set(mine.best), unsent: new Set() };
    for (const letter of this.outbox.letters) {
      if (letter.kind !== "marks" || letter.round !== round?.round || letter.evaluator !== evaluator) continue;
      for (const mark of letter.marks) {
        this.apply(view, mark);
        view.unsent.add(mark.image_id);
      }
    }
    return view;
  }

  /** The rules of the store: a bad or unmarked image is not the best; a new best withdraws the old one of its prompt. */
  apply(view, { image_id: id, kind, value }) {
    if (kind === "verdict") {
      if (value === null) delete view.marks[id];
      else view.marks[id] = value;
      if (value !== "good") view.best.delete(id);
    } else if (value === null) view.best.delete(id);
    else {
      for (const other of this.rivals(id)) view.best.delete(other);
      view.best.add(id);
      if (this.isNew(id)) view.marks[id] = "good";
    }
  }

  isNew(id) {
    return this.round.images.some((image) => image.id === id);
  }

  /** Other images of the same prompt, the best so far included. */
  rivals(id) {
    const all = [...this.round.best, ...this.round.images];
    const prompt = all.find((image) => image.id === id)?.prompt;
    return all.filter((image) => image.prompt === prompt && image.id !== id).map((image) => image.id);
  }

  /** "good", "bad" or null, a suggestion where nothing was said. */
  verdict(id, view = this.now()) {
    return view.marks[id] ?? this.suggestions[id]?.verdict ?? null;
  }

  /** {good, best, rest, total, kept}: kept counts best images so far that stay. */
  counts(view = this.now()) {
    const { images, total } = this.round;
    const good = images.filter((image) => this.verdict(image.id, view) === "good").length;
    const best = images.filter((image) => view.best.has(image.id)).length;
    return {
      good,
      best,
      rest: Math.max(total, images.length) - good,
      total: Math.max(total, images.length),
      kept: this.kept(view).length,
    };
  }

  /** Best images so far that no new one has replaced. */
  kept(view = this.now()) {
    return this.round.best.filter((kept) => !this.rivals(kept.id).some((id) => view.best.has(id)));
  }

  /** Prompts that have a good image and neither a best one nor one from before. */
  promptsWithoutBest(view = this.now()) {
    if (isEvaluation(this.store.get())) return [];
    const { images, best } = this.round;
    const decided = new Set(
      [...best, ...images.filter((image) => view.best.has(image.id))].map((image) => image.prompt),
    );
    const good = images.filter((image) => this.verdict(image.id, view) === "good").map((image) => image.prompt);
    return [...new Set(good)].filter((prompt) => !decided.has(prompt));
  }

  toggleGood(id) {
    const good = this.verdict(id) === "good";
    return this.act([this.verdictMark(id, good ? this.off(id) : "good")]);
  }

  toggleBest(id) {
    return this.act([{ image_id: id, kind: "best", value: this.now().best.has(id) ? null : "yes" }]);
  }

  /** The best so far of a prompt stays: whatever replaced it is withdrawn. */
  keep(id) {
    return this.act([{ image_id: id, kind: "best", value: "yes" }]);
  }

  all() {
    const view = this.now();
    return this.act(
      this.ids().filter((id) => this.verdict(id, view) !== "good").map((id) => this.verdictMark(id, "good")),
    );
  }

  none() {
    const view = this.now();
    return this.act(
      this.ids().filter((id) => this.verdict(id, view) === "good").map((id) => this.verdictMark(id, this.off(id))),
    );
  }

  /** Not good: unsaid again, or said to be bad where a suggestion says good. */
  off(id) {
    return this.suggestions[id]?.verdict === "good" ? "bad" : null;
  }

  ids() {
    return this.round.images.map((image) => image.id);
  }

  verdictMark(image_id, value) {
    return { image_id, kind: "verdict", value };
  }

  act(marks) {
    if (!marks.length) return false;
    const before = this.now();
    const letter = this.send(marks);
    this.done.push({ letter, marks, back: difference(this.now(), before) });
    this.undone = [];
    return true;
  }

  undo() {
    const entry = this.done.pop();
    if (!entry) return false;
    this.send(entry.back);
    this.undone.push(entry);
    this.onChange(idsOf(entry.back), "undo");
    return true;
  }

  redo() {
    const entry = this.undone.pop();
    if (!entry) return false;
    entry.letter = this.send(entry.marks);
    this.done.push(entry);
    this.onChange(idsOf(entry.marks), "redo");
    return true;
  }

  send(marks) {
    const seconds = Math.round((this.watch.lap() / marks.length) * 1000) / 1000;
    const told = marks.map((mark) => ({
      ...mark,
      suggested: (mark.kind === "verdict" && this.suggestions[mark.image_id]?.verdict) || null,
      seconds,
    }));
    const letter = { kind: "marks", round: this.round.round, evaluator: this.store.get().evaluator, marks: told };
    this.outbox.post(letter);
    return letter;
  }

  /** The answer: suggestions that stand and bests that stay are said now, then the round is closed. */
  submit(seenNoneGood) {
    const view = this.now();
    const { evaluator, round } = this.store.get();
    const standing = this.ids().filter((id) => !(id in view.marks) && this.suggestions[id]);
    const said = [
      ...standing.map((id) => this.verdictMark(id, this.suggestions[id].verdict)),
      ...this.kept(view).filter((kept) => !view.best.has(kept.id)).map(
        (kept) => ({ image_id: kept.id, kind: "best", value: "yes" }),
      ),
    ];
    if (said.length) this.send(said);
    const seconds = Math.round(this.roundWatch.lap() * 10) / 10;
    this.outbox.post({ kind: "submit", round: round.round, evaluator, seconds, seen_none_good: seenNoneGood });
  }

  /** The answer is on its way, or arrived. */
  isSubmitted() {
    const { mine, round, evaluator } = this.store.get();
    const leaving = (letter) => letter.kind === "submit" && letter.round === round?.round && letter.evaluator === evaluator;
    return mine.submitted || this.outbox.letters.some(leaving);
  }

  /** Letters were refused: what they said is taken back, and not offered for undo. */
  refused(letters) {
    const gone = new Set(letters);
    this.done = this.done.filter((entry) => !gone.has(entry.letter));
    this.onChange(letters.flatMap((letter) => (letter.marks ? idsOf(letter.marks) : [])), "refused");
  }
}

const idsOf = (marks) => [...new Set(marks.map((mark) => mark.image_id))];

/** Marks that lead from the view `from` to the view `to`. */
function difference(from, to) {
  const ids = new Set([...Object.keys(from.marks), ...Object.keys(to.marks)]);
  const verdicts = [...ids].filter((id) => from.marks[id] !== to.marks[id]);
  const withdrawn = [...from.best].filter((id) => !to.best.has(id));
  const restored = [...to.best].filter((id) => !from.best.has(id));
  return [
    ...verdicts.map((id) => ({ image_id: id, kind: "verdict", value: to.marks[id] ?? null })),
    ...withdrawn.map((id) => ({ image_id: id, kind: "best", value: null })),
    ...restored.map((id) => ({ image_id: id, kind: "best", value: "yes" })),
  ];
}

let hidden = 0; // milliseconds that the page was out of sight
let hiddenSince = document.hidden ? performance.now() : null;
document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenSince = performance.now();
  else if (hiddenSince !== null) {
    hidden += performance.now() - hiddenSince;
    hiddenSince = null;
  }
});

/** Counts the time that the page is in view. */
class Stopwatch {
  constructor() {
    this.start = this.now();
  }

  now() {
    return (hiddenSince ?? performance.now()) - hidden;
  }

  /** Seconds since the last lap. */
  lap() {
    const now = this.now();
    const seconds = Math.max(0, now - this.start) / 1000;
    this.start = now;
    return seconds;
  }
}
