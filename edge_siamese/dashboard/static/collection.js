/** Buttons that export and import all objects. */

import { request, upload } from "./api.js";
import { ask } from "./dialog.js";
import { attempt, button, h } from "./dom.js";
import { stream } from "./stream.js";
import { sentence, toast } from "./toast.js";

/** A button that downloads all objects as one file. @param {HTMLElement} line for errors */
export function exportButton(line) {
  const pressed = button("Export", () => attempt(line, pressed, async () => {
    const response = await request("/collection");
    const named = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "");
    const url = URL.createObjectURL(await response.blob());
    h("a", { href: url, download: named?.[1] ?? "objects.zip" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }), { icon: "down" });
  return pressed;
}

const CONFLICTS = {
  rename: ["Keep both", "the imported object gets a number"],
  merge: ["Merge", "adds its views to the existing object"],
  skip: ["Skip", "leaves the existing object unchanged"],
};

/** A button that imports an exported file. @param {() => any} done called after the import */
export function importButton(done) {
  return button("Import", async () => {
    const file = h("input", { type: "file", id: "collection", accept: ".zip,application/zip", required: true });
    const choices = Object.entries(CONFLICTS).map(([key, [label, effect]]) =>
      h("label.choice", {}, h("input", { type: "radio", name: "conflict", value: key, checked: key === "rename" }), h("span", {}, h("strong", {}, label), h("span.small.soft", {}, effect))),
    );
    const choice = h("fieldset", {}, h("legend", {}, "If a name is taken"), ...choices);
    const before = stream.changes;
    const result = await ask("Import objects", {
      body: [h("div.field", {}, h("label", { for: "collection" }, "Exported file"), file), choice],
      action: "Import",
      accept: () => upload(`/collection?on_conflict=${choice.querySelector(":checked").value}`, new Blob([file.files[0]], { type: "application/zip" })),
    });
    if (!result) return;
    toast(sentence(result.text ?? "imported"), { undo: true, before, undone: done });
    done();
  }, { icon: "up" });
}
