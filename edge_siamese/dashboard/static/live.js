/** The page "Live": the picture, what is recognized now, and the state of camera, model and store. */

import { get, pictureOf, send } from "./api.js";
import { decision, sentences } from "./decision.js";
import { announce, attempt, button, errorLine, fill, h, icon, picture, setText } from "./dom.js";
import { brief } from "./event-row.js";
import { counted } from "./format.js";
import { livePicture } from "./live-picture.js";
import { CHANGES, listen, stream } from "./stream.js";
import { toast } from "./toast.js";

export const name = "live";
export const title = "Live";

const ANNOUNCED = new Set(["appeared", "left", "registered", "view added", "refused"]);
const RECENT = 4;
const POLL_MS = 1000;
const REFRESH_MS = 15000;

/** @param {HTMLElement} place */
export function mount(place, { heading, signal }) {
  const shown = decision();
  const line = errorLine();
  const here = presence(signal);
  const wrong = button("Wrong", () => rejectLast(), { icon: "cross", name: "Wrong: this is not the recognized object", disabled: true });
  let present = [];

  let camera = null;
  const onDecision = (found) => {
    shown.set(found);
    camera?.classList.toggle("known", Boolean(found?.name));
    present = found?.present ?? [];
    here.set(present);
    const none = present.length === 0;
    if (wrong.disabled !== none && wrong.getAttribute("aria-busy") !== "true") wrong.disabled = none;
  };

  const rejectLast = async () => {
    const before = stream.changes;
    await attempt(line, wrong, async () => {
      const { object } = await send("POST", "/wrong", {});
      toast(`Kept as a negative of “${object.name}”.`, { undo: true, before });
    });
  };

  camera = livePicture({ signal, onDecision });
  fill(
    place,
    heading,
    h(
      "div.live-grid",
      {},
      camera,
      h("div.side", {}, h(
        "section.card.now",
        { "aria-labelledby": "now-heading" },
        h("h2.eyebrow", { id: "now-heading" }, "Now"),
        shown.node,
        why(signal),
        h("div.row", {}, h("a.button.primary", { href: "#/register" }, icon("register"), "Register"), wrong),
        line,
        here.node,
      ), indicators(signal)),
      recent(signal),
    ),
  );
  shown.set(null);
  listen("event", ({ detail }) => ANNOUNCED.has(detail.kind) && announce(detail.text), signal);
}

/** The explanation, polled while it is open. */
function why(signal) {
  const lines = h("div.sentences");
  let timer = 0;
  const poll = async () => {
    clearTimeout(timer);
    if (!details.open || signal.aborted) return;
    try {
      const found = await get("/decisions/current", { signal });
      sentences(lines, found.explanation?.length ? found.explanation : ["There is no frame."]);
    } catch (error) {
      if (error.name !== "AbortError") sentences(lines, [error.message]);
    }
    timer = setTimeout(poll, POLL_MS);
  };
  const details = h("details.why", { ontoggle: poll }, h("summary", {}, "Why?"), lines);
  signal.addEventListener("abort", () => clearTimeout(timer));
  return details;
}

/** The objects that are present, each as a link to its page. */
function presence(signal) {
  const list = h("ul.chips");
  const node = h("div.here", {}, h("h3.eyebrow", {}, "Present"), list);
  let known = new Map();
  let drawn = "";
  let latest = [];

  const loadPictures = async () => {
    try {
      const { objects } = await get("/objects", { signal });
      known = new Map(objects.map((object) => [object.uid, object]));
      drawn = "";
      set(latest);
    } catch {
      // The names are shown without pictures.
    }
  };
  const set = (present) => {
    latest = present;
    const key = JSON.stringify(present);
    if (key === drawn) return;
    drawn = key;
    if (present.length === 0) fill(list, h("li.soft", {}, "no known object"));
    else fill(list, ...present.map(({ uid, name }) =>
      h("li", {}, h("a.chip", { href: `#/objects/${uid}` }, picture(known.has(uid) ? pictureOf(known.get(uid)) : null, ""), h("span", {}, name))),
    ));
  };
  listen("event", ({ detail }) => CHANGES.has(detail.kind) && loadPictures(), signal);
  set([]);
  loadPictures();
  return { node, set };
}

/** State of camera, model and store, each as a symbol and a short text. */
function indicators(signal) {
  const rows = ["Camera", "Model", "Store"].map((label) => {
    const value = h("dd");
    return { value, node: h("div.indicator", {}, h("dt", {}, label), value) };
  });
  const node = h("section.card.system", { "aria-label": "Status" }, h("dl.indicators", {}, ...rows.map((row) => row.node)));
  const set = (row, level, text) => {
    row.node.dataset.level = level;
    setText(row.value, text);
  };
  const draw = () => {
    const status = stream.status;
    if (!status || ["lost", "connecting"].includes(stream.link)) {
      for (const row of rows) set(row, "unknown", stream.link === "lost" ? "no connection" : "…");
      return;
    }
    const { camera, model, store } = status;
    if (!camera || camera.status === "starting") set(rows[0], "unknown", "starting");
    else if (["absent", "stalled"].includes(camera.status)) set(rows[0], "bad", camera.reason || camera.status);
    else set(rows[0], camera.status === "ended" ? "unknown" : "good", camera.status === "ended" ? "ended" : `${camera.fps.toFixed(1)} frames/s`);
    if (model) set(rows[1], "good", `${model.model_id}, ${model.precision}`);
    else set(rows[1], "bad", status.fault || "none");
    if (store.repair) set(rows[2], "warn", store.repair);
    else set(rows[2], model ? "good" : "unknown", `${counted(status.objects, "object")}, ${counted(status.views, "view")}`);
  };
  listen("status", draw, signal);
  listen("link", draw, signal);
  draw();
  return node;
}

/** The latest events. */
function recent(signal) {
  const list = h("ol.brief");
  const draw = async () => {
    if (stream.events.length < RECENT) {
      const found = await get(`/events?count=${3 * RECENT}`, { signal }).catch(() => null);
      if (signal.aborted) return;
      if (found) return show(found.events);
    }
    return show(stream.events);
  };
  const show = (events) => {
    const latest = events.filter((event) => event.kind !== "seen").slice(-RECENT).reverse();
    fill(list, ...latest.map(brief));
  };
  listen("event", ({ detail }) => detail.kind !== "seen" && draw(), signal);
  const timer = setInterval(draw, REFRESH_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  draw();
  return h("section.card.recent", { "aria-labelledby": "recent" },
    h("div.row.between", {}, h("h2.eyebrow", { id: "recent" }, "Recent events"), h("a.small", { href: "#/events" }, "All events")),
    list,
  );
}
