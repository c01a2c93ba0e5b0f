/** The frames of the registration in progress, each with its verdict. */

import { registrationPicture, get } from "./api.js";
import { fill, h, icon, picture, setText } from "./dom.js";
import { listen, stream } from "./stream.js";

const POLL_MS = 700;
const MAX_TILES = 24;

/**
 * The frames of the latest registration.
 * @param {{signal: AbortSignal, ended?: (registration: Object, previous: number) => void}} options `ended` is
 *   called when a registration ends, with `stream.changes` at its start
 */
export function frameStrip({ signal, ended = () => {} }) {
  const list = h("ol.frame-strip");
  const count = h("p.small.soft");
  const node = h("section", { hidden: true, "aria-label": "Frames" }, count, list);
  let id = "";
  let drawn = 0;
  let finished = true;
  let previous = null;
  let following = false;
  let changes = 0;
  let timer = 0;

  const update = (registration) => {
    if (registration.id === previous || (registration.done && registration.id !== id && !following)) return;
    if (registration.id !== id) {
      if (!following) changes = stream.changes;
      following = false;
      id = registration.id;
      drawn = 0;
      finished = false;
      fill(list);
    }
    node.hidden = false;
    for (const frame of registration.frames.filter(({ number }) => number > drawn)) {
      if (!countRepeat(list.lastElementChild, frame)) list.append(tile(id, frame));
      drawn = frame.number;
    }
    while (list.children.length > MAX_TILES) list.firstChild.remove();
    const good = registration.frames.filter((frame) => frame.good).length;
    const needed = registration.needed ? ` of ${registration.needed}` : "";
    setText(count, `${good}${needed} good ${registration.source === "picture" ? "pictures" : "frames"}`);
    if (registration.done && !finished) {
      finished = true;
      clearTimeout(timer);
      ended(registration, changes);
    }
  };

  /** Poll the registration while there is no event stream. */
  const poll = async () => {
    if (stream.link !== "open") {
      try {
        update(await get("/registration", { signal }));
      } catch {
        // No registration yet.
      }
    }
    if (!finished && !signal.aborted) timer = setTimeout(poll, POLL_MS);
  };

  listen("registration", ({ detail }) => update(detail), signal);
  signal.addEventListener("abort", () => clearTimeout(timer));
  return {
    node,
    /** Whether a requested registration has not started yet. */
    get waiting() {
      return following;
    },
    /** Follow the registration that was just requested. */
    follow() {
      clearTimeout(timer);
      previous = id || previous;
      id = "";
      finished = false;
      following = true;
      changes = stream.changes;
      node.hidden = true;
      timer = setTimeout(poll, POLL_MS);
    },
  };
}

/** Count a frame with the previous one if both were refused for the same reason; returns whether it was counted. */
function countRepeat(last, frame) {
  if (!last || frame.good || last.dataset.text !== frame.text) return false;
  last.dataset.times = String(Number(last.dataset.times) + 1);
  setText(last.querySelector(".times"), ` × ${last.dataset.times}`);
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
