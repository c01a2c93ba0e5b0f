/** The page "Register": registers objects and views from the camera or from pictures. */

import { pictureOf, send } from "./api.js";
import { frameStrip } from "./frame-strip.js";
import { announce, attempt, button, errorLine, fill, h, icon, picture, setText } from "./dom.js";
import { livePicture } from "./live-picture.js";
import { CHANGES, listen, stream } from "./stream.js";
import { sentence, undoButton } from "./toast.js";
import { chooser, objectOptions } from "./upload.js";
import { watchRegions } from "./watched-regions.js";

export const name = "register";
export const title = "Register";

const MAX_START_MS = 3000;
const MAX_REGISTRATION_MS = 70000;

/** @param {HTMLElement} place */
export function mount(place, { heading, signal, query }) {
  const line = errorLine();
  const outcome = h("div.outcome", { role: "status", hidden: true });
  const strip = frameStrip({ signal, ended: (registration, before) => registration.source === "button" && pressed(registration, before) });
  const choice = form(query.get("view") ?? "", signal, () => go.label());
  const stage = h("div.stage");
  let leaveStage = new AbortController();
  signal.addEventListener("abort", () => leaveStage.abort());
  let pictures = null;
  let over = () => {};

  const go = goButton(() => start());
  go.label = () => go.set(pictures ? "pictures" : "camera", choice, pictures?.count ?? 0);

  /** Show the camera or the picture chooser. */
  const source = (kind) => {
    leaveStage.abort();
    leaveStage = new AbortController();
    const ending = leaveStage.signal;
    pictures = kind === "pictures" ? chooser({ signal: ending, changed: () => pictures && go.label() }) : null;
    fill(stage, pictures ? pictures.node : livePicture({ signal: ending }));
    go.label();
  };

  const start = async (force = false) => {
    fill(outcome);
    outcome.hidden = true;
    await attempt(line, go.node, async () => {
      if (!pictures && !choice.target && !choice.name && !choice.region && !force) return press();
      const body = { force: force || undefined };
      if (pictures) body.pictures = await pictures.send((text) => go.showText(text));
      if (choice.target) Object.assign(body, { name: choice.target, view: true });
      else if (choice.name) body.name = choice.name;
      if (!pictures) {
        if (choice.region) body.region = choice.region;
        strip.follow();
        go.showText("Capturing: hold the object still …");
      } else go.showText("Registering …");
      const before = stream.changes;
      try {
        show(await send("POST", "/objects", body), before);
        pictures?.clear();
        if (!choice.target) choice.clear();
      } catch (error) {
        if (error.status !== 409 || !error.data.reason) throw error;
        refused(error.message, error.data.collides, error.data.reason);
      }
    });
    go.label();
  };

  /** Press the button of the device. */
  const press = async () => {
    strip.follow();
    const end = new Promise((resolve) => (over = resolve));
    await send("POST", "/button", { gesture: "press" });
    go.showText("Capturing: hold the object still …");
    await Promise.race([end, after(MAX_START_MS)]);
    if (strip.waiting) throw new Error("The registration did not start; another one may be in progress.");
    await Promise.race([end, after(MAX_REGISTRATION_MS)]);
  };

  /** Show how a registration by button ended, pressed here or on the device. */
  const pressed = (registration, before) => {
    over();
    if (registration.saved) show({ text: registration.text, object: registration.uid ? { uid: registration.uid } : null }, before);
    else refused(registration.text, registration.collides);
  };

  const show = ({ text, object }, before) => {
    choice.refresh();
    outcome.hidden = false;
    outcome.dataset.level = "good";
    const undo = undoButton({ before, signal, undone: (message) => showText(sentence(message)), late: () => undo.remove(), failed: (message) => setText(line, message), class: "small" });
    fill(
      outcome,
      icon("check"),
      h("div", {}, h("p.outcome-text", {}, sentence(text), "."), h("p.small", {}, "Turn it a little and add another view. Views from several sides make recognition more reliable.")),
      h("div.row", {},
        object ? button("Add a view", () => choice.choose(object.uid), { icon: "register", class: "small" }) : null,
        object ? h("a.button.small", { href: `#/objects/${object.uid}` }, "Open") : null,
        undo),
    );
  };

  /** Replace the outcome by one line. */
  const showText = (text) => {
    fill(outcome, icon("undo"), h("p.outcome-text", {}, text));
    choice.refresh();
  };

  const refused = (text, collides) => {
    outcome.hidden = false;
    outcome.dataset.level = "warn";
    const [what, advice] = split(text);
    const other = collides ? choice.find(collides) : null;
    fill(
      outcome,
      icon("warn"),
      h("div", {}, h("p.outcome-text", {}, "Not registered: ", what), advice ? h("p.small", {}, sentence(advice), ".") : null),
      h("div.row", {},
        other ? button(`Add a view to ${other.name}`, () => { choice.choose(other.uid); start(); }, { icon: "register", class: "small" }) : null,
        collides ? button("Register anyway", () => start(true), { class: "small" }) : button("Try again", () => start(), { icon: "undo", class: "small" })),
    );
    announce(`Not registered: ${text}`);
  };

  const kinds = [["camera", "Camera"], ["pictures", "Pictures"]].map(([key, label]) =>
    h("label", {}, h("input", { type: "radio", name: "source", value: key, checked: key === "camera", onchange: () => source(key) }), h("span", {}, label)),
  );
  fill(
    place,
    h("div.head", {}, heading, h("fieldset.segments", {}, h("legend.unseen", {}, "Source"), ...kinds)),
    h("div.register-grid", {}, stage, h("section.card.register-form", { "aria-label": "What to register" }, choice.node, line, go.node, go.hint, outcome, strip.node)),
  );
  source("camera");
}

const after = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Split "problem: advice". */
function split(text) {
  const place = text.lastIndexOf(": ");
  return place < 0 ? [text, ""] : [text.slice(0, place), text.slice(place + 2)];
}

/** The button "Register" or "Add a view", with a hint. */
function goButton(click) {
  const label = h("span");
  const node = h("button.primary.large", { type: "submit", form: "what" }, icon("register"), label);
  const hint = h("p.small.soft");
  node.addEventListener("click", (event) => {
    event.preventDefault();
    if (document.getElementById("what").reportValidity()) click();
  });
  return {
    node,
    hint,
    showText: (text) => setText(label, text),
    set(source, choice, count) {
      setText(label, choice.target ? "Add a view" : "Register");
      node.disabled = !choice.complete || (source === "pictures" && count === 0);
      setText(hint, source === "pictures"
        ? "Pictures of one side become one view. Add other sides as further views."
        : choice.target
          ? "Turn the object a little, or place it where it was not recognized, and hold it still."
          : choice.name
            ? "Hold the object still for a few seconds."
            : "Without a name, this works like the button on the device: the object gets a numbered name, and a second press soon after adds a view.");
    },
  };
}

/** The form: a new object and its name, or another view of an object. */
function form(target, signal, changed) {
  let objects = [];
  const nameField = h("input", { id: "name", type: "text", maxlength: "100", autocomplete: "off", placeholder: "object 1, object 2 …", oninput: () => changed() });
  const select = h("select", { id: "target", onchange: () => draw() });
  const isNew = h("input", { type: "radio", name: "what", value: "new", checked: !target, onchange: () => draw() });
  // Disabled until the objects are known: without any, the choice would fall back to a new object.
  const isView = h("input", { type: "radio", name: "what", value: "view", checked: Boolean(target), disabled: true, onchange: () => draw() });
  const nameBox = h("div.field", {}, h("label", { for: "name" }, "Name", h("span.soft", {}, " (optional)")), nameField);
  const region = h("select", { id: "region" });
  const regionBox = h("div.field", { hidden: true }, h("label", { for: "region" }, "Region"), region);
  watchRegions(signal, ({ regions }) => {
    regionBox.hidden = regions.length < 2;
    const chosen = region.value;
    fill(region, ...regions.map(({ name }, place) => h("option", { value: place ? name : "" }, place ? name : `${name}, as with the button`)));
    if (regions.slice(1).some(({ name }) => name === chosen)) region.value = chosen;
  });
  const crop = h("span.target-crop");
  const viewBox = h("div.field", {}, h("label", { for: "target" }, "Object"), h("div.row.tight", {}, crop, select));
  const node = h("form", { id: "what", onsubmit: (event) => event.preventDefault() },
    h("fieldset.segments.wide", {}, h("legend.unseen", {}, "What to register"), h("label", {}, isNew, h("span", {}, "A new object")), h("label", {}, isView, h("span", {}, "Another view"))),
    nameBox, viewBox, regionBox,
  );

  const draw = () => {
    isView.disabled = objects.length === 0;
    if (isView.disabled && isView.checked) isNew.checked = true;
    nameBox.hidden = isView.checked;
    viewBox.hidden = !isView.checked;
    const known = objects.find(({ uid }) => uid === select.value);
    fill(crop, known ? picture(pictureOf(known), "") : null);
    changed();
  };

  const refresh = async (chosen = select.value) => {
    try {
      objects = await objectOptions(select, signal, chosen);
      if (target && objects.some(({ uid }) => uid === target)) {
        isView.checked = true;
        target = "";
      }
      draw();
    } catch {
      // The state of the connection is shown elsewhere.
    }
  };
  listen("event", ({ detail }) => CHANGES.has(detail.kind) && refresh(), signal);
  listen("lost", () => refresh(), signal);
  refresh(target);
  nameBox.hidden = Boolean(target);
  viewBox.hidden = !target;

  return {
    node,
    refresh,
    find: (collides) => objects.find(({ uid, name }) => uid === collides || name === collides),
    async choose(uid) {
      isView.checked = true;
      select.value = uid;
      if (select.value !== uid) await refresh(uid);
      draw();
      select.focus();
    },
    clear() {
      nameField.value = "";
      draw();
    },
    /** False while a view is to be added, but the objects are not known yet. */
    get complete() {
      return !isView.checked || select.value !== "";
    },
    get name() {
      return isView.checked ? "" : nameField.value.trim();
    },
    /** The region to register in; empty: the first one, in which the button registers. */
    get region() {
      return region.value;
    },
    get target() {
      return isView.checked ? select.value : "";
    },
  };
}
