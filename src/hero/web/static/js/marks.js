// What this person has said about the round: confirmed marks with unsent ones over them, so that a click shows at once;
// how it is taken back (undo, or a refusal); and what a suggestion says where the person has said nothing.
//
// An image is good, bad, unsure, or unmarked; an unmarked one was seen or not. Submitting makes unmarked ones bad.

import { readHere, writeHere } from "./memory.js";
import { isEvaluation } from "./state.js";

const MOST_UNDONE = 200; // steps that a reload remembers

/**
 * `store` holds the state, `outbox` what is not confirmed yet, `seen` what was looked at; `onChange(ids, why)` is told
 * which images an undo, a redo or a refusal changed.
 */
export class Marks {
  constructor(store, outbox, seen, onChange) {
    Object.assign(this, { store, outbox, seen, onChange });
    this.restart();
  }

  /** A new round, or another person: nothing to undo but what a reload has interrupted, and the clock starts. */
  restart() {
    const kept = this.round && readHere("undo");
    const same = kept && kept.key === this.key;
    this.done = same ? kept.done : [];
    this.undone = same ? kept.undone : [];
    this.watch = new Stopwatch();
    this.roundWatch = new Stopwatch();
  }

  get round() {
    return this.store.get().round;
  }

  /** Of this desk, round and person. */
  get key() {
    const { desk, round, evaluator } = this.store.get();
    return `${desk}/${round?.round}/${evaluator}`;
  }

  get suggestions() {
    const { suggestions, round } = this.store.get();
    return (suggestions && round?.suggestions) || {};
  }

  /** {marks: {id: verdict}, best, unsure, unsent: Sets of ids, reasons: {id: words}} as the person sees them. */
  now() {
    const { mine, round, evaluator } = this.store.get();
    const view = {
      marks: { ...mine.marks },
      best: new Set(mine.best),
      unsure: new Set(mine.unsure),
      reasons: { ...mine.reasons },
      unsent: new Set(),
    };
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
    if (kind === "reason") {
      if (value === null) delete view.reasons[id];
      else view.reasons[id] = value;
    } else if (kind === "unsure") {
      if (value === null) view.unsure.delete(id);
      else {
        view.unsure.add(id);
        delete view.marks[id];
        view.best.delete(id);
      }
    } else if (kind === "verdict") {
      if (value === null) delete view.marks[id];
      else {
        view.marks[id] = value;
        view.unsure.delete(id);
      }
      if (value !== "good") view.best.delete(id);
    } else if (value === null) view.best.delete(id);
    else {
      for (const other of this.rivals(id)) view.best.delete(other);
      view.best.add(id);
      if (this.isNew(id)) {
        view.marks[id] = "good";
        view.unsure.delete(id);
      }
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

  /** "good", "bad", "unsure" or null, a suggestion where nothing was said. */
  verdict(id, view = this.now()) {
    return view.marks[id] ?? (view.unsure.has(id) ? "unsure" : (this.suggestions[id]?.verdict ?? null));
  }

  /** Whether the person has said something, or a suggestion stands. */
  isOpen(id, view = this.now()) {
    return this.verdict(id, view) === null;
  }

  /**
   * {good, bad, unsure, open, unseen, best, kept, total}. `open` are unmarked, those to be drawn included; `unseen` have
   * no mark of the person's own and were never in view; `kept` are best images so far that stay.
   */
  counts(view = this.now()) {
    const { images, total } = this.round;
    const verdicts = images.map((image) => this.verdict(image.id, view));
    const [good, bad, unsure] = ["good", "bad", "unsure"].map((one) => verdicts.filter((own) => own === one).length);
    const all = Math.max(total, images.length);
    return {
      good,
      bad,
      unsure,
      open: all - good - bad - unsure,
      unseen: this.unseen(view).length,
      best: images.filter((image) => view.best.has(image.id)).length,
      kept: this.kept(view).length,
      total: all,
    };
  }

  /** Images without a mark of the person's own that were never in view. */
  unseen(view = this.now()) {
    return this.ids().filter((id) => !(id in view.marks) && !view.unsure.has(id) && !this.seen.has(id));
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

  toggleBad(id) {
    return this.act([this.verdictMark(id, this.now().marks[id] === "bad" ? null : "bad")]);
  }

  toggleUnsure(id) {
    return this.act([{ image_id: id, kind: "unsure", value: this.now().unsure.has(id) ? null : "yes" }]);
  }

  /** One verdict for several images; those that have it already are left alone. */
  setAll(ids, value) {
    const view = this.now();
    return this.act(ids.filter((id) => view.marks[id] !== value).map((id) => this.verdictMark(id, value)));
  }

  /** Why an image is marked as it is; null takes the reason back. */
  say(id, words) {
    return this.act([{ image_id: id, kind: "reason", value: words }]);
  }

  /** What was not marked is marked as the model suggests, whether or not suggestions are shown. */
  restAsSuggested() {
    const view = this.now();
    const suggested = this.round.suggestions ?? {};
    const rest = this.ids().filter((id) => !(id in view.marks) && !view.unsure.has(id) && suggested[id]);
    const marks = rest.map((id) => ({ ...this.verdictMark(id, suggested[id].verdict), asSuggested: true }));
    return this.act(marks) ? rest.length : 0;
  }

  toggleBest(id) {
    return this.act([{ image_id: id, kind: "best", value: this.now().best.has(id) ? null : "yes" }]);
  }

  /** The best so far of a prompt stays: whatever replaced it is withdrawn. */
  keep(id) {
    return this.act([{ image_id: id, kind: "best", value: "yes" }]);
  }

  all(ids = this.ids()) {
    const view = this.now();
    return this.act(
      ids.filter((id) => this.verdict(id, view) !== "good").map((id) => this.verdictMark(id, "good")),
    );
  }

  none(ids = this.ids()) {
    const view = this.now();
    const marked = ids.filter((id) => view.marks[id] || this.suggestions[id]?.verdict === "good");
    return this.act([
      ...marked.filter((id) => (view.marks[id] ?? null) !== this.off(id)).map(
        (id) => this.verdictMark(id, this.off(id)),
      ),
      ...ids.filter((id) => view.unsure.has(id)).map((id) => ({ image_id: id, kind: "unsure", value: null })),
    ]);
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
    for (const mark of marks) this.seen.add(mark.image_id);
    this.done.push({ letter, marks, back: difference(this.now(), before) });
    this.undone = [];
    this.remember();
    return true;
  }

  /** What can be undone outlives a reload of this window. */
  remember() {
    const plain = (entries) => entries.slice(-MOST_UNDONE).map(({ marks, back }) => ({ marks, back }));
    writeHere("undo", { key: this.key, done: plain(this.done), undone: plain(this.undone) });
  }

  undo() {
    const entry = this.done.pop();
    if (!entry) return false;
    this.send(entry.back);
    this.undone.push(entry);
    this.remember();
    this.onChange(idsOf(entry.back), "undo");
    return true;
  }

  redo() {
    const entry = this.undone.pop();
    if (!entry) return false;
    entry.letter = this.send(entry.marks);
    this.done.push(entry);
    this.remember();
    this.onChange(idsOf(entry.marks), "redo");
    return true;
  }

  send(marks) {
    const seconds = Math.round((this.watch.lap() / marks.length) * 1000) / 1000;
    const told = marks.map((mark) => ({
      image_id: mark.image_id,
      kind: mark.kind,
      value: mark.value,
      suggested: (mark.kind === "verdict" && this.told(mark)) || null,
      seconds,
    }));
    const letter = { kind: "marks", round: this.round.round, evaluator: this.store.get().evaluator, marks: told };
    this.outbox.post(letter);
    return letter;
  }

  /** What the person was shown as a suggestion before they said this, if anything. */
  told({ image_id: id, asSuggested = false }) {
    return (asSuggested ? this.round.suggestions : this.suggestions)?.[id]?.verdict;
  }

  /** The answer: suggestions that stand and bests that stay are said now, then the round is closed. */
  submit(seenNoneGood) {
    const unseen = this.unseen();
    const view = this.now();
    const { evaluator, round } = this.store.get();
    const standing = this.ids().filter((id) => !(id in view.marks) && !view.unsure.has(id) && this.suggestions[id]);
    const said = [
      ...standing.map((id) => this.verdictMark(id, this.suggestions[id].verdict)),
      ...this.kept(view).filter((kept) => !view.best.has(kept.id)).map(
        (kept) => ({ image_id: kept.id, kind: "best", value: "yes" }),
      ),
    ];
    if (said.length) this.send(said);
    const seconds = Math.round(this.roundWatch.lap() * 10) / 10;
    const last = this.now();
    const having = (verdict) => this.ids().filter((id) => last.marks[id] === verdict);
    const shown = { good: having("good"), bad: having("bad"), best: [...last.best], unsure: [...last.unsure] };
    this.outbox.post({
      kind: "submit",
      round: round.round,
      evaluator,
      seconds,
      seen_none_good: seenNoneGood,
      shown,
      unseen,
    });
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
    this.remember();
    this.onChange(letters.flatMap((letter) => (letter.marks ? idsOf(letter.marks) : [])), "refused");
  }
}

const idsOf = (marks) => [...new Set(marks.map((mark) => mark.image_id))];

/** Marks that lead from the view `from` to the view `to`. */
function difference(from, to) {
  const differing = (before, after) => {
    const ids = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...ids].filter((id) => before[id] !== after[id]);
  };
  const doubted = [...to.unsure].filter((id) => !from.unsure.has(id));
  const settled = [...from.unsure].filter((id) => !to.unsure.has(id));
  const verdicts = differing(from.marks, to.marks).filter((id) => !doubted.includes(id));
  const withdrawn = [...from.best].filter((id) => !to.best.has(id));
  const restored = [...to.best].filter((id) => !from.best.has(id));
  return [
    ...settled.filter((id) => !to.marks[id]).map((id) => ({ image_id: id, kind: "unsure", value: null })),
    ...doubted.map((id) => ({ image_id: id, kind: "unsure", value: "yes" })),
    ...differing(from.reasons, to.reasons).map(
      (id) => ({ image_id: id, kind: "reason", value: to.reasons[id] ?? null }),
    ),
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
