// What the page knows: the run as the server tells it (a fold over events), and how the page itself stands.

const NOTHING = Object.freeze({ marks: {}, best: [], unsure: [], reasons: {}, submitted: false, revision: 0 });

/** State before the first answer; same shape as /api/state, then the page's own. */
export const INITIAL = Object.freeze({
  desk: null,
  run: null,
  phase: null,
  round: null,
  mine: NOTHING,
  evaluators: [],
  learned: [],
  previews: [],
  answers: [],
  result: null,
  last_event: 0,
  evaluator: "me",
  loaded: false,
  connection: "connecting", // connecting | online | away | expired
  unsent: 0,
  past: null, // round shown from the past, or null
  view: "grid", // grid | single
  prompt: null, // the one whose images are shown, or null for all
  suggestions: false,
  revealed: false,
  confirming: false,
});

/** `list` with `item` in place of the one of the same round, in order of rounds. */
function placed(list, item) {
  return [...list.filter((other) => other.round !== item.round), item].sort((a, b) => a.round - b.round);
}

/** The state after `event` ({id, kind, round, body}); pure. Telling it twice changes nothing. */
export function fold(state, { id, kind, round, body }) {
  const next = { ...state, last_event: Math.max(state.last_event, id ?? 0) };
  const current = state.round?.round === round ? state.round : null;
  switch (kind) {
    case "run":
      return { ...next, run: body };
    case "phase":
      return { ...next, phase: { ...body, round: body.round ?? round } };
    case "round":
      if (current) return { ...next, round: { ...current, ...body } };
      return {
        ...next,
        round: { drawn: 0, images: [], suggestions: null, best: [], ...body, round },
        mine: NOTHING,
        evaluators: state.evaluators.map((other) => ({ ...other, marked: 0, submitted: false })),
        confirming: false,
      };
    case "chunk": {
      if (!current) return next;
      const known = new Set(current.images.map((image) => image.id));
      const images = [...current.images, ...body.images.filter((image) => !known.has(image.id))];
      return { ...next, round: { ...current, images, drawn: Math.max(images.length, body.drawn), total: body.total } };
    }
    case "suggestions":
      if (!current) return next;
      return { ...next, round: { ...current, suggestions: { ...current.suggestions, ...body.images } } };
    case "learned":
      return { ...next, learned: placed(state.learned, body.stats) };
    case "preview":
      return { ...next, previews: placed(state.previews, { round, images: body.images }) };
    case "result":
      return { ...next, result: body };
    case "answer":
      return { ...next, answers: placed(state.answers, { round, ...body }) };
    default:
      return next;
  }
}

/** The state with `mine` as the server tells it of a round, unless something newer is known. */
export function withMine(state, round, mine) {
  if (state.round?.round !== round || mine.revision < state.mine.revision) return state;
  return { ...state, mine };
}

const ENDED = new Set(["finished", "stopped", "failed"]);

export const hasEnded = (state) => ENDED.has(state.phase?.phase);
/** All rounds are done: more may be added while it is "finished", not once it has "stopped". */
export const isComplete = ({ phase }) =>
  phase?.phase === "finished" || (phase?.phase === "stopped" && phase.step === "complete");
export const isDrawn = (round) => round.images.length > 0 && round.images.length >= round.total;
export const isEvaluation = (state) => state.run?.mode === "evaluation";
export const severalPrompts = (state) => (state.run?.prompts?.length ?? 0) > 1;

/** How many evaluators have yet to submit before the run goes on. */
export function missingEvaluators({ run, evaluators, evaluator, mine }) {
  const done = evaluators.filter(
    (person) => person.submitted && person.name !== evaluator,
  ).length + (mine.submitted ? 1 : 0);
  return Math.max(0, (run?.evaluators ?? 1) - done);
}

/** Whether a submitted answer can still be taken back: the run has not begun to learn from it. */
export function canReopen({ round, answers, mine }) {
  return Boolean(round && mine.submitted && !answers.some((answer) => answer.round === round.round));
}

/** How commands name the run. */
export function commandName({ folder, name }) {
  const given = folder ?? name;
  return /^[\w@%+=:,./-]+$/.test(given) ? given : `'${given}'`;
}

/** What the page shows: "loading", "label", "training", "end" or "past". */
export function scene(state) {
  if (!state.run) return "loading";
  if (state.past !== null) return "past";
  const { round, mine } = state;
  const answered = round && state.answers.some((answer) => answer.round === round.round);
  if (round && !answered && !mine.submitted && (!hasEnded(state) || isDrawn(round))) return "label";
  return hasEnded(state) ? "end" : "training";
}

/** A holder of the state: `get`, `patch` (an object or a function of the state) and `subscribe`. */
export function createStore(initial) {
  let state = initial;
  let queued = false;
  const listeners = [];
  const tell = () => {
    queued = false;
    for (const listener of listeners) listener(state);
  };
  return {
    get: () => state,
    patch(change) {
      state = typeof change === "function" ? change(state) : { ...state, ...change };
      if (!queued) queueMicrotask(tell);
      queued = true;
    },
    subscribe: (listener) => listeners.push(listener),
  };
}
