// The stream of events from the run. Reconnects by itself, from the last event seen, and says how it stands.

import { eventsUrl } from "./api.js";

const KINDS = [
  "run",
  "round",
  "chunk",
  "suggestions",
  "phase",
  "learned",
  "preview",
  "answer",
  "result",
  "command",
  "evaluators",
  "mine",
];
const WAITS = [300, 700, 1500, 3000, 5000];

/**
 * Opens the stream. `after()` gives the last event seen, `evaluator()` whose own marks it is to tell; `onEvent(event)`;
 * `onOpen()`; `onLost()`. Gives {retry}.
 */
export function listen({ after, evaluator, onEvent, onOpen, onLost }) {
  let source = null;
  let failures = 0;
  let timer = null;

  function open() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(eventsUrl(after(), evaluator()));
    source.onopen = () => {
      failures = 0;
      onOpen();
    };
    source.onerror = lost;
    for (const kind of KINDS) source.addEventListener(kind, (message) => onEvent(kind, JSON.parse(message.data)));
  }

  function lost() {
    source.close();
    onLost();
    clearTimeout(timer);
    timer = setTimeout(open, WAITS[Math.min(failures++, WAITS.length - 1)]);
  }

  open();
  window.addEventListener("online", open);
  return { retry: open };
}
