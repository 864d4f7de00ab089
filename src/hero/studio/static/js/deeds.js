// What can be done with a run: which buttons and menu lines it has at this moment, and what they do.

import { toast } from "../../page/js/dom.js";
import { act } from "./api.js";
import { askNumber, askText, confirm } from "./ask.js";
import { nameFor } from "./words.js";

/** Does it, and says so if it is refused; gives whether it was done. */
export async function tried(work) {
  try {
    await work();
    return true;
  } catch (error) {
    toast(error.message, "error");
    return false;
  }
}

const go = (hash) => {
  location.hash = hash;
};

export const runHash = (name) => `#/run/${encodeURIComponent(name)}`;

/** The buttons that fit what the run does: [words, what to do, whether it is the main one]. */
export function buttonsOf(run) {
  const { what, active, ours } = run.doing;
  const people = run.evaluator === "web";
  const send = (deed, more) => () => tried(() => act(run.name, deed, more));
  const found = [];
  if (run.broken) return found;
  if (active) {
    if (people && !["starting", "evaluating"].includes(what)) {
      if (what === "paused") found.push(["Go on", send("go-on"), true]);
      else if (what === "lingering") found.push(["More rounds…", () => more(run), true], ["Finish", send("finish")]);
      else found.push(["Pause", send("pause")]);
    }
    if (what !== "lingering" && (people || ours)) found.push(["Stop", () => stop(run)]);
    return found;
  }
  if (what === "queued") {
    found.push(["Start now", send("start", { now: true })], ["Take out of the line", send("unqueue")]);
  } else if (what === "finished") {
    found.push(["More rounds…", () => more(run)]);
  } else {
    found.push([what === "new" ? "Start" : what === "failed" ? "Try again" : "Go on", send("start"), true]);
  }
  return found;
}

/** The lines of the run's menu: [words, what to do]. */
export function menuOf(run, { backTo = [], names = new Set() } = {}) {
  const lines = [];
  if (!run.broken) lines.push(["Copy with changes…", () => go(`#/new/${encodeURIComponent(run.name)}`)]);
  if (!run.broken && run.doing.what !== "new") {
    lines.push(["More rounds…", () => more(run)]);
  }
  for (const round of backTo) lines.push([`Go back to round ${round}…`, () => goBack(run, round, names)]);
  if (!run.doing.active) lines.push(["Rename…", () => rename(run)]);
  lines.push([
    run.archived ? "Back from the archive" : "Archive",
    () => tried(() => act(run.name, run.archived ? "unarchive" : "archive")),
  ]);
  if (run.doing.active && run.doing.ours) lines.push(["End at once…", () => kill(run)]);
  if (!run.doing.active) lines.push(["Delete…", () => remove(run)]);
  return lines;
}

async function stop(run) {
  const words =
    run.doing.what === "starting" || run.doing.what === "evaluating"
      ? "It ends now; the model and every label are kept, and it can go on later."
      : "It ends after the step that it is in. The model and every label are kept, and it can go on later.";
  if (await confirm(`Stop ${run.name}?`, words, "Stop")) await tried(() => act(run.name, "stop"));
}

async function kill(run) {
  const words =
    "For when it does not react to a stop. What it was computing is lost; labels and finished steps are kept.";
  if (await confirm(`End ${run.name} at once?`, words, "End it")) await tried(() => act(run.name, "kill"));
}

async function more(run) {
  const words = "They come after those that were planned, with the same settings.";
  const rounds = await askNumber("More rounds", "Rounds to add", 4, "Add them", words);
  if (rounds) await tried(() => act(run.name, "more-rounds", { rounds }));
}

async function rename(run) {
  const name = await askText("Another name", "Name", run.name, "Rename", "Also the name of its folder.");
  if (!name || name === run.name) return;
  if ((await tried(() => act(run.name, "rename", { name }))) && location.hash.startsWith(runHash(run.name))) {
    go(runHash(name));
  }
}

async function remove(run) {
  const words = "It goes to the folder .trash beside the runs, labels and LoRA included; nothing empties that but you.";
  if (await confirm(`Delete ${run.name}?`, words, "Delete")) {
    if (await tried(() => act(run.name, "delete"))) go("#/");
  }
}

async function goBack(run, round, names) {
  const words =
    `A new run that has learnt from rounds 1 to ${round} alone. It draws round ${round + 1} again, for you to judge ` +
    `anew. ${run.name} stays as it is.`;
  const suggested = nameFor(`${run.name} from ${round}`, names);
  const name = await askText(`Go back to round ${round}`, "Name of the new run", suggested, "Make it", words);
  if (name && (await tried(() => act(run.name, "go-back", { round, name })))) go(runHash(name));
}
