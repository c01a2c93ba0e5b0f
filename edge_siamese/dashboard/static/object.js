/** The page of one object: its name, views and negatives. */

import { get, pictureOf, send, viewPicture } from "./api.js";
import { ask } from "./dialog.js";
import { attempt, button, errorLine, fill, h, icon, picture, pictureShelf, setText, showError } from "./dom.js";
import { ago, counted, day } from "./format.js";
import { CHANGES, listen, stream } from "./stream.js";
import { sentence, toast } from "./toast.js";
import { objectOptions } from "./upload.js";

export const name = "one-object";
export const title = "Object";

const SOURCES = { camera: "from the camera", picture: "from pictures", button: "with the button", command: "from the command line", dashboard: "on the dashboard", mqtt: "over MQTT", wrong: "reported as wrong", fleet: "from another device" };

/** @param {HTMLElement} place */
export function mount(place, { heading, signal, uid, name: setTitle }) {
  const line = errorLine();
  const crop = h("div.portrait");
  const about = h("p.soft");
  const others = h("p.small.soft");
  const views = h("ul.views");
  const negatives = h("ul.views");
  const negativeBox = h("section", { hidden: true, "aria-labelledby": "negatives" }, h("h2", { id: "negatives" }, "Negatives"), h("p.small.soft", {}, "Views reported as wrong. Pictures that look like them are not recognized as this object."), negatives);
  const nameField = h("input", { id: "new-name", type: "text", maxlength: "100", required: true, autocomplete: "off" });
  const save = h("button", { type: "submit" }, "Rename");
  const addView = h("a.button.primary", { href: `#/register?view=${uid}` }, icon("register"), "Add a view");
  const body = h("div", { hidden: true });
  const shelf = pictureShelf();
  let object = null;
  let gone = false;

  const refresh = async () => {
    if (gone) return;
    try {
      const [found, kept] = await Promise.all([get(`/objects/${uid}`, { signal }), get(`/objects/${uid}/views`, { signal })]);
      object = found;
      setText(line, "");
      draw(kept.views);
      await compare();
    } catch (error) {
      showError(line, error);
      if (error.status === 404) body.hidden = true;
    }
  };

  /** How different the object is from everything else the camera sees. */
  const compare = async () => {
    const { objects } = await get("/surroundings", { signal });
    const known = objects.find((one) => one.uid === uid);
    const strict = known?.tightened ? " It is recognized more strictly because of that." : "";
    const advice = known?.near ? `${strict} Another view may help.` : "";
    setText(others, known ? `${sentence(known.text)}.${advice}` : "");
  };

  const draw = (kept) => {
    body.hidden = false;
    setTitle(object.name);
    if (document.activeElement !== nameField) nameField.value = object.name;
    fill(crop, object.last_view === null ? picture(null, "") : shelf(pictureOf(object), ""));
    const seen = object.present ? "present" : object.last_seen ? `seen ${ago(object.last_seen)}` : "not seen yet";
    setText(about, `Registered on ${day(object.created)}; ${seen}.`);
    const own = kept.filter((view) => view.kind === "view");
    const wrong = kept.filter((view) => view.kind !== "view");
    fill(views, ...own.map((view, place) => tile(view, place + 1, own.length > 1)));
    fill(negatives, ...wrong.map((view, place) => tile(view, place + 1, true)));
    negativeBox.hidden = wrong.length === 0;
  };

  const tile = (view, number, removable) => {
    const what = view.kind === "view" ? "view" : "negative";
    const gone = button("Remove", () => change(gone, async () => {
      await send("DELETE", `/objects/${uid}/views/${view.id}`);
      return `A ${what} of “${object.name}” is removed.`;
    }), { icon: "bin", class: "quiet small", name: `Remove ${what} ${number}`, disabled: !removable });
    const pictures = Array.from({ length: Math.max(1, view.crops) }, (_, index) => view.crops ? shelf(viewPicture(view.id, index), index ? "" : `${what} ${number}`) : picture(null, `${what} ${number}`));
    return h("li.view", { "data-view": String(view.id) },
      h("div.view-pictures", { "data-count": String(pictures.length) }, ...pictures),
      h("p.small", {}, `${what === "view" ? "View" : "Negative"} ${number}`, h("span.soft", {}, ` ${SOURCES[view.source] ?? view.source}, ${ago(view.created)}`)),
      removable ? gone : h("p.small.soft", {}, "The last view cannot be removed; forget the object instead."));
  };

  /** Make a change and offer to undo it. */
  const change = async (pressed, action, after = refresh) => {
    const before = stream.changes;
    const text = await attempt(line, pressed, action);
    if (!text) return;
    toast(text, { undo: true, before, undone: () => (signal.aborted ? null : refresh()) });
    await after();
  };

  const rename = h("form.rename", {
    onsubmit: (event) => {
      event.preventDefault();
      const newName = nameField.value.trim();
      if (newName === object?.name) return;
      change(save, async () => {
        const before = object.name;
        ({ object } = await send("PATCH", `/objects/${uid}`, { new: newName }));
        return `“${before}” was renamed to “${object.name}”.`;
      });
    },
  }, h("label", { for: "new-name" }, "Name"), h("div.row.tight", {}, nameField, save));

  /** Run an action that removes the object; unless it fails, the page is no longer refreshed. */
  const end = async (action) => {
    gone = true;
    try {
      return await action();
    } catch (error) {
      gone = false;
      throw error;
    }
  };

  const forget = button("Forget", () => change(forget, async () => {
    await end(() => send("DELETE", `/objects/${uid}`));
    return `“${object.name}” was forgotten.`;
  }, () => { location.hash = "#/objects"; }), { icon: "bin", class: "danger" });

  const merge = button("Merge …", async () => {
    const select = h("select", { id: "into", required: true });
    const objects = await attempt(line, merge, () => objectOptions(select, signal));
    if (!objects) return;
    select.querySelector(`option[value="${CSS.escape(uid)}"]`)?.remove();
    if (!select.options.length) {
      setText(line, "There is no other object.");
      return;
    }
    const before = stream.changes;
    const merged = await ask(`Merge “${object.name}” into another object`, {
      body: [h("p.soft", {}, "The other object keeps its name, and gets all views and negatives of this one."), h("div.field", {}, h("label", { for: "into" }, "Into"), select)],
      action: "Merge",
      accept: () => end(() => send("POST", `/objects/${uid}/merge`, { into: select.value })),
    });
    if (!merged) return;
    const into = merged.object;
    toast(`“${object.name}” was merged into “${into.name}”, which now has ${counted(into.views, "view")}.`, { undo: true, before });
    location.hash = `#/objects/${into.uid}`;
  }, { icon: "merge" });

  fill(body,
    h("div.object-head", {}, crop, h("div", {}, about, others, rename, h("div.row", {}, addView, merge, forget))),
    h("section", { "aria-labelledby": "views" }, h("h2", { id: "views" }, "Views"), views),
    negativeBox,
  );
  fill(place, h("p.back", {}, h("a", { href: "#/objects" }, icon("back"), "Objects")), heading, line, body);
  listen("event", ({ detail }) => {
    const ended = (detail.kind === "forgotten" && detail.uid === uid) || (detail.kind === "merged" && detail.from === uid);
    if (ended && !gone) {
      gone = body.hidden = true;
      setText(line, detail.text);
    } else if (detail.kind === "undone" && detail.uid === uid) gone = false;
    if (CHANGES.has(detail.kind) || detail.uid === uid) refresh();
  }, signal);
  refresh();
}
