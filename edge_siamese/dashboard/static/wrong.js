/** Rejects a recognition; asks what it really was if the device keeps pictures for training. */

import { get, send } from "./api.js";
import { ask } from "./dialog.js";
import { fill, h } from "./dom.js";
import { stream } from "./stream.js";

/** Whether the settings allow names and pictures for training; asks the device if its first status has not arrived. */
export async function asksForName() {
  const { training } = stream.status ?? (await get("/status"));
  return training.collect_pictures;
}

/**
 * Reject a recognition; resolves with the message to show, or null if it was canceled.
 * @param {{decision?: string, name?: string}} which the recognition; empty: the last one
 * @param {string} recognized name of the object
 * @returns {Promise<string|null>}
 */
export async function reject(which, recognized) {
  let actual = "";
  const post = async () => {
    const { object } = await send("POST", "/wrong", { ...which, actual: actual || undefined });
    return `Kept as a negative of “${object.name}”${actual ? `, and as “${actual}” for training` : ""}.`;
  };
  if (!(await asksForName())) return post();

  const field = h("input", { id: "actual", type: "text", maxlength: "100", autocomplete: "off", list: "actual-names", "aria-describedby": "actual-hint" });
  const names = h("datalist", { id: "actual-names" });
  const offer = ({ objects }) => fill(names, ...objects.filter(({ name }) => name !== recognized).map(({ name }) => h("option", { value: name })));
  get("/objects").then(offer, () => {}); // without them, the name is typed in full
  return ask(`This was not ${recognized}`, {
    body: [h("div.field", {},
      h("label", { for: "actual" }, "What was it?", h("span.soft", {}, " (optional)")),
      field,
      names,
      h("p.small.soft", { id: "actual-hint" }, "The picture is kept under this name for training."))],
    action: "Keep as a negative",
    accept: () => {
      actual = field.value.trim();
      return post();
    },
  });
}
