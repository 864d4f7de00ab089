// Words for states and numbers.

import { count, duration } from "../../page/js/dom.js";

export const percent = (share) => `${Math.round(share * 100)}\u202f%`;

/** "1.2 GB". */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (count >= 1000 && at < units.length - 1) ((count /= 1000), at++);
  return `${count < 10 && at > 0 ? count.toFixed(1) : Math.round(count)} ${units[at]}`;
}

/** "3 minutes ago". */
export function ago(seconds) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  const [unit, size] =
    past < 90 ? ["second", 1] : past < 5400 ? ["minute", 60] : past < 129600 ? ["hour", 3600] : ["day", 86400];
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(-Math.round(past / size), unit);
}

const PLACES = ["", "next in line", "second in line", "third in line"];

/** What the run does, in a few words. */
export function doing(run) {
  const { what, done, total, round, eta_seconds: eta } = run.doing;
  const left = eta ? `, ${duration(eta)} left` : "";
  const where = run.rounds ? `round ${Math.max(round, 1)} of ${run.rounds}` : "";
  switch (what) {
    case "new":
      return "Not started";
    case "queued":
      return `Waits for its turn: ${PLACES[run.place] ?? `number ${run.place} in line`}`;
    case "starting":
      return "Starting";
    case "drawing":
      return `Drawing, ${where}${left}`;
    case "waiting":
      return `Waits for marks, ${where}`;
    case "learning":
      return `Learning, ${where}${left}`;
    case "paused":
      return `Paused in ${where}`;
    case "evaluating":
      return `Measuring${total ? ` ${done} of ${total}` : ""}${left}`;
    case "lingering":
      return "All rounds are done; it waits in case you want more";
    case "stopped":
      return `Stopped after ${run.finished_rounds} of ${run.rounds} rounds`;
    case "finished":
      return `Finished after ${count(run.finished_rounds, "round")}`;
    default:
      return "Failed";
  }
}

/** How far the step is that it is in, from 0 to 1; null if that is not known or nothing moves. */
export function progress(run) {
  const { what, done, total, active } = run.doing;
  if (!active || !["drawing", "learning", "evaluating"].includes(what)) return null;
  return total ? done / total : null;
}

/** The wish in words: the criterion, or the task's title, or the prompts. */
export const wishOf = (run) => run.criterion || run.title || (run.prompts ?? []).join(" · ") || run.name;

/** The last part of a model's path. */
export const modelName = (model) =>
  model === "tinyworld" ? "tiny world" : model.replace(/\/+$/, "").split("/").at(-1);

/** A value of a setting as text. */
export function shown(value) {
  if (value === null || value === undefined) return "none";
  if (Array.isArray(value)) return value.join(", ") || "none";
  if (typeof value === "boolean") return value ? "on" : "off";
  return String(value);
}

/** A folder's name for a wish, not yet taken. */
export function nameFor(words, taken) {
  const base =
    words
      .normalize("NFKD")
      .replace(/[^\p{L}\p{N} -]/gu, "")
      .trim()
      .split(/\s+/)
      .slice(0, 6)
      .join("-")
      .toLowerCase()
      .slice(0, 48)
      .replace(/-+$/, "") || "run";
  let name = base;
  for (let count = 2; taken.has(name); count++) name = `${base}-${count}`;
  return name;
}
