/** The page "Events": the latest events, with the decisions behind them. */

import { get } from "./api.js";
import { errorLine, fill, h, setText, showError } from "./dom.js";
import { group, row } from "./event-row.js";
import { day } from "./format.js";
import { listen } from "./stream.js";

export const name = "events";
export const title = "Events";

const FETCHED = 100;
const MAX_SHOWN = 150;
/** The number of decisions that the device keeps, each with its picture. */
const MAX_DECISIONS = 50;
const GROUPS = { all: "All", recognitions: "Seen", changes: "Changes", device: "Device" };

/** @param {HTMLElement} place */
export function mount(place, { heading, signal }) {
  const line = errorLine();
  const list = h("div.timeline");
  const empty = h("p.soft.empty", { hidden: true }, "No such events yet.");
  /** @type {Array<Object>} the latest first */
  let events = [];
  let filter = "all";

  const draw = () => {
    const visible = events.filter((event) => filter === "all" || group(event) === filter);
    empty.hidden = visible.length > 0;
    const days = [];
    for (const event of visible) {
      const label = day(event.time);
      if (days.at(-1)?.label !== label) days.push({ label, rows: [] });
      days.at(-1).rows.push(event.node ??= row(event));
    }
    fill(list, ...days.map(({ label, rows }) => h("section", { "aria-label": label }, h("h2.eyebrow", {}, label), h("ol.events", {}, ...rows))));
  };

  const add = (event) => {
    const previous = previousSeen(events, event);
    if (previous) events = events.filter((known) => known !== previous);
    events.unshift(previous ? { ...event, times: (previous.times ?? 1) + 1 } : { ...event });
    events.length = Math.min(events.length, MAX_SHOWN);
    for (const old of events.filter((known) => known.decision).slice(MAX_DECISIONS)) {
      old.decision = null;
      old.node = undefined;
    }
  };

  const load = async () => {
    try {
      // Objects that stay cause many events of the kind "seen", which must not displace the others.
      const [all, others] = await Promise.all(["", "&seen=false"].map((more) => get(`/events?count=${FETCHED}${more}`, { signal })));
      const found = new Map([...others.events, ...all.events].map((event) => [event.seq, event]));
      events = [];
      [...found.values()].sort((a, b) => a.seq - b.seq).forEach(add);
      setText(line, "");
      draw();
    } catch (error) {
      showError(line, error);
    }
  };

  const choices = Object.entries(GROUPS).map(([key, label]) => {
    const input = h("input", { type: "radio", name: "group", value: key, checked: key === filter, onchange: () => {
      filter = key;
      draw();
    } });
    return h("label", {}, input, h("span", {}, label));
  });
  fill(place, h("div.head", {}, heading, h("fieldset.segments", {}, h("legend.unseen", {}, "Filter events"), ...choices)), line, empty, list);
  listen("event", ({ detail }) => {
    if (events.some((known) => known.seq !== undefined && known.seq === detail.seq)) return;
    add(detail);
    insert();
  }, signal);
  listen("lost", load, signal);
  load();

  /** Draw the list and keep the focus; rows are reused, so open explanations stay open. */
  function insert() {
    const focused = document.activeElement;
    draw();
    if (focused instanceof HTMLElement && list.contains(focused)) focused.focus({ preventScroll: true });
  }
}

/** Return the earlier `seen` event of the same sighting, which the new one replaces. */
function previousSeen(events, event) {
  if (event.kind !== "seen") return undefined;
  return events.find((other) => other.kind === "seen" && other.sighting === event.sighting);
}
