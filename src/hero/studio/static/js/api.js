// The studio's JSON API: answers come back parsed, failures are a Refused or an Away. All addresses are relative.

/** The studio refused: a sentence that says what to do, and the field at fault if there is one. */
export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `The studio answered ${status}.`);
    this.status = status;
    this.code = error?.code ?? "unknown";
    this.field = error?.field ?? null;
  }
}

/** No answer: the studio is away. */
export class Away extends Error {}

async function call(method, path, body, timeout = 30000) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(timeout),
    });
  } catch {
    throw new Away("The studio does not answer. Is it still running?");
  }
  const parsed = await response.json().catch(() => null);
  if (response.ok) return parsed;
  throw new Refused(response.status, parsed?.error);
}

const at = (name) => `api/runs/${encodeURIComponent(name)}`;

export const getOptions = () => call("GET", "api/options");
export const getRuns = () => call("GET", "api/runs");
export const getRun = (name) => call("GET", at(name));
export const getForm = (name) => call("GET", `${at(name)}/form`);
export const getRound = (name, round) => call("GET", `${at(name)}/rounds/${round}`);
export const check = (wish) => call("POST", "api/check", wish);
export const memory = (wish) => call("POST", "api/memory", wish, 1000000);
export const create = (wish, start) => call("POST", "api/runs", { wish, start });
export const act = (name, deed, more = {}) => call("POST", `${at(name)}/do`, { do: deed, ...more });
export const reorder = (order) => call("POST", "api/queue", { order });
export const draw = (name, wanted) => call("POST", `${at(name)}/draws`, wanted);
export const exportAs = (name, kind) => call("POST", `${at(name)}/exports`, { kind });
export const evaluate = (name, blind) => call("POST", `${at(name)}/evaluate`, { blind });
export const stopJob = (name, job) => call("POST", `${at(name)}/stop-job`, { job });

export async function getLog(name) {
  const response = await fetch(`${at(name)}/log`);
  return response.ok ? response.text() : "";
}

const WIDTHS = [128, 256, 512, 1024];

function wide(path, pixels) {
  const wanted = pixels * Math.min(window.devicePixelRatio || 1, 2);
  return `${path}?width=${WIDTHS.find((width) => width >= wanted) ?? WIDTHS.at(-1)}`;
}

export const imageUrl = (name, id, pixels) => wide(`${at(name)}/images/${id}`, pixels);
export const evaluatedUrl = (name, part, index, pixels) => wide(`${at(name)}/evaluation/${part}/${index}`, pixels);
export const drawnUrl = (name, id, strength, index, pixels) =>
  wide(`${at(name)}/draws/${id}/${strength}/${index}`, pixels);
export const fileUrl = (name, kind) => `${at(name)}/files/${kind}`;
export const reportUrl = (name) => `${at(name)}/report`;
export const exportUrl = (name, kind, file) => `${at(name)}/exports/${kind}/${encodeURIComponent(file)}`;
export const labelUrl = (name) => `runs/${encodeURIComponent(name)}/label/`;
export const blindUrl = (name) => `runs/${encodeURIComponent(name)}/blind/`;

/** Calls `onChange` whenever something has changed; `onState(away)` says whether the studio answers. */
export function listen(onChange, onState) {
  const source = new EventSource("api/changes");
  source.addEventListener("changed", () => onChange());
  source.onopen = () => onState(false);
  source.onerror = () => onState(true);
}
