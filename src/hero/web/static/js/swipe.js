// A finger that moves over an element, far enough and mostly one way.

const FAR = 48; // CSS pixels

/** Calls `onSwipe` with "left", "right", "up" or "down"; `may()` says whether swipes count now. */
export function swipes(element, onSwipe, may = () => true) {
  let from = null;
  element.addEventListener("pointerdown", (event) => {
    from = event.pointerType === "touch" && event.isPrimary && may() ? [event.clientX, event.clientY] : null;
  });
  element.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
    from = null;
    if (Math.max(Math.abs(x), Math.abs(y)) < FAR) return;
    if (Math.abs(x) > Math.abs(y)) onSwipe(x < 0 ? "left" : "right");
    else onSwipe(y < 0 ? "up" : "down");
  });
  element.addEventListener("pointercancel", () => (from = null));
}
