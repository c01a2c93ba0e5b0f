/** Shows a registration as it goes: each frame with what was wrong with it, and how it ended. */

import { registrationPicture, get } from "./api.js";
import { fill, h, icon, picture, say } from "./dom.js";
import { hear, stream } from "./stream.js";

const ASK_MS = 700;
const SHOWN = 24;

/**
 * The frames of the latest registration.
 * @param {{signal: AbortSignal, ended?: (registration: Object, before: number) => void}} options `ended` is told once of
 *   each that ended here, with `stream.changes` at its beginning
 */
export function frameStrip({ signal, ended = () => {} }) {
  const list = h("ol.frame-strip");
  const count = h("p.small.soft");
  const node = h("section", { hidden: true, "aria-label": "Frames" }, count, list);
  let id = "";
  let drawn = 0;
  let over = true;
  let before = null;
  let following = false;
  let changes = 0;
  let timer = 0;

  const take = (registration) => {
    if (registration.id === before || (registration.done && registration.id !== id && !following)) return;
    if (registration.id !== id) {
      if (!following) changes = stream.changes;
      following = false;
      id = registration.id;
      drawn = 0;
      over = false;
      fill(list);
    }
    node.hidden = false;
    for (const frame of registration.frames.filter(({ number }) => number > drawn)) {
      if (!folded(list.lastElementChild, frame)) list.append(tile(id, frame));
      drawn = frame.number;
    }
    while (list.children.length > SHOWN) list.firstChild.remove();
    const good = registration.frames.filter((frame) => frame.good).length;
    const wanted = registration.wanted ? ` of ${registration.wanted}` : "";
    say(count, `${good}${wanted} good ${registration.source === "picture" ? "pictures" : "frames"}`);
    if (registration.done && !over) {
      over = true;
      clearTimeout(timer);
      ended(registration, changes);
    }
  };

  /** Ask for it, where the stream has no place left for this page. */
  const ask = async () => {
    if (stream.link !== "open") {
      try {
        take(await get("/registration", { signal }));
      } catch {
        // There is none yet.
      }
    }
    if (!over && !signal.aborted) timer = setTimeout(ask, ASK_MS);
  };

  hear("registration", ({ detail }) => take(detail), signal);
  signal.addEventListener("abort", () => clearTimeout(timer));
  return {
    node,
    /** Whether one that was asked for has not begun, as far as is known. */
    get waiting() {
      return following;
    },
    /** One has been asked for: follow it, and forget the one before. */
    follow() {
      clearTimeout(timer);
      before = id || before;
      id = "";
      over = false;
      following = true;
      changes = stream.changes;
      node.hidden = true;
      timer = setTimeout(ask, ASK_MS);
    },
  };
}

/** Count a frame with the one before, if it was refused for the same reason: where nothing is good, all are alike. */
function folded(last, frame) {
  if (!last || frame.good || last.dataset.text !== frame.text) return false;
  last.dataset.times = String(Number(last.dataset.times) + 1);
  say(last.querySelector(".times"), ` × ${last.dataset.times}`);
  return true;
}

function tile(id, frame) {
  const [what, advice] = frame.text.split(": ");
  return h(
    "li",
    { "data-good": String(frame.good), "data-text": frame.text, "data-times": "1" },
    picture(registrationPicture(id, frame.number), ""),
    h("span.verdict", {}, icon(frame.good ? "check" : "cross"), h("span", {}, what, h("span.times.soft"))),
    frame.good || !advice ? null : h("span.advice", {}, advice),
  );
}
