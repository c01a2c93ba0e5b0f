/** What the daemon tells by itself: its status, events and registrations; connects again when it was away. */

import { get, session } from "./api.js";

const KEPT = 200;
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15000;
const HIDDEN_MS = 20000;

/** Kinds of events after which the list of objects, or what is kept of them, is another. */
export const CHANGES = new Set([
  "registered", "view added", "view removed", "negative added", "forgotten", "merged", "renamed", "undone", "imported",
]);

/**
 * The connection and what it has told. Events of it: `link` (connected or not), `status`, `event` (detail: the event),
 * `registration` (detail: the registration), `lost` (some events were missed: ask anew).
 */
class Stream extends EventTarget {
  constructor() {
    super();
    /** @type {"connecting"|"open"|"full"|"lost"} `full`: the device answers, and has no place left for a stream */
    this.link = "connecting";
    /** The daemon's report; null until it came. */
    this.status = null;
    /** @type {Array<Object>} the latest events, oldest first */
    this.events = [];
    /** How many events have changed objects. */
    this.changes = 0;
    this.source = null;
    this.wait = FIRST_WAIT_MS;
    this.failures = 0;
    this.timer = 0;
    this.hiding = 0;
    this.wanted = false;
    document.addEventListener("visibilitychange", () => this.look());
  }

  /** Connect, and stay connected until `stop`. */
  start() {
    this.wanted = true;
    this.connect();
  }

  stop() {
    this.wanted = false;
    clearTimeout(this.timer);
    this.close();
  }

  /** A page that nobody sees takes one of the few places; it is given back after a while. */
  look() {
    clearTimeout(this.hiding);
    if (document.hidden) this.hiding = setTimeout(() => this.close(), HIDDEN_MS);
    else if (this.wanted && !this.source) this.connect();
  }

  connect() {
    clearTimeout(this.timer);
    if (!this.wanted || document.hidden || this.source) return;
    const last = this.events.at(-1)?.seq;
    const source = (this.source = new EventSource(`/api/v1/stream${last === undefined ? "" : `?after=${last}`}`));
    source.addEventListener("open", () => {
      const again = this.link === "lost" || this.link === "full";
      this.failures = 0;
      this.wait = FIRST_WAIT_MS;
      this.turn("open");
      if (again) this.dispatchEvent(new Event("lost"));
    });
    source.addEventListener("error", () => this.failed());
    source.addEventListener("status", (message) => {
      this.status = JSON.parse(message.data);
      this.dispatchEvent(new Event("status"));
    });
    source.addEventListener("event", (message) => this.happened(JSON.parse(message.data)));
    source.addEventListener("registration", (message) => {
      this.dispatchEvent(new CustomEvent("registration", { detail: JSON.parse(message.data) }));
    });
    source.addEventListener("lost", () => this.dispatchEvent(new Event("lost")));
  }

  /** The browser's own attempts come at fixed intervals and end at the first refusal; these go on, ever more seldom. */
  failed() {
    this.close();
    this.failures += 1;
    if (this.link !== "full") this.turn("lost");
    this.timer = setTimeout(async () => {
      try {
        await session(); // the token is another one after a restart
        this.status = await get("/status"); // says so if a login is needed now
        this.dispatchEvent(new Event("status"));
        if (this.failures > 1) this.turn("full");
      } catch {
        this.turn("lost");
      }
      this.connect();
    }, this.wait);
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  turn(link) {
    if (link === this.link) return;
    this.link = link;
    this.dispatchEvent(new Event("link"));
  }

  happened(event) {
    if (event.seq !== undefined && this.events.some((known) => known.seq === event.seq)) return;
    this.events.push(event);
    if (this.events.length > KEPT) this.events.shift();
    if (CHANGES.has(event.kind)) this.changes += 1;
    this.dispatchEvent(new CustomEvent("event", { detail: event }));
  }
}

export const stream = new Stream();

/**
 * Listen until the signal ends it.
 * @param {string} kind
 * @param {(event: any) => void} listener
 * @param {AbortSignal} signal
 */
export function hear(kind, listener, signal) {
  stream.addEventListener(kind, listener, { signal });
}
