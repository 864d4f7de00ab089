// The keyboard: one table, which the help shows too.

/** What the keys are called; `training`: not in a blind evaluation. */
export const KEYS = [
  { keys: ["←", "→", "↑", "↓"], words: "move" },
  { keys: ["space"], words: "good, or not" },
  { keys: ["x"], words: "bad, and on to the next" },
  { keys: ["s"], words: "unsure: left out, and on to the next" },
  { keys: ["b"], words: "the best of its prompt", training: true },
  { keys: ["k"], words: "the earlier best stays", training: true },
  { keys: ["z"], words: "zoom; arrows and these keys work there too" },
  { keys: ["1"], words: "in the zoom: real size, drag to move" },
  { keys: ["w"], words: "why: words kept with the image" },
  { keys: ["v"], words: "one at a time: ← bad, → good, ↑ best, ↓ unsure" },
  { keys: ["r"], words: "what is unmarked, as the model suggests", training: true },
  { keys: ["u"], words: "undo; after submitting, take the answer back" },
  { keys: ["shift", "u"], words: "redo" },
  { keys: ["a"], words: "all good" },
  { keys: ["n"], words: "clear all" },
  { keys: ["shift", "click"], words: "good, from here to the last one" },
  { keys: ["enter"], words: "submit; once more to confirm" },
  { keys: ["esc"], words: "back" },
  { keys: ["?"], words: "this help" },
];

const ARROWS = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"]);

/**
 * Listens to keys. `where()` is "label", "single", "confirm", "zoom", "look", "sent" or "other"; `act` has one function
 * for each deed.
 */
export function listenToKeys(where, act) {
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.defaultPrevented) return;
    const target = event.target;
    const command = event.ctrlKey || event.metaKey;
    if (command && !["z", "y"].includes(event.key.toLowerCase())) return;
    if (target.closest("input:not([type=range]), textarea, select, dialog.question, .menu")) return;
    const place = where();
    const deed = command ? undoing(event, place) : deedOf(event, place, target);
    if (!deed) return;
    const [name, value] = deed;
    if (event.repeat && name !== "move" && name !== "step") {
      event.preventDefault(); // a held key must not mark on and off, or submit twice
      return;
    }
    if (act[name](value) !== false) event.preventDefault();
  });
}

/** Ctrl+Z, Ctrl+Shift+Z and Ctrl+Y, as everywhere. */
function undoing(event, place) {
  if (place === "sent") return event.shiftKey ? null : ["reopen"];
  if (!["label", "single", "confirm", "zoom"].includes(place)) return null;
  return [event.shiftKey || event.key.toLowerCase() === "y" ? "redo" : "undo"];
}

const MARKING = { x: ["bad"], s: ["unsure"], w: ["why"], b: ["best"] };
const ONE_BY_ONE = { ArrowLeft: "bad", ArrowRight: "good", ArrowUp: "best", ArrowDown: "unsure" };

function deedOf(event, place, target) {
  const { key } = event;
  const lower = key.length === 1 ? key.toLowerCase() : key;
  const onControl = target.closest("button, a, input, summary");
  if (lower === "?") return place === "zoom" ? null : ["help"];
  if (place === "zoom") {
    if (key === "ArrowLeft" || key === "ArrowRight") return ["step", key === "ArrowLeft" ? -1 : 1];
    if (key === " " && !onControl?.matches(".zoom-mark, .icon-button:focus-visible")) return ["zoomMark", "toggle"];
    return {
      b: ["zoomMark", "best"],
      x: ["zoomMark", "bad"],
      s: ["zoomMark", "unsure"],
      w: ["zoomMark", "why"],
      1: ["zoomActual"],
      z: ["zoomClose"],
      u: [event.shiftKey ? "redo" : "undo"],
    }[lower] ?? null;
  }
  if (place === "look") {
    if (ARROWS.has(key) && !onControl) return ["move", key];
    if (lower === "z" || (key === "Enter" && !onControl)) return ["zoom"];
    return key === "Escape" ? ["leave"] : null;
  }
  if (key === "Escape") return place === "confirm" ? ["cancel"] : null;
  if (place === "sent") return lower === "u" ? ["reopen"] : null;
  if (!["label", "single", "confirm"].includes(place)) return null;
  if (key === "Enter") return event.repeat ? ["nothing"] : onControl ? null : ["enter"];
  if (place === "single") {
    if (key in ONE_BY_ONE && !onControl?.matches("input")) return ["decide", ONE_BY_ONE[key]];
    if (key === " ") return onControl ? null : ["decide", "good"];
    if (lower in MARKING && lower !== "w") return ["decide", MARKING[lower][0]];
    if (key === "Backspace") return ["undo"];
  }
  if (ARROWS.has(key)) return onControl?.matches("input") ? null : ["move", key];
  if (key === " ") return onControl ? null : ["good"];
  return {
    ...MARKING,
    k: ["keep"],
    v: ["view"],
    r: ["rest"],
    z: ["zoom"],
    u: [event.shiftKey ? "redo" : "undo"],
    a: ["all"],
    n: ["none"],
  }[lower] ?? null;
}
