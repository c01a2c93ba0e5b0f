/** Questions in a dialog: the focus is kept inside, and goes back to where it came from. */

import { attempt, button, errorLine, h } from "./dom.js";

/**
 * Ask; resolves with what `accept` returned, or null when it was left.
 * @param {string} title
 * @param {{body: (Node|string)[], action: string, danger?: boolean, accept: () => Promise<any>}} what
 * @returns {Promise<any>}
 */
export function ask(title, { body, action, danger = false, accept }) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    const line = errorLine();
    const go = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
    let result = null;
    const form = h(
      "form",
      {
        onsubmit: async (event) => {
          event.preventDefault();
          const found = await attempt(line, go, async () => ({ value: await accept() }));
          if (!found) return;
          result = found.value ?? true;
          dialog.close();
        },
      },
      h("h2", { id: "dialog-title" }, title),
      ...body,
      line,
      h("div.row.end", {}, button("Cancel", () => dialog.close()), go),
    );
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclick: (event) => event.target === dialog && dialog.close() }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
