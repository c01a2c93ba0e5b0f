/** The page "Events": what happened, as it happens, and why it was decided so. */

import { get } from "./api.js";
import { errorLine, fill, h, say, tell } from "./dom.js";
import { group, row } from "./event-row.js";
import { day } from "./format.js";
import { hear } from "./stream.js";

export const name = "events";
export const title = "Events";

const ASKED = 100;
const SHOWN = 150;
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
  let shown = "all";

  const draw = () => {
    const wanted = events.filter((event) => shown === "all" || group(event) === shown);
    empty.hidden = wanted.length > 0;
    const days = [];
    for (const event of wanted) {
      const label = day(event.time);
      if (days.at(-1)?.label !== label) days.push({ label, rows: [] });
      days.at(-1).rows.push(event.node ??= row(event));
    }
    fill(list, ...days.map(({ label, rows }) => h("section", { "aria-label": label }, h("h2.eyebrow", {}, label), h("ol.events", {}, ...rows))));
  };

  const take = (event) => {
    const older = folded(events, event);
    if (older) events = events.filter((known) => known !== older);
    events.unshift(older ? { ...event, times: (older.times ?? 1) + 1 } : { ...event });
    events.length = Math.min(events.length, SHOWN);
    for (const old of events.filter((known) => known.decision).slice(MAX_DECISIONS)) {
      old.decision = null;
      old.node = undefined;
    }
  };

  const ask = async () => {
    try {
      const found = await get(`/events?count=${ASKED}`, { signal });
      events = [];
      found.events.forEach(take);
      say(line, "");
      draw();
    } catch (error) {
      tell(line, error);
    }
  };

  const choices = Object.entries(GROUPS).map(([key, label]) => {
    const input = h("input", { type: "radio", name: "group", value: key, checked: key === shown, onchange: () => {
      shown = key;
      draw();
    } });
    return h("label", {}, input, h("span", {}, label));
  });
  fill(place, h("div.head", {}, heading, h("fieldset.segments", {}, h("legend.unseen", {}, "Filter events"), ...choices)), line, empty, list);
  hear("event", ({ detail }) => {
    if (events.some((known) => known.seq !== undefined && known.seq === detail.seq)) return;
    take(detail);
    insert();
  }, signal);
  hear("lost", ask, signal);
  ask();

  /** Draw anew, unless somebody reads: then what is open stays where the eye is, since rows are kept. */
  function insert() {
    const focused = document.activeElement;
    draw();
    if (focused instanceof HTMLElement && list.contains(focused)) focused.focus({ preventScroll: true });
  }
}

/** An object that is still there is told of again and again; the latest of these stands for all of them. */
function folded(events, event) {
  if (event.kind !== "seen") return undefined;
  const known = events.find((other) => other.kind === "seen" && other.sighting === event.sighting);
  return known;
}
