/** The service, asked in its own terms (`/openapi.json`). */

/** What the service, or the way to it, answered instead. */
export class Refused extends Error {
  /** @param {number} status 0: it did not answer @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Names and values of a query; lists become several, empty ones nothing. @param {object} [query] */
export function queryOf(query = {}) {
  const pairs = Object.entries(query).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
  return new URLSearchParams(pairs.filter(([, one]) => one !== null && one !== undefined && one !== "")).toString();
}

async function send(path, query, options) {
  const asked = queryOf(query);
  let answer;
  try {
    answer = await fetch(`api/${path}${asked ? `?${asked}` : ""}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service does not answer; is `embedstore serve` still running?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Refused(answer.status, said?.error?.message ?? `the service answered ${answer.status}`);
}

const json = (body) => ({ body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

/** Read. @param {string} path @param {object} [query] @param {AbortSignal} [signal] */
export const get = async (path, query, signal) => (await send(path, query, { signal })).json();

/** Ask with a body of plain data. @param {string} path @param {object} body @param {object} [query] @param {AbortSignal} [signal] */
export const post = async (path, body, query, signal) =>
  (await send(path, query, { method: "POST", signal, ...json(body) })).json();

/** Send a file as it is. @param {string} path @param {Blob} file @param {object} [query] @param {AbortSignal} [signal] */
export const upload = async (path, file, query, signal) => (await send(path, query, { method: "POST", body: file, signal })).json();

/** Ask for a file. @param {string} path @param {object} body */
export const fetchFile = async (path, body) => (await send(path, {}, { method: "POST", ...json(body) })).blob();

/** Take away. @param {string} path */
export const remove = async (path) => (await send(path, {}, { method: "DELETE" })).json();

/** Where a track's sound is. @param {string} id @param {boolean} [asFlac] for a browser that cannot play its format */
export const audioOf = (id, asFlac = false) => `api/tracks/${id}/audio${asFlac ? "?as=flac" : ""}`;
