/** Client of the HTTP API. */

/** Relative to this file, since a proxy may serve the dashboard below a path. */
const ROOT = new URL("../api/v1", import.meta.url).pathname;
let csrf = "";

/** A request that the daemon refused or did not answer. */
export class ApiError extends Error {
  /**
   * @param {string} message one line for people
   * @param {number} status HTTP status; 0: no answer
   * @param {Object<string, any>} [data] other keys of the error, such as `reason` and `collides` of a refused registration
   */
  constructor(message, status, data = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.data = data;
  }
}

/** Dispatches `signed-out` when a request needs a login. */
export const access = new EventTarget();

/** Fetch the session: whether a login is required, and the CSRF token, which is kept for changes. */
export async function session() {
  const found = await get("/session");
  csrf = found.csrf ?? "";
  return found;
}

/** Log in; raises ApiError 401 for a wrong password, 429 for too many. */
export async function login(password) {
  const found = await send("POST", "/login", { password });
  csrf = found?.csrf ?? "";
  return found;
}

export async function logout() {
  await send("POST", "/logout");
  csrf = "";
}

/** @returns {Promise<any>} the JSON of a path below /api/v1 */
export async function get(path, options = {}) {
  return read(await request(path, options));
}

/** Send a change: `method` is POST, PUT, PATCH or DELETE, `body` is sent as JSON. */
export async function send(method, path, body) {
  const options = body === undefined ? {} : { body: JSON.stringify(body) };
  return change(path, { method, ...options }, body === undefined ? {} : { "Content-Type": "application/json" });
}

/** Upload a file; returns the JSON of the response. */
export async function upload(path, blob) {
  return change(path, { method: "POST", body: blob }, { "Content-Type": blob.type || "application/octet-stream" });
}

/** Send a request and return the response; raises `ApiError`. */
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(ROOT + path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("Cannot reach the device. Check that it is on and in this network.", 0);
  }
  if (response.ok) return response;
  const data = await response.json().catch(() => ({}));
  if (response.status === 401 && path !== "/login") access.dispatchEvent(new Event("signed-out"));
  const wait = Number(response.headers.get("Retry-After"));
  const later = response.status === 429 && wait ? `; try again in ${wait} s` : "";
  throw new ApiError(sentence(data.error ?? `The device returned status ${response.status}`) + later, response.status, data);
}

/** URL of an object's picture; it changes with the newest view, so that caches do not return an old one. */
export function pictureOf(object) {
  return object.last_view === null ? null : `${ROOT}/objects/${object.uid}/picture?v=${object.last_view}`;
}

/** URL of the event stream after an event. @param {number|undefined} last its number */
export const streamAfter = (last) => `${ROOT}/stream${last === undefined ? "" : `?after=${last}`}`;
export const viewPicture = (id, index = 0) => `${ROOT}/views/${id}/pictures/${index}`;
export const decisionPicture = (id) => `${ROOT}/decisions/${encodeURIComponent(id)}/picture`;
export const registrationPicture = (id, number) => `${ROOT}/registration/${encodeURIComponent(id)}/frames/${number}`;

/** Send a change with the CSRF token; after a restart of the daemon, fetch the new token and try again. */
async function change(path, options, headers) {
  const ask = () => request(path, { ...options, headers: { ...headers, "X-CSRF-Token": csrf } });
  try {
    return await read(await ask());
  } catch (error) {
    if (error.status !== 403) throw error;
    const former = csrf;
    await session();
    if (csrf === former) throw error;
    return read(await ask());
  }
}

async function read(response) {
  return response.headers.get("Content-Type")?.includes("json") ? response.json() : null;
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
