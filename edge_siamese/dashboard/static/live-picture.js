/** The live picture: fetched one frame after the other, only while the page is visible. */

import { fill, h, icon } from "./dom.js";
import { ApiError, request } from "./api.js";
import { listen, stream } from "./stream.js";
import { layOver, watchRegions } from "./watched-regions.js";

const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 5000;
const MAX_AGE_MS = 3000;

/**
 * The live picture, with the regions and the parts of them that the encoder reads.
 * @param {{signal: AbortSignal, onDecisions?: (found: Object|null) => void, layer?: HTMLElement}} options `onDecisions`:
 *   called for each frame. `layer`: shown on the picture in place of regions and parts
 * @returns {HTMLElement}
 */
export function livePicture({ signal, onDecisions = () => {}, layer }) {
  const canvas = h("canvas", { role: "img", "aria-label": "What the camera sees", width: "4", height: "3" });
  const outlines = h("div");
  const marks = h("div");
  const over = layer ?? h("div.overlay", { "aria-hidden": "true" }, outlines, marks);
  const veil = h("div.veil");
  const node = h("div.live-picture", {}, canvas, over, veil);
  const context = canvas.getContext("2d");
  let frame = 0;
  let latest = -Infinity;
  let failure = "";
  let answered = false;
  let waitMs = FIRST_WAIT_MS;
  let resume = null;

  /** Return [icon, title, text] of the problem, or null while pictures arrive. */
  const state = () => {
    const { status, link } = stream;
    if (failure) return ["warn", answered ? "No picture" : "Disconnected", failure];
    if (link === "lost") return ["warn", "Disconnected", "Reconnecting …"];
    if (status && !status.model) return ["warn", "No working model", status.fault];
    const camera = status?.camera;
    if (camera?.status === "absent") return ["warn", "Camera not found", camera.reason];
    if (camera?.status === "stalled") return ["warn", "The camera has stalled", camera.reason];
    if (camera?.status === "ended") return ["picture", "End of the recording", ""];
    if (performance.now() - latest > MAX_AGE_MS) return ["picture", "Waiting for a picture", ""];
    return null;
  };

  const draw = () => {
    const wrong = state();
    node.classList.toggle("veiled", wrong !== null);
    const key = wrong?.join("|") ?? "";
    if (veil.dataset.key === key) return;
    veil.dataset.key = key;
    if (wrong === null) fill(veil);
    else {
      fill(veil, icon(wrong[0]), h("p", { role: "status" }, h("strong", {}, wrong[1]), wrong[2] ? h("span", {}, wrong[2]) : null));
      onDecisions(null);
    }
  };

  /**
   * Mark the parts of the picture that the encoder reads.
   * @param {string} parts left, top, width and height as fractions for each region, separated by commas
   * @param {Array<Object>} decisions one for each region
   */
  const mark = (parts, decisions) => {
    parts.split(",").forEach((part, place) => {
      const corners = marks.children[place] ?? marks.appendChild(h("span.marks"));
      corners.hidden = part === "";
      corners.classList.toggle("known", Boolean(decisions[place]?.name));
      if (part !== "") layOver(corners, part.split(" ").map(Number));
    });
    while (marks.children.length > parts.split(",").length) marks.lastChild.remove();
  };

  const paint = async (response) => {
    const bitmap = await createImageBitmap(await response.blob());
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
      node.style.setProperty("--ratio", `${bitmap.width} / ${bitmap.height}`);
    }
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
  };

  const fetchFrame = async () => {
    const response = await request(`/live?after=${frame}`, { signal });
    failure = "";
    waitMs = FIRST_WAIT_MS;
    if (response.status === 200) {
      await paint(response);
      frame = Number(response.headers.get("X-Frame")) || 0;
      const found = JSON.parse(response.headers.get("X-Decisions") ?? "null");
      mark(response.headers.get("X-Parts") ?? "", found?.regions ?? []);
      latest = performance.now();
      draw();
      onDecisions(found);
    } else {
      draw();
      await pause(200);
    }
  };

  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const untilVisible = () => new Promise((resolve) => (resume = resolve));
  const wake = () => document.hidden || resume?.();

  const run = async () => {
    while (!signal.aborted) {
      if (document.hidden) await untilVisible();
      try {
        await fetchFrame();
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ApiError && error.status === 401) return;
        failure = error.message;
        answered = error instanceof ApiError && error.status > 0;
        frame = 0; // a restarted daemon counts from 1 again
        draw();
        await pause(waitMs);
        waitMs = Math.min(waitMs * 2, MAX_WAIT_MS);
      }
    }
  };

  document.addEventListener("visibilitychange", wake, { signal });
  listen("status", draw, signal);
  listen("link", draw, signal);
  const clock = setInterval(draw, 1000);
  signal.addEventListener("abort", () => {
    clearInterval(clock);
    resume?.();
  });
  draw();
  if (!layer) {
    watchRegions(signal, ({ regions }) => fill(outlines, ...regions.map((region) =>
      layOver(h("span.region-outline", {}, h("span.region-name", {}, region.name)), region.box))));
  }
  run();
  return node;
}
