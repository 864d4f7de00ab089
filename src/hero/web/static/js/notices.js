// Lines over the images that say what is special: the server is away, images are blurred, the run is paused.

import { count, h, rich } from "./dom.js";
import { commandName, hasEnded } from "./state.js";

/** Writes the notices that the state calls for into `box`, when they have changed. */
export function showNotices(box, state, current, act) {
  const list = noticesOf(state, current);
  const key = JSON.stringify(list);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...list.map((notice) => element(notice, act)));
}

/** [{tone, words, deed}]: `deed` is a button's label and what it does. */
function noticesOf({ connection, unsent, phase, run, revealed, suggestions, round, ...rest }, current) {
  const list = [];
  const add = (tone, words, deed = null) => list.push({ tone, words, deed });
  const kept = unsent
    ? `${count(unsent, "change is", "changes are")} kept in this browser and sent as soon as it is back; go on marking.`
    : "Go on marking: everything is kept in this browser until it is back.";
  const over = current === "end" && !unsent;
  if (connection === "away" && over) {
    add("info", `The run has ended, and its page is closed. \`hero label ${commandName(run)}\` shows it again.`);
  } else if (connection === "away") add("away", `The server is away. ${kept}`);
  if (connection === "expired") {
    add(
      "away",
      "Another server answers here, or this page is signed out. Open the address that hero prints, the one with " +
        "the token in it; what you marked is kept in this browser.",
    );
  }
  if (run?.sensitive && !revealed) {
    add("veil", "The images may be upsetting or explicit, so they are blurred.", ["Show images", "reveal"]);
  }
  if (current !== "label") return list;
  if (phase?.phase === "paused") {
    add(
      "info",
      "The run is paused. You can mark and submit; it learns once it goes on.",
      ["Go on", "command", "resume"],
    );
  }
  if (hasEnded({ phase, ...rest })) {
    add("info", `The run has stopped. Your answer is stored, and learnt from after: \`hero resume ${commandName(run)}\``);
  }
  if (suggestions && round.suggestions) {
    const words = "Images are marked as the model would, the least certain first.";
    add("quiet", `${words} Correct what is wrong: what stands when you submit counts as yours.`);
  }
  return list;
}

function element({ tone, words, deed }, act) {
  const line = h("div", { class: `notice ${tone}`, role: tone === "away" ? "alert" : null }, h("p", {}, ...rich(words)));
  if (deed) {
    const [label, name, ...given] = deed;
    line.append(
      h("button", { type: "button", class: "plain-button", on: { click: () => act[name](...given) } }, label),
    );
  }
  return line;
}
