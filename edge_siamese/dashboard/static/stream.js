/** Client of the event stream: status, events and registrations; reconnects after a failure. */

import { get, session, streamAfter } from "./api.js";

const MAX_EVENTS = 200;
const FIRST_WAIT_MS = 1000;
const MAX_WAIT_MS = 15000;
const MAX_HIDDEN_MS = 20000;

/** Kinds of events that change objects. */
export const CHANGES = new Set([
  "registered", "view added", "view removed", "negative added", "forgotten", "merged", "renamed", "undone", "imported",
]);

/**
 * The event stream. Dispatches `link` (the connection changed), `status`, `event` (detail: the event), `registration`
 * (detail: the registration), and `lost` (events were missed: load them again).
 */
class Stream extends EventTarget {
  constructor() {
    super();
    /** @type {"connecting"|"open"|"full"|"lost"} `full`: the device answers, but has too many streams */
    this.link = "connecting";
    /** The body of `GET /status`; null at first. */
    this.status = null;
    /** @type {Array<Object>} the latest events, oldest first */
    this.events = [];
    /** Number of events that changed objects. */
    this.changes = 0;
    this.source = null;
    this.wait = FIRST_WAIT_MS;
    this.failures = 0;
    this.timer = 0;
    this.hideTimer = 0;
    this.active = false;
    document.addEventListener("visibilitychange", () => this.visibilityChanged());
  }

  /** Connect, and stay connected until `stop`. */
  start() {
    this.active = true;
    this.connect();
  }

  stop() {
    this.active = false;
    clearTimeout(this.timer);
    this.close();
  }

  /** Close the stream of a hidden page after a while, because the number of streams is limited. */
  visibilityChanged() {
    clearTimeout(this.hideTimer);
    if (document.hidden) this.hideTimer = setTimeout(() => this.close(), MAX_HIDDEN_MS);
    else if (this.active && !this.source) this.connect();
  }

  connect() {
    clearTimeout(this.timer);
    if (!this.active || document.hidden || this.source) return;
    const last = this.events.at(-1)?.seq;
    const source = (this.source = new EventSource(streamAfter(last)));
    source.addEventListener("open", () => {
      const again = this.link === "lost" || this.link === "full";
      this.failures = 0;
      this.wait = FIRST_WAIT_MS;
      this.setLink("open");
      if (again) this.dispatchEvent(new Event("lost"));
    });
    source.addEventListener("error", () => this.reconnect());
    source.addEventListener("status", (message) => {
      this.status = JSON.parse(message.data);
      this.dispatchEvent(new Event("status"));
    });
    source.addEventListener("event", (message) => this.addEvent(JSON.parse(message.data)));
    source.addEventListener("registration", (message) => {
      this.dispatchEvent(new CustomEvent("registration", { detail: JSON.parse(message.data) }));
    });
    source.addEventListener("lost", () => this.dispatchEvent(new Event("lost")));
  }

  /** Reconnect with exponential backoff: the browser itself gives up at the first refusal. */
  reconnect() {
    this.close();
    this.failures += 1;
    if (this.link !== "full") this.setLink("lost");
    this.timer = setTimeout(async () => {
      try {
        await session(); // the CSRF token changes with a restart
        this.status = await get("/status"); // fails if a login is required now
        this.dispatchEvent(new Event("status"));
        if (this.failures > 1) this.setLink("full");
      } catch {
        this.setLink("lost");
      }
      this.connect();
    }, this.wait);
    this.wait = Math.min(this.wait * 2, MAX_WAIT_MS);
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  setLink(link) {
    if (link === this.link) return;
    this.link = link;
    this.dispatchEvent(new Event("link"));
  }

  addEvent(event) {
    if (event.seq !== undefined && this.events.some((known) => known.seq === event.seq)) return;
    this.events.push(event);
    if (this.events.length > MAX_EVENTS) this.events.shift();
    if (CHANGES.has(event.kind)) this.changes += 1;
    this.dispatchEvent(new CustomEvent("event", { detail: event }));
  }
}

export const stream = new Stream();

/**
 * Listen to the stream until the signal aborts.
 * @param {string} kind
 * @param {(event: any) => void} listener
 * @param {AbortSignal} signal
 */
export function listen(kind, listener, signal) {
  stream.addEventListener(kind, listener, { signal });
}
