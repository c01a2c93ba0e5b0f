/** The page "Live": the picture, what is recognized now, and the state of camera, model and store. */

import { get, pictureOf } from "./api.js";
import { decision, sentences } from "./decision.js";
import { announce, attempt, button, errorLine, fill, h, icon, picture, setText } from "./dom.js";
import { brief } from "./event-row.js";
import { counted } from "./format.js";
import { livePicture } from "./live-picture.js";
import { CHANGES, listen, stream } from "./stream.js";
import { sentence, toast } from "./toast.js";
import { watchRegions } from "./watched-regions.js";
import { asksForName, reject } from "./wrong.js";

export const name = "live";
export const title = "Live";

const ANNOUNCED = new Set(["appeared", "left", "undecided", "registered", "view added", "refused"]);
const RECENT = 4;
const POLL_MS = 1000;
const REFRESH_MS = 15000;

/** @param {HTMLElement} place */
export function mount(place, { heading, signal }) {
  const line = errorLine();
  const here = presence(signal);
  const now = decisions(signal);
  const wrong = button("Wrong", () => rejectLast(), { icon: "cross", name: "Wrong: this is not the recognized object", disabled: true });
  let present = [];

  const onDecisions = (found) => {
    now.set(found);
    present = found?.present ?? [];
    here.set(present);
    const none = present.length === 0;
    if (wrong.disabled !== none && wrong.getAttribute("aria-busy") !== "true") wrong.disabled = none;
  };

  /** Reject the last recognition; while its name is asked for, others may follow, so that one is named by its event. */
  const rejectLast = async () => {
    const before = stream.changes;
    await attempt(line, wrong, async () => {
      const last = stream.events.filter(({ kind, uid }) => kind === "appeared" && present.some((one) => one.uid === uid)).at(-1);
      const which = last && (await asksForName()) ? { decision: last.decision } : {};
      const message = await reject(which, last?.name ?? present.at(-1).name);
      if (message) toast(message, { undo: true, before });
    });
  };

  fill(
    place,
    heading,
    h(
      "div.live-grid",
      {},
      h("div.camera", {},
        livePicture({ signal, onDecisions }),
        h("div.row.end", {}, h("a.button.small", { href: "#/regions" }, icon("regions"), "Regions"))),
      h("div.side", {}, h(
        "section.card.now",
        { "aria-labelledby": "now-heading" },
        h("h2.eyebrow", { id: "now-heading" }, "Now"),
        now.node,
        h("div.row", {}, h("a.button.primary", { href: "#/register" }, icon("register"), "Register"), wrong),
        line,
        here.node,
      ), indicators(signal)),
      recent(signal),
    ),
  );
  now.set(null);
  listen("event", ({ detail }) => ANNOUNCED.has(detail.kind) && announce(detail.text), signal);
}

/** The decision about each region, with its explanation. */
function decisions(signal) {
  const node = h("div.decisions");
  let panels = [];
  let names = [];

  const draw = () => {
    const several = names.length > 1;
    panels = (names.length ? names : [""]).map((name) => ({ shown: decision({ small: several }), explanation: why(signal, name) }));
    fill(node, ...panels.map(({ shown, explanation }, place) => {
      const parts = [shown.node, explanation.node];
      if (!names.length) return h("div.decision-panel", {}, ...parts);
      return h("section.decision-panel", { "aria-labelledby": `region-${place}` }, h("h3.eyebrow", { id: `region-${place}` }, names[place]), ...parts);
    }));
  };
  watchRegions(signal, ({ regions }) => {
    names = regions.map(({ name }) => name);
    draw();
  });
  draw();
  return {
    node,
    /** @param {Object|null} found decisions about a frame; null: none */
    set(found) {
      panels.forEach(({ shown, explanation }, place) => {
        const region = found?.regions[place];
        const one = found?.registering ? { registering: true } : region?.rule ? region : null;
        shown.set(one);
        explanation.follow(one);
      });
    },
  };
}

/** The explanation of a region's decision: fetched while it is open, and again when the decision changes. */
function why(signal, region) {
  const lines = h("div.sentences");
  let timer = 0;
  let shown = "";
  let requests = 0;
  const poll = async () => {
    clearTimeout(timer);
    if (!details.open || !details.isConnected || signal.aborted) return;
    const request = (requests += 1);
    try {
      const query = region ? `?region=${encodeURIComponent(region)}` : "";
      const found = await get(`/decisions/current${query}`, { signal });
      if (request === requests) sentences(lines, explain(found));
    } catch (error) {
      if (error.name !== "AbortError" && request === requests) sentences(lines, [error.message]);
    }
    if (request === requests) timer = setTimeout(poll, POLL_MS);
  };
  const details = h("details.why", { ontoggle: poll }, h("summary", {}, "Why?"), lines);
  signal.addEventListener("abort", () => clearTimeout(timer));
  return {
    node: details,
    /** @param {Object|null} decision that is shown */
    follow(decision) {
      const { name, rule, nearest, registering } = decision ?? {};
      const key = JSON.stringify([decision !== null, name, rule, nearest, registering]);
      if (key === shown) return;
      shown = key;
      poll();
    },
  };
}

/** The sentences of an explanation. */
function explain(found) {
  if (found.explanation?.length) return found.explanation;
  return [found.available ? `${sentence(found.text)}.` : "There is no picture."];
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
    else fill(list, ...present.map(({ uid, name, region }) =>
      h("li", {}, h("a.chip", { href: `#/objects/${uid}` }, picture(known.has(uid) ? pictureOf(known.get(uid)) : null, ""), h("span", {}, name, region ? h("span.chip-region", {}, ` in ${region}`) : null))),
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
    const unused = (...kinds) => status.quarantine.filter(({ kind }) => kinds.includes(kind));
    const [otherModel] = unused("model");
    const [noStore] = unused("store");
    const parts = unused("object", "view");
    const known = `${counted(status.objects, "object")}, ${counted(status.views, "view")}`;
    if (model) set(rows[1], otherModel ? "warn" : "good", `${model.model_id}, ${model.precision}${otherModel ? `; ${otherModel.name} is not used` : ""}`);
    else set(rows[1], "bad", status.fault || "none");
    if (noStore) set(rows[2], "bad", noStore.text);
    else if (store.repair) set(rows[2], "warn", store.repair);
    else if (parts.length) set(rows[2], "warn", `${known}; ${counted(parts.length, "part")} not used: see Health`);
    else set(rows[2], model ? "good" : "unknown", known);
  };
  listen("status", draw, signal);
  listen("link", draw, signal);
  draw();
  return node;
}

/** The latest events. */
function recent(signal) {
  const list = h("ol.brief");
  let latest = [];
  const draw = () => fill(list, ...latest.map(brief));
  const load = async () => {
    const found = await get(`/events?count=${RECENT}&seen=false`, { signal }).catch(() => null);
    if (!found || signal.aborted) return;
    latest = found.events.reverse();
    draw();
  };
  listen("event", ({ detail }) => {
    if (detail.kind === "seen" || latest.some(({ seq }) => seq === detail.seq)) return;
    latest = [detail, ...latest].slice(0, RECENT);
    draw();
  }, signal);
  listen("lost", load, signal);
  const timer = setInterval(draw, REFRESH_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  load();
  return h("section.card.recent", { "aria-labelledby": "recent" },
    h("div.row.between", {}, h("h2.eyebrow", { id: "recent" }, "Recent events"), h("a.small", { href: "#/events" }, "All events")),
    list,
  );
}
