// Letters to the server, in order: marks and submissions. Kept in the browser until they were answered, so that neither
// a server that is away nor a reload loses one.

import { ApiError, postMarks, postSubmit } from "./api.js";
import { read, write } from "./memory.js";

const WAITS = [400, 800, 1500, 3000];
const MOST_MARKS = 1024;

/**
 * `onAnswer(letters, answer)`, `onRefused(letters, error)` and `onState({away, waiting})` are told what becomes of letters
 * {kind: "marks", round, evaluator, marks} and {kind: "submit", round, evaluator, seconds, seen_none_good, shown, unseen}.
 */
export class Outbox {
  constructor({ onAnswer, onRefused, onState }) {
    Object.assign(this, { onAnswer, onRefused, onState });
    this.letters = [];
    this.key = null;
    this.sending = false;
    this.away = false;
    this.failures = 0;
    this.oneByOne = false;
    this.timer = null;
  }

  /** Letters of this desk that an earlier page could not send are taken up again. */
  restore(desk) {
    if (this.key) return;
    this.key = `outbox.${desk}`;
    this.letters = [...(read(this.key) ?? []), ...this.letters];
    this.flush();
  }

  post(letter) {
    this.letters.push(letter);
    this.keep();
    this.flush();
  }

  /** Tries at once, whatever the waiting time. */
  async flush() {
    if (this.sending || this.letters.length === 0) return;
    clearTimeout(this.timer);
    this.sending = true;
    const batch = this.next();
    try {
      const answer = await send(batch);
      this.failures = 0;
      this.away = false;
      this.drop(batch);
      this.onAnswer(batch, answer);
    } catch (error) {
      if (error instanceof ApiError && error.status !== 401) this.refuse(batch, error);
      else {
        this.away = true;
        this.timer = setTimeout(() => this.flush(), WAITS[Math.min(this.failures++, WAITS.length - 1)]);
      }
    }
    this.sending = false;
    this.keep();
    if (!this.away) this.flush();
  }

  refuse(batch, error) {
    this.away = false;
    if (batch.length > 1) {
      this.oneByOne = true; // one of them is at fault: find out which
      return;
    }
    this.drop(batch);
    this.onRefused(batch, error);
  }

  /** The letters at the front that can travel together. */
  next() {
    const [first, ...rest] = this.letters;
    const batch = [first];
    if (first.kind !== "marks" || this.oneByOne) return batch;
    let size = first.marks.length;
    for (const letter of rest) {
      const fits = letter.kind === "marks" && letter.round === first.round && letter.evaluator === first.evaluator;
      size += fits ? letter.marks.length : 0;
      if (!fits || size > MOST_MARKS) break;
      batch.push(letter);
    }
    return batch;
  }

  drop(batch) {
    this.letters = this.letters.filter((letter) => !batch.includes(letter));
    if (this.letters.length === 0) this.oneByOne = false;
  }

  keep() {
    if (this.key) write(this.key, this.letters.length ? this.letters : null);
    this.onState({ away: this.away, waiting: this.letters.length });
  }
}

function send(batch) {
  const { kind, round, evaluator, ...rest } = batch[0];
  if (kind === "submit") return postSubmit(round, { evaluator, ...rest });
  return postMarks(round, evaluator, batch.flatMap((letter) => letter.marks));
}
