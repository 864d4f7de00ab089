// The keyboard: one table, which the help shows too.

/** What the keys are called; `training`: not in a blind evaluation. */
export const KEYS = [
  { keys: ["←", "→", "↑", "↓"], words: "move" },
  { keys: ["space"], words: "good, or not" },
  { keys: ["b"], words: "the best of its prompt", training: true },
  { keys: ["k"], words: "the earlier best stays", training: true },
  { keys: ["z"], words: "zoom; arrows, space and b work there too" },
  { keys: ["u"], words: "undo" },
  { keys: ["shift", "u"], words: "redo" },
  { keys: ["a"], words: "all good" },
  { keys: ["n"], words: "clear all" },
  { keys: ["enter"], words: "submit; once more to confirm" },
  { keys: ["esc"], words: "back" },
  { keys: ["?"], words: "this help" },
];

const ARROWS = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"]);

/**
 * Listens to keys. `where()` is "label", "confirm", "zoom", "look" or "other"; `act` has one function for each deed.
 */
export function listenToKeys(where, act) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const target = event.target;
    if (target.closest("input:not([type=range]), textarea, select, dialog.question, .menu")) return;
    const place = where();
    const deed = deedOf(event, place, target);
    if (!deed) return;
    const [name, value] = deed;
    if (event.repeat && name !== "move" && name !== "step") {
      event.preventDefault(); // a held key must not mark on and off, or submit twice
      return;
    }
    if (act[name](value) !== false) event.preventDefault();
  });
}

function deedOf(event, place, target) {
  const { key } = event;
  const lower = key.length === 1 ? key.toLowerCase() : key;
  const onControl = target.closest("button, a, input, summary");
  if (lower === "?") return place === "zoom" ? null : ["help"];
  if (place === "zoom") {
    if (key === "ArrowLeft" || key === "ArrowRight") return ["step", key === "ArrowLeft" ? -1 : 1];
    if (key === " " && !onControl?.matches(".zoom-mark, .icon-button:focus-visible")) return ["zoomGood"];
    return { b: ["zoomBest"], z: ["zoomClose"], u: [event.shiftKey ? "redo" : "undo"] }[lower] ?? null;
  }
  if (place === "look") {
    if (ARROWS.has(key) && !onControl) return ["move", key];
    if (lower === "z" || (key === "Enter" && !onControl)) return ["zoom"];
    return key === "Escape" ? ["leave"] : null;
  }
  if (key === "Escape") return place === "confirm" ? ["cancel"] : null;
  if (place !== "label" && place !== "confirm") return null;
  if (key === "Enter") return event.repeat ? ["nothing"] : onControl ? null : ["enter"];
  if (ARROWS.has(key)) return onControl?.matches("input") ? null : ["move", key];
  if (key === " ") return onControl ? null : ["good"];
  return {
    b: ["best"],
    k: ["keep"],
    z: ["zoom"],
    u: [event.shiftKey ? "redo" : "undo"],
    a: ["all"],
    n: ["none"],
  }[lower] ?? null;
}
