/** The page "Register": does what the button at the device does, and more. */

import { pictureOf, send } from "./api.js";
import { frameStrip } from "./frame-strip.js";
import { announce, attempt, button, errorLine, fill, h, icon, picture, say } from "./dom.js";
import { livePicture } from "./live-picture.js";
import { CHANGES, hear, stream } from "./stream.js";
import { sentence, undoButton } from "./toast.js";
import { chooser, objectOptions } from "./upload.js";

export const name = "register";
export const title = "Register";

const BEGINS_MS = 3000;
const ENDS_MS = 70000;

/** @param {HTMLElement} place */
export function mount(place, { heading, signal, query }) {
  const line = errorLine();
  const outcome = h("div.outcome", { role: "status", hidden: true });
  const strip = frameStrip({ signal, ended: (registration, before) => registration.source === "button" && pressed(registration, before) });
  const wanted = form(query.get("view") ?? "", signal, () => go.label());
  const stage = h("div.stage");
  let leaveStage = new AbortController();
  signal.addEventListener("abort", () => leaveStage.abort());
  let pictures = null;
  let over = () => {};

  const go = goButton(() => start());
  go.label = () => go.set(pictures ? "pictures" : "camera", wanted, pictures?.count ?? 0);

  /** Show the camera, or the chooser of pictures. */
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
      if (!pictures && !wanted.target && !wanted.name && !force) return press();
      const body = { force: force || undefined };
      if (pictures) body.pictures = await pictures.send((text) => go.tell(text));
      if (wanted.target) Object.assign(body, { name: wanted.target, view: true });
      else if (wanted.name) body.name = wanted.name;
      if (!pictures) {
        strip.follow();
        go.tell("Capturing: hold the object still …");
      } else go.tell("Registering …");
      const before = stream.changes;
      try {
        show(await send("POST", "/objects", body), before);
        pictures?.clear();
        if (!wanted.target) wanted.clear();
      } catch (error) {
        if (error.status !== 409 || !error.data.reason) throw error;
        refused(error.message, error.data.collides, error.data.reason);
      }
    });
    go.label();
  };

  /** The button at the device, without a finger. */
  const press = async () => {
    strip.follow();
    const end = new Promise((resolve) => (over = resolve));
    await send("POST", "/button", { gesture: "press" });
    go.tell("Capturing: hold the object still …");
    await Promise.race([end, after(BEGINS_MS)]);
    if (strip.waiting) throw new Error("The registration did not start; another one may be in progress.");
    await Promise.race([end, after(ENDS_MS)]);
  };

  /** How a press at the device, or here, ended. */
  const pressed = (registration, before) => {
    over();
    if (registration.saved) show({ text: registration.text, object: registration.uid ? { uid: registration.uid } : null }, before);
    else refused(registration.text, registration.collides);
  };

  const show = ({ text, object }, before) => {
    wanted.refresh();
    outcome.hidden = false;
    outcome.dataset.level = "good";
    const undo = undoButton({ before, signal, undone: (said) => tell(sentence(said)), late: () => undo.remove(), failed: (said) => say(line, said), class: "small" });
    fill(
      outcome,
      icon("check"),
      h("div", {}, h("p.outcome-text", {}, sentence(text), "."), h("p.small", {}, "Turn it a little and add another view. Views from several sides make recognition more reliable.")),
      h("div.row", {},
        object ? button("Add a view", () => wanted.choose(object.uid), { icon: "register", class: "small" }) : null,
        object ? h("a.button.small", { href: `#/objects/${object.uid}` }, "Open") : null,
        undo),
    );
  };

  /** One line in the place of the outcome. */
  const tell = (text) => {
    fill(outcome, icon("undo"), h("p.outcome-text", {}, text));
    wanted.refresh();
  };

  const refused = (text, collides) => {
    outcome.hidden = false;
    outcome.dataset.level = "warn";
    const [what, advice] = split(text);
    const other = collides ? wanted.find(collides) : null;
    fill(
      outcome,
      icon("warn"),
      h("div", {}, h("p.outcome-text", {}, "Not registered: ", what), advice ? h("p.small", {}, sentence(advice), ".") : null),
      h("div.row", {},
        other ? button(`Add a view to ${other.name}`, () => { wanted.choose(other.uid); start(); }, { icon: "register", class: "small" }) : null,
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
    h("div.register-grid", {}, stage, h("section.card.register-form", { "aria-label": "What to register" }, wanted.node, line, go.node, go.hint, outcome, strip.node)),
  );
  source("camera");
}

const after = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** "what was wrong: what to do", apart. */
function split(text) {
  const place = text.lastIndexOf(": ");
  return place < 0 ? [text, ""] : [text.slice(0, place), text.slice(place + 2)];
}

/** The large button. */
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
    tell: (text) => say(label, text),
    set(source, wanted, count) {
      say(label, wanted.target ? "Add a view" : "Register");
      node.disabled = source === "pictures" && count === 0;
      say(hint, source === "pictures"
        ? "Pictures of one side become one view. Add other sides as further views."
        : wanted.target
          ? "Turn the object a little, or place it where it was not recognized, and hold it still."
          : wanted.name
            ? "Hold the object still for a few seconds."
            : "Without a name, this works like the button on the device: the object gets a numbered name, and a second press soon after adds a view.");
    },
  };
}

/** New object and its name, or a view of one that is there. */
function form(target, signal, changed) {
  let objects = [];
  const nameField = h("input", { id: "name", type: "text", maxlength: "100", autocomplete: "off", placeholder: "object 1, object 2 …", oninput: () => changed() });
  const select = h("select", { id: "target", onchange: () => draw() });
  const isNew = h("input", { type: "radio", name: "what", value: "new", checked: !target, onchange: () => draw() });
  const isView = h("input", { type: "radio", name: "what", value: "view", checked: Boolean(target), onchange: () => draw() });
  const nameBox = h("div.field", {}, h("label", { for: "name" }, "Name", h("span.soft", {}, " (optional)")), nameField);
  const crop = h("span.target-crop");
  const viewBox = h("div.field", {}, h("label", { for: "target" }, "Object"), h("div.row.tight", {}, crop, select));
  const node = h("form", { id: "what", onsubmit: (event) => event.preventDefault() },
    h("fieldset.segments.wide", {}, h("legend.unseen", {}, "What to register"), h("label", {}, isNew, h("span", {}, "A new object")), h("label", {}, isView, h("span", {}, "Another view"))),
    nameBox, viewBox,
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
      // The stream says that there is no connection.
    }
  };
  hear("event", ({ detail }) => CHANGES.has(detail.kind) && refresh(), signal);
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
    get name() {
      return isView.checked ? "" : nameField.value.trim();
    },
    get target() {
      return isView.checked ? select.value : "";
    },
  };
}
