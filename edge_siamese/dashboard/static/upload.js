/** Picture chooser: file field, phone camera, or drag and drop; with previews. */

import { get, send } from "./api.js";
import { decision, sentences } from "./decision.js";
import { attempt, button, errorLine, fill, h, icon, setText } from "./dom.js";
import { counted } from "./format.js";
import { MAX_PICTURES, prepare, uploadAll } from "./prepare.js";

/**
 * Create the chooser.
 * @param {{signal: AbortSignal, changed: (count: number) => void}} options
 */
export function chooser({ signal, changed }) {
  /** @type {Array<{blob: Blob, url: string, name: string}>} */
  let chosen = [];
  const line = errorLine();
  const previews = h("ul.previews");
  const answer = h("div.answer", { role: "status" });
  const field = h("input.unseen", { type: "file", id: "pictures", accept: "image/*", multiple: true, onchange: () => add(field.files) });
  const phone = h("input.unseen", { type: "file", id: "photo", accept: "image/*", capture: "environment", onchange: () => add(phone.files) });
  const score = button("What is this?", () => recognize(), { class: "small", icon: "eye" });
  const zone = h(
    "div.drop",
    {},
    icon("up"),
    h("p", {}, "Drop pictures of one object here"),
    h("div.row.center", {},
      field, h("label.button", { for: "pictures" }, "Choose pictures"),
      phone, h("label.button.touch-only", { for: "photo" }, "Take a photo"),
    ),
  );
  const node = h("div.chooser", {}, zone, line, previews, h("div.row", {}, score), answer);

  const add = async (files) => {
    setText(line, "");
    const pictures = [...files];
    if (chosen.length + pictures.length > MAX_PICTURES) setText(line, `At most ${MAX_PICTURES} pictures at a time.`);
    for (const file of pictures.slice(0, MAX_PICTURES - chosen.length)) {
      try {
        const blob = await prepare(file);
        chosen.push({ blob, url: URL.createObjectURL(blob), name: file.name });
      } catch (error) {
        setText(line, error.message);
      }
    }
    field.value = phone.value = "";
    draw();
  };

  const remove = (gone) => {
    URL.revokeObjectURL(gone.url);
    chosen = chosen.filter((other) => other !== gone);
    draw();
    field.focus();
  };

  const draw = () => {
    fill(previews, ...chosen.map((item) =>
      h("li", {}, h("img", { src: item.url, alt: item.name }), button("Remove", () => remove(item), { icon: "cross", class: "quiet bare", name: `Remove ${item.name}` })),
    ));
    previews.hidden = chosen.length === 0;
    score.hidden = chosen.length !== 1;
    fill(answer);
    changed(chosen.length);
  };

  const recognize = () => attempt(line, score, async () => {
    const [id] = await uploadAll([chosen[0].blob]);
    const [found] = (await send("POST", "/score", { pictures: [id] })).decisions;
    const view = decision({ small: true });
    const lines = h("div.sentences");
    view.set(found);
    sentences(lines, found.explanation ?? []);
    fill(answer, view.node, lines);
  });

  for (const kind of ["dragenter", "dragover"]) {
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    add(event.dataTransfer.files);
  });
  signal.addEventListener("abort", () => chosen.forEach((item) => URL.revokeObjectURL(item.url)));
  draw();
  return {
    node,
    /** Upload the chosen pictures; returns their ids. */
    send: (progress) => uploadAll(chosen.map((item) => item.blob), (done) => progress(`${done} of ${counted(chosen.length, "picture")} sent`)),
    clear() {
      chosen.forEach((item) => URL.revokeObjectURL(item.url));
      chosen = [];
      draw();
    },
    get count() {
      return chosen.length;
    },
  };
}

/** Fill a select element with all objects; returns them. */
export async function objectOptions(select, signal, chosen = "") {
  const { objects } = await get("/objects", { signal });
  fill(select, ...objects.map(({ uid, name }) => h("option", { value: uid }, name)));
  if (objects.some(({ uid }) => uid === chosen)) select.value = chosen;
  return objects;
}
