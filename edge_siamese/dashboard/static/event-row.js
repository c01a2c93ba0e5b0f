/** An event: as one line, and in full with its picture, its decision and the button "Wrong". */

import { get, decisionPicture } from "./api.js";
import { facts, meter, sentences } from "./decision.js";
import { attempt, button, errorLine, fill, h, icon, picture } from "./dom.js";
import { ago, clock } from "./format.js";
import { stream } from "./stream.js";
import { toast } from "./toast.js";
import { reject } from "./wrong.js";

/** The group of an event: recognitions, changes or device. */
export function group(event) {
  if (["appeared", "seen", "left", "undecided"].includes(event.kind)) return "recognitions";
  if (["registered", "view added", "view removed", "negative added", "forgotten", "merged", "renamed", "undone", "imported", "refused"].includes(event.kind)) return "changes";
  return "device";
}

const SYMBOLS = {
  appeared: "eye", seen: "eye", undecided: "eye", left: "out", registered: "check", "view added": "register", "negative added": "cross",
  "view removed": "bin", forgotten: "bin", merged: "merge", undone: "undo", imported: "down", refused: "warn",
};

const symbol = (event) => (event.level ? "warn" : SYMBOLS[event.kind] ?? "health");

/** The event as one line. */
export function brief(event) {
  return h("li", { "data-tone": tone(event) }, icon(symbol(event)), h("span", {}, event.text), h("time", { datetime: event.time }, ago(event.time)));
}

function tone(event) {
  if (event.level === "error") return "bad";
  if (event.level === "warning" || ["refused", "undecided"].includes(event.kind)) return "warn";
  return event.kind === "appeared" || event.kind === "registered" || event.kind === "view added" ? "good" : "plain";
}

/** The event in full. */
export function row(event) {
  const when = h("time", { datetime: event.time, title: new Date(event.time).toLocaleString("en-GB") }, clock(event.time));
  const mark = event.decision ? picture(decisionPicture(event.decision), "") : h("span.mark", {}, icon(symbol(event)));
  const body = h("div.event-body", {}, h("p.event-text", {}, event.text, event.times > 1 ? h("span.soft", {}, ` (${event.times} times)`) : null));
  const node = h("li.event", { "data-tone": tone(event), "data-kind": event.kind }, when, mark, body);
  if (event.decision) {
    const bar = meter("Probability");
    bar.set(event.probability, event.threshold ?? null, true);
    body.append(bar.node, why(event), wrong(event));
  }
  return node;
}

/** The explanation of the decision, fetched when it is opened. */
function why(event) {
  const place = h("div.sentences");
  let fetched = false;
  const open = async () => {
    if (!details.open || fetched) return;
    fetched = true;
    try {
      const decision = await get(`/decisions/${encodeURIComponent(event.decision)}`);
      const lines = h("div.sentences");
      sentences(lines, decision.explanation);
      fill(place, facts(decision), lines);
    } catch (error) {
      fill(place, h("p", {}, error.status === 404 ? "This decision is no longer kept." : error.message));
    }
  };
  const details = h("details.why", { ontoggle: open }, h("summary", {}, "Why?"), place);
  return details;
}

/** The button that keeps the picture as a negative of the object. */
function wrong(event) {
  const line = errorLine();
  const place = h("div.event-wrong");
  const offer = () => {
    const pressed = button("Wrong", async () => {
      const before = stream.changes;
      const message = await attempt(line, pressed, () => reject({ decision: event.decision }, event.name));
      if (!message) return;
      fill(place, h("p.small.soft", {}, "Kept as a negative."));
      toast(message, { undo: true, before, undone: offer });
    }, { icon: "cross", class: "small", name: `Wrong: this was not ${event.name ?? "it"}` });
    fill(place, pressed, line);
  };
  offer();
  return place;
}
