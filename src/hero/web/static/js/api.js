// The JSON API (docs/api.md): one function for each call. Answers come back parsed; failures are an ApiError or Away.
// Addresses are relative to the page, which a proxy may serve below a path of its own.

/** The server refused: `status`, the error's `code`, and a message that says what to do. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** No answer: the server is away, or was too busy. The same call can be made again. */
export class Away extends Error {}

const TIMEOUT = 15000;

async function call(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT),
    });
  } catch {
    throw new Away("no answer");
  }
  const parsed = await response.json().catch(() => null);
  if (response.ok) return parsed;
  if (response.status >= 500 || response.status === 429) throw new Away(`status ${response.status}`);
  const error = parsed?.error ?? {};
  throw new ApiError(
    response.status,
    error.code ?? "unknown",
    error.message ?? `The server answered ${response.status}.`,
  );
}

const query = (evaluator) => `evaluator=${encodeURIComponent(evaluator)}`;

export const getState = (evaluator) => call("GET", `api/state?${query(evaluator)}`);
export const getRound = (round, evaluator) => call("GET", `api/rounds/${round}?${query(evaluator)}`);
export const postMarks = (round, evaluator, marks) => call("POST", `api/rounds/${round}/marks`, { evaluator, marks });
export const postSubmit = (round, body) => call("POST", `api/rounds/${round}/submit`, body);
export const postReopen = (round, evaluator) => call("POST", `api/rounds/${round}/reopen`, { evaluator });
export const postCommand = (kind, body, evaluator) => call("POST", "api/commands", { kind, body, evaluator });

const WIDTHS = [128, 256, 512, 1024];

/** Width to ask for, so that an image is sharp at `pixels` CSS pixels on this screen. */
export function imageWidth(pixels) {
  const wanted = pixels * Math.min(window.devicePixelRatio || 1, 2);
  return WIDTHS.find((width) => width >= wanted) ?? WIDTHS.at(-1);
}

export const eventsUrl = (after, evaluator) => `api/events?after=${after}&${query(evaluator)}`;
export const reportUrl = "api/report";
export const loraUrl = "api/lora";
export const fullImageUrl = (id) => `api/images/${id}`;
export const imageUrl = (id, pixels) => `api/images/${id}?width=${imageWidth(pixels)}`;
