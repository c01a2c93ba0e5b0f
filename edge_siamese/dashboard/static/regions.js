/** The page "Regions": draws the places in the picture that are watched separately, with the mouse or the keyboard. */

import { send } from "./api.js";
import { announce, attempt, button, errorLine, fill, h, icon, setText } from "./dom.js";
import { livePicture } from "./live-picture.js";
import { toast } from "./toast.js";
import { layOver, watchRegions } from "./watched-regions.js";

export const name = "regions";
export const title = "Regions";
export const parent = "live";

const MAX_REGIONS = 8;
const MIN_SIDE = 0.05;
const STEP = 0.01;
const NEW_BOX = [0.3, 0.3, 0.4, 0.4];
const CORNERS = ["nw", "ne", "sw", "se"];
const SIDES = ["Left", "Top", "Width", "Height"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** @param {HTMLElement} place */
export function mount(place, { heading, signal }) {
  const layer = h("div.region-layer");
  const list = h("ol.region-list");
  const line = errorLine();
  const notice = h("p.notice", { hidden: true });
  const empty = h("p.soft", {}, "The whole picture is watched. Draw a region to watch only a part of it.");
  const camera = livePicture({ signal, layer });
  const add = button("Add a region", () => insert(NEW_BOX.slice()), { icon: "register" });
  const save = button("Save", () => store(), { class: "primary" });
  const discard = button("Discard changes", () => show(saved), { icon: "undo" });
  /** @type {Array<{settings: Object, box: HTMLElement, row: HTMLElement, draw: () => void}>} */
  let items = [];
  let saved = { regions: [], editable: true, file: "" };

  const regions = () => items.map(({ settings }) => settings);
  const isChanged = () => JSON.stringify(regions()) !== JSON.stringify(saved.regions);

  /** Draw what depends on all regions. */
  const update = () => {
    const locked = !saved.editable;
    empty.hidden = items.length > 0;
    add.disabled = locked || items.length >= MAX_REGIONS;
    save.disabled = discard.disabled = locked || !isChanged();
    items.forEach((item) => item.draw());
  };

  /** Replace all regions. */
  const show = (found) => {
    saved = found;
    items = found.regions.map((settings) => make(structuredClone(settings)));
    notice.hidden = found.editable;
    setText(notice, `These regions are set in ${found.file}. To change them, edit that file and reload the settings.`);
    arrange();
  };

  const arrange = () => {
    fill(layer, ...items.map(({ box }) => box));
    fill(list, ...items.map(({ row }) => row));
    setText(line, "");
    update();
  };

  /** Add a region with a name of its own; it gets the focus. */
  const insert = (box, focus = true) => {
    const names = new Set(items.map(({ settings }) => settings.name.toLowerCase()));
    let number = 1;
    while (names.has(`region ${number}`)) number += 1;
    const item = make({ name: `region ${number}`, box });
    items.push(item);
    arrange();
    if (focus) item.box.focus();
    announce(`${item.settings.name} added`);
    return item;
  };

  const remove = (item) => {
    const index = items.indexOf(item);
    items.splice(index, 1);
    arrange();
    (items[Math.min(index, items.length - 1)]?.box ?? add).focus();
    announce(`${item.settings.name} deleted`);
  };

  /** Make a region the first one, in which the button registers. */
  const promote = (item) => {
    items = [item, ...items.filter((other) => other !== item)];
    arrange();
    item.row.querySelector("input").focus();
    announce(`The button registers in ${item.settings.name}`);
  };

  const store = () => attempt(line, save, async () => {
    const found = await send("PUT", "/regions", { regions: regions() });
    show(found);
    toast(found.regions.length ? "The regions are saved." : "The whole picture is watched.");
  }).then(update);

  /** The elements of a region: its box on the picture, and its row in the list. */
  const make = (settings) => {
    const label = h("span.region-name");
    const box = h("button.region-box", { type: "button", "aria-describedby": "region-help" }, label, ...CORNERS.map((corner) => h("span.region-handle", { "data-corner": corner })));
    const nameField = h("input", { type: "text", maxlength: "32", autocomplete: "off", oninput: () => {
      settings.name = nameField.value;
      update();
    } });
    const fields = SIDES.map((side, place) => h("input", { type: "number", min: place < 2 ? "0" : "5", max: "100", step: "any", onchange: () => {
      const wanted = settings.box.slice();
      wanted[place] = Number(fields[place].value) / 100;
      settings.box = inside(wanted, place >= 2);
      update();
    } }));
    const here = h("span.badge.good", {}, "The button registers here");
    const first = button("Use for the button", () => promote(item), { class: "small" });
    const bin = button("Delete", () => remove(item), { icon: "bin", class: "small" });
    const row = h("li.region-row", {},
      h("label.field", {}, h("span", {}, "Name"), nameField),
      h("fieldset.region-sides", {}, h("legend.unseen", {}), ...SIDES.map((side, place) => h("label.field", {}, h("span.small", {}, `${side} (%)`), fields[place]))),
      h("div.row.between", {}, h("span", {}, here, first), bin));
    const draw = () => {
      const locked = !saved.editable;
      layOver(box, settings.box);
      setText(label, settings.name);
      box.setAttribute("aria-label", `${settings.name}: ${spoken(settings.box)}`);
      box.disabled = nameField.disabled = bin.disabled = first.disabled = locked;
      if (nameField.value !== settings.name) nameField.value = settings.name;
      setText(row.querySelector("legend"), `Place of ${settings.name}`);
      bin.setAttribute("aria-label", `Delete ${settings.name}`);
      first.setAttribute("aria-label", `Use ${settings.name} for the button`);
      fields.forEach((field, place) => {
        field.disabled = locked;
        const value = percent(settings.box[place]);
        if (document.activeElement !== field || Number(field.value) !== Number(value)) field.value = value;
      });
      here.hidden = items[0] !== item;
      first.hidden = items[0] === item;
    };
    const item = { settings, box, row, draw };
    box.addEventListener("keydown", (event) => {
      if (event.key === "Delete") remove(item);
      const arrow = ARROWS[event.key];
      if (!arrow) return;
      event.preventDefault();
      settings.box = shifted(settings.box, arrow[0] * STEP, arrow[1] * STEP, event.shiftKey);
      update();
      announce(spoken(settings.box));
    });
    for (const node of [box, row]) {
      for (const kind of ["focusin", "pointerenter"]) node.addEventListener(kind, () => mark(item));
    }
    return item;
  };

  /** Show which row belongs to which box. */
  const mark = (item) => {
    for (const other of items) {
      other.box.classList.toggle("current", other === item);
      other.row.classList.toggle("current", other === item);
    }
  };

  /** Follow the pointer: on a box it moves or resizes it, elsewhere it draws a new one. */
  layer.addEventListener("pointerdown", (event) => {
    if (!saved.editable || event.button !== 0) return;
    const start = pointIn(layer, event);
    const touched = items.find(({ box }) => box.contains(event.target));
    if (!touched && items.length >= MAX_REGIONS) return;
    event.preventDefault();
    touched?.box.focus();
    const corner = touched && cornerAt(touched.box, event);
    const before = touched?.settings.box.slice();
    let item = touched;
    const move = (moved) => {
      const [x, y] = pointIn(layer, moved);
      const [dx, dy] = [x - start[0], y - start[1]];
      if (!item && Math.min(Math.abs(dx), Math.abs(dy)) < MIN_SIDE) return; // a click, so far
      item ??= insert([start[0], start[1], MIN_SIDE, MIN_SIDE]);
      if (!before) item.settings.box = between(start, [x, y]);
      else item.settings.box = corner ? resized(before, corner, dx, dy) : shifted(before, dx, dy, false);
      update();
    };
    const end = () => {
      for (const [kind, listener] of [["pointermove", move], ["pointerup", end], ["pointercancel", end]]) layer.removeEventListener(kind, listener);
      if (item) announce(`${item.settings.name}: ${spoken(item.settings.box)}`);
    };
    layer.setPointerCapture(event.pointerId);
    layer.addEventListener("pointermove", move);
    layer.addEventListener("pointerup", end);
    layer.addEventListener("pointercancel", end);
  });

  fill(
    place,
    h("p.back", {}, h("a", { href: "#/live" }, icon("back"), "Live")),
    heading,
    notice,
    h("div.live-grid", {},
      h("div.camera", {}, camera),
      h("section.card.side", { "aria-labelledby": "regions-heading" },
        h("h2", { id: "regions-heading" }, "Watched regions"),
        h("p.small.soft", { id: "region-help" }, "Drag on the picture to draw a region, and drag a region to move it. With the keyboard, arrow keys move the region that has the focus, Shift and arrow keys resize it, and Delete removes it."),
        empty, list, line, h("div.row", {}, add, save, discard))),
  );
  show(saved);
  watchRegions(signal, (found) => (isChanged() ? (saved = { ...found, regions: saved.regions }) && update() : show(found)));
}

const percent = (fraction) => String(Math.round(1000 * fraction) / 10);
const spoken = (box) => SIDES.map((side, place) => `${side.toLowerCase()} ${percent(box[place])} %`).join(", ");
const rounded = (fraction) => Math.round(10000 * fraction) / 10000;
const clamped = (value, low, high) => Math.min(Math.max(value, low), high);

/** A box that lies in the picture: moved there, or if `cut` is true, cut off at its edges. */
function inside([left, top, width, height], cut) {
  const [w, h] = [width, height].map((side) => clamped(side || 0, MIN_SIDE, 1));
  const [x, y] = [clamped(left || 0, 0, 1 - (cut ? MIN_SIDE : w)), clamped(top || 0, 0, 1 - (cut ? MIN_SIDE : h))].map(rounded);
  return [x, y, Math.min(w, 1 - x), Math.min(h, 1 - y)].map(rounded);
}

/** A box that is moved, or whose right and lower edges are. */
function shifted([left, top, width, height], dx, dy, resize) {
  return resize ? inside([left, top, width + dx, height + dy], true) : inside([left + dx, top + dy, width, height], false);
}

/** A box whose corner is moved; the opposite one stays. */
function resized([left, top, width, height], corner, dx, dy) {
  const [fixedX, movingX] = corner.includes("w") ? [left + width, left] : [left, left + width];
  const [fixedY, movingY] = corner.includes("n") ? [top + height, top] : [top, top + height];
  return between([fixedX, fixedY], [movingX + dx, movingY + dy]);
}

/** The box between a fixed corner and another point. */
function between([x, y], [otherX, otherY]) {
  const across = side(x, otherX);
  const down = side(y, otherY);
  return [across[0], down[0], across[1], down[1]].map(rounded);
}

/** Start and length from a fixed coordinate to another, not below the smallest side. */
function side(fixed, other) {
  const end = clamped(other, 0, 1);
  const goesBack = end < fixed ? fixed >= MIN_SIDE : fixed > 1 - MIN_SIDE;
  const length = Math.max(Math.abs(end - fixed), MIN_SIDE);
  return goesBack ? [fixed - length, length] : [fixed, Math.min(length, 1 - fixed)];
}

/** The corner of a box that the pointer is at, such as `nw`; empty: none. Firefox has no events for what is in a button. */
function cornerAt(box, event) {
  const { left, right, top, bottom } = box.getBoundingClientRect();
  const reach = Math.min(event.pointerType === "mouse" ? 12 : 22, (right - left) / 3, (bottom - top) / 3);
  const down = event.clientY - top < reach ? "n" : bottom - event.clientY < reach ? "s" : "";
  const across = event.clientX - left < reach ? "w" : right - event.clientX < reach ? "e" : "";
  return down && across ? down + across : "";
}

/** The place of the pointer as fractions of an element. */
function pointIn(node, event) {
  const { left, top, width, height } = node.getBoundingClientRect();
  return [clamped((event.clientX - left) / width, 0, 1), clamped((event.clientY - top) / height, 0, 1)];
}
