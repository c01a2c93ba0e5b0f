/** A decision: the probability as a bar with its threshold, the runner-up, and the explanation. */

import { fill, h, setText } from "./dom.js";
import { probability } from "./format.js";

/**
 * A bar of a probability, with the threshold as a mark; also as text for screen readers.
 * @param {string} label name of the bar for screen readers
 */
export function meter(label) {
  const bar = h("span.meter-fill");
  const mark = h("span.meter-mark");
  const caption = h("span.meter-threshold");
  const track = h("div.meter", { role: "meter", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100" }, bar, mark);
  const node = h("div.meter-box", {}, track, caption);
  return {
    node,
    /** @param {number} p @param {number|null} threshold @param {boolean} known whether it is recognized */
    set(p, threshold, known) {
      track.setAttribute("aria-valuenow", String(Math.round(100 * p)));
      track.setAttribute("aria-valuetext", threshold === null ? probability(p) : `${probability(p)}, threshold ${probability(threshold)}`);
      track.classList.toggle("known", known);
      bar.style.setProperty("--share", String(p));
      mark.hidden = caption.hidden = threshold === null;
      if (threshold === null) return;
      node.style.setProperty("--threshold", String(threshold));
      node.classList.toggle("late", threshold > 0.6);
      setText(caption, `threshold ${probability(threshold)}`);
    },
  };
}

/**
 * A decision as an element that is updated with each frame.
 * @param {{small?: boolean}} [options]
 */
export function decision({ small = false } = {}) {
  const name = h("p.decided");
  const p = h("span.decided-p");
  const bar = meter("Probability");
  const second = h("p.second.soft");
  const node = h("div.decision", { class: small ? "small-decision" : "" }, h("div.decided-line", {}, name, p), bar.node, second);
  return {
    node,
    /** @param {Object|null} found a decision; null: none */
    set(found) {
      const known = Boolean(found?.name);
      node.classList.toggle("known", known);
      const nothing = !found || found.rule === "nothing to see" || found.rule === "nothing registered";
      setText(name, found?.registering ? "registering …" : found?.name ?? unnamed(found));
      setText(p, nothing || found.registering ? "" : probability(found.probability));
      bar.node.classList.toggle("idle", nothing || Boolean(found?.registering));
      bar.set(nothing || found.registering ? 0 : found.probability, found?.threshold ?? null, known);
      setText(second, found ? summary(found) : "");
    },
  };
}

/** What is shown in place of a name. */
function unnamed(found) {
  if (!found) return "–";
  return found.rule === "look-alikes" ? `${found.nearest} or ${found.runner_up}` : "unknown";
}

/** The line below the name: the runner-up, or why the object is unknown. */
function summary(found) {
  if (found.registering) return "Registering an object.";
  if (found.rule === "nothing to see") return "Nothing to see.";
  if (found.rule === "nothing registered") return "No objects are registered yet.";
  const runnerUp = found.runner_up
    ? `runner-up: ${found.runner_up}, ${probability(Math.max(0, found.probability - found.margin))}`
    : "no runner-up";
  if (found.rule === "look-alikes") return "Both are about equally close: turn it, or add a view of each.";
  return found.name ? runnerUp : `nearest: ${found.nearest}; ${runnerUp}`;
}

/**
 * The numbers of a decision as a list of terms.
 * @param {Object} found with view_place, runner_up, margin, threshold
 */
export function facts(found) {
  if (found.nearest === null || found.nearest === undefined) return null;
  const runnerUp = found.runner_up ? `${found.runner_up}, ${probability(Math.max(0, found.probability - found.margin))}` : "none";
  return h(
    "dl.facts",
    {},
    ...[
      ["Nearest view", found.view_place ? `view ${found.view_place} of ${found.nearest}` : found.nearest],
      ["Probability", probability(found.probability)],
      ["Threshold", probability(found.threshold)],
      ["Runner-up", runnerUp],
      ["Margin", probability(found.margin)],
    ].map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))),
  );
}

/** Show the sentences of an explanation. */
export function sentences(place, lines) {
  const text = lines.join("\n");
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  fill(place, ...lines.map((line) => h("p", {}, line)));
}
