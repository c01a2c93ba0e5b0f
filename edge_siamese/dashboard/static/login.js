/** The page "Log in". */

import { login } from "./api.js";
import { attempt, errorLine, fill, h, icon } from "./dom.js";

export const name = "login";
export const title = "Log in";

/** @param {HTMLElement} place */
export function mount(place, { heading, device, done }) {
  const line = errorLine();
  const go = h("button.primary.wide", { type: "submit" }, "Log in");
  const field = h("input", { type: "password", id: "password", name: "password", autocomplete: "current-password", required: true });
  const form = h(
    "form.card",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        const ok = await attempt(line, go, async () => {
          await login(field.value);
          return true;
        });
        if (ok) done();
        else field.select();
      },
    },
    h("p.brand", {}, icon("eye"), device || "edge-siamese"),
    heading,
    h("input.unseen", { type: "text", name: "username", value: "edge-siamese", autocomplete: "username", tabindex: "-1", "aria-hidden": "true", readonly: true }),
    h("label", { for: "password" }, "Password"),
    field,
    line,
    go,
    h("p.small.soft", {}, "To reset it, run on the device: sudo edge-siamese dashboard password"),
  );
  fill(place, form);
  field.focus();
}
