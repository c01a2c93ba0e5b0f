/** Modal dialogs; the focus returns to where it was. */

import { attempt, button, errorLine, h } from "./dom.js";

/**
 * Open a dialog; resolves with the result of `accept`, or null if it was canceled.
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
