/** The camera's picture: asked for one after the other, only while somebody looks at it. */

import { fill, h, icon } from "./dom.js";
import { ApiError, request } from "./api.js";
import { hear, stream } from "./stream.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
const OLD_MS = 3000;

/**
 * A live picture; `now` is told what each frame shows.
 * @param {{signal: AbortSignal, now?: (found: Object|null) => void}} options
 * @returns {HTMLElement}
 */
export function livePicture({ signal, now = () => {} }) {
  const canvas = h("canvas", { role: "img", "aria-label": "What the camera sees", width: "4", height: "3" });
  const marks = h("span.marks", { "aria-hidden": "true" });
  const veil = h("div.veil");
  const node = h("div.live-picture", {}, canvas, marks, veil);
  const context = canvas.getContext("2d");
  let frame = 0;
  let latest = 0;
  let failure = "";
  let answered = false;
  let waitMs = FIRST_WAIT_MS;
  let resting = null;

  /** What is wrong, or null while pictures come. */
  const state = () => {
    const { status, link } = stream;
    if (failure) return ["warn", answered ? "No picture" : "Disconnected", failure];
    if (link === "lost") return ["warn", "Disconnected", "Reconnecting …"];
    if (status && !status.model) return ["warn", "No working model", status.fault];
    const camera = status?.camera;
    if (camera?.status === "absent") return ["warn", "Camera not found", camera.reason];
    if (camera?.status === "stalled") return ["warn", "The camera has stalled", camera.reason];
    if (camera?.status === "ended") return ["picture", "End of the recording", ""];
    if (Date.now() - latest > OLD_MS) return ["picture", "Waiting for a picture", ""];
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
      now(null);
    }
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

  const turn = async () => {
    const response = await request(`/live?after=${frame}`, { signal });
    failure = "";
    waitMs = FIRST_WAIT_MS;
    if (response.status === 200) {
      await paint(response);
      frame = Number(response.headers.get("X-Frame")) || 0;
      latest = Date.now();
      draw();
      now(JSON.parse(response.headers.get("X-Decision") ?? "null"));
    } else {
      draw();
      await pause(200);
    }
  };

  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const seen = () => new Promise((resolve) => (resting = resolve));
  const wake = () => document.hidden || resting?.();

  const run = async () => {
    while (!signal.aborted) {
      if (document.hidden) await seen();
      try {
        await turn();
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ApiError && error.status === 401) return;
        failure = error.message;
        answered = error instanceof ApiError && error.status > 0;
        frame = 0; // a daemon that was started anew counts anew
        draw();
        await pause(waitMs);
        waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS);
      }
    }
  };

  document.addEventListener("visibilitychange", wake, { signal });
  hear("status", draw, signal);
  hear("link", draw, signal);
  const clock = setInterval(draw, 1000);
  signal.addEventListener("abort", () => {
    clearInterval(clock);
    resting?.();
  });
  draw();
  run();
  return node;
}
