/** The watched regions of the picture, as the device has them. */

import { get } from "./api.js";
import { listen } from "./stream.js";

/**
 * Call a function with the regions now, and when they have changed.
 * @param {AbortSignal} signal
 * @param {(found: {regions: Array<Object>, registers: string, editable: boolean, file: string}) => void} changed
 */
export function watchRegions(signal, changed) {
  let latest = "";
  const load = async () => {
    const found = await get("/regions", { signal }).catch(() => null);
    if (!found || signal.aborted) return;
    const key = JSON.stringify(found);
    if (key === latest) return;
    latest = key;
    changed(found);
  };
  listen("event", ({ detail }) => ["settings", "started", "model"].includes(detail.kind) && load(), signal);
  listen("lost", load, signal);
  load();
}

/** Lay an element over a part of the picture. @param {number[]} box left, top, width and height as fractions */
export function layOver(node, box) {
  const [left, top, width, height] = box.map((fraction) => `${100 * fraction}%`);
  Object.assign(node.style, { left, top, width, height });
  return node;
}
