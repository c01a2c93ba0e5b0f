/** The page "Objects": the registered objects as a grid of pictures. */

import { get, pictureOf, send } from "./api.js";
import { exportButton, importButton } from "./collection.js";
import { attempt, button, errorLine, fill, h, icon, picture, pictureShelf, setText, showError } from "./dom.js";
import { ago, counted } from "./format.js";
import { CHANGES, listen } from "./stream.js";
import { sentence, toast } from "./toast.js";

export const name = "objects";
export const title = "Objects";

const MIN_SEARCHED = 9;
const REFRESH_MS = 20000;

/** @param {HTMLElement} place */
export function mount(place, { heading, signal }) {
  const line = errorLine();
  const count = h("p.soft.small", { role: "status" });
  const grid = h("ul.objects");
  const empty = h("div.empty", { hidden: true }, icon("objects"), h("p", {}, "No objects are registered yet."), h("a.button.primary", { href: "#/register" }, icon("register"), "Register the first object"));
  const search = h("input", { type: "search", id: "search", placeholder: "Search", oninput: () => draw() });
  const searchBox = h("div.search", { hidden: true }, h("label.unseen", { for: "search" }, "Search by name"), search);
  const undo = button("Undo", () => attempt(line, undo, async () => toast(sentence((await send("POST", "/undo", {})).text))), { icon: "undo", name: "Undo the last change" });
  const pictures = pictureShelf();
  const shelf = (object) => (object.last_view === null ? picture(null, "") : pictures(pictureOf(object), ""));
  let objects = [];

  const draw = () => {
    const query = search.value.trim().toLocaleLowerCase();
    const found = objects.filter((object) => object.name.toLocaleLowerCase().includes(query));
    searchBox.hidden = objects.length < MIN_SEARCHED;
    empty.hidden = objects.length > 0;
    setText(count, objects.length === 0 ? "" : query ? `${found.length} of ${counted(objects.length, "object")}` : counted(objects.length, "object"));
    const focused = document.activeElement?.getAttribute("href");
    fill(grid, ...found.map((object) => card(object, shelf)));
    if (focused && document.activeElement === document.body) [...grid.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  };

  const load = async () => {
    try {
      ({ objects } = await get("/objects", { signal }));
      setText(line, "");
      draw();
    } catch (error) {
      showError(line, error);
    }
  };

  fill(place,
    h("div.head", {}, h("div", {}, heading, count), h("div.row", {}, undo, exportButton(line), importButton(load))),
    searchBox, line, grid, empty,
  );
  const present = new Set(["appeared", "left", "seen"]);
  listen("event", ({ detail }) => (CHANGES.has(detail.kind) || present.has(detail.kind)) && load(), signal);
  listen("lost", load, signal);
  const timer = setInterval(draw, REFRESH_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  load();
}

function card(object, shelf) {
  const { uid, views, negatives, embedded, last_seen: seen, present } = object;
  return h("li", {}, h("a.object", { href: `#/objects/${uid}` },
    shelf(object),
    h("span.object-name", {}, object.name),
    h("span.small.soft", {}, counted(views, "view"), negatives ? `, ${counted(negatives, "negative")}` : ""),
    present
      ? h("span.badge.good", {}, "present")
      : embedded === 0
        ? h("span.badge.warn", {}, "unknown to the current model")
        : h("span.small.soft", {}, seen ? `seen ${ago(seen)}` : "not seen yet"),
  ));
}
