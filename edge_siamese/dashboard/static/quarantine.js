/** The section "Quarantine" of the page "Health": parts that failed and are not used, each with a button to use it again. */

import { send } from "./api.js";
import { attempt, button, errorLine, fill, h, icon, setText } from "./dom.js";
import { clock, counted, day } from "./format.js";
import { sentence, toast } from "./toast.js";

/**
 * The section. Its rows stay in place while it is shown: new parts wait for a button, and restored ones keep their row.
 * @returns {{node: HTMLElement, update: (parts: Array<Object>) => void}} `update` takes the parts of `GET /quarantine`
 */
export function quarantine() {
  const rows = new Map();
  const list = h("ul.findings.parts");
  const verdict = h("p", { role: "status" });
  let current = null;

  const addRows = () => {
    const focused = document.activeElement === more;
    for (const part of current) {
      if (rows.has(part.id)) continue;
      const added = row(part);
      rows.set(part.id, added);
      list.append(added.node);
    }
    draw();
    if (focused) list.lastElementChild?.focus();
  };
  const more = button("Show", addRows, { class: "small" });

  const draw = () => {
    const ids = new Set(current.map(({ id }) => id));
    for (const [id, shown] of rows) shown.set(ids.has(id));
    const hidden = current.filter(({ id }) => !rows.has(id)).length;
    setText(verdict, current.length ? `${counted(current.length, "part")} ${current.length === 1 ? "is" : "are"} not used.` : "Nothing is in quarantine.");
    setText(more.lastElementChild, `Show ${hidden}${rows.size ? " more" : ""}`);
    more.classList.toggle("absent", hidden === 0);
  };

  more.classList.add("absent");
  return {
    node: h("section.card", { "aria-labelledby": "quarantine" },
      h("h2", { id: "quarantine" }, "Quarantine"),
      h("p.small.soft", {}, "A part that keeps failing is not used, so that everything else works. Restore it after its cause is repaired."),
      h("div.row.between.tight.parts-line", {}, verdict, more),
      list),
    update(parts) {
      const first = current === null;
      current = parts;
      if (first) addRows();
      else draw();
    },
  };
}

/** One part: what it is, why it is not used, since when, and the button "Restore". */
function row(part) {
  const line = errorLine();
  const restore = async () => {
    const focused = document.activeElement === pressed;
    const done = await attempt(line, pressed, () => send("POST", `/quarantine/${encodeURIComponent(part.id)}/restore`, {}));
    if (!done) return;
    set(false);
    if (focused) node.focus();
    toast(`${sentence(done.text)}.`);
  };
  const pressed = button("Restore", restore, { class: "small", name: `Restore ${part.name}` });
  const since = Number.isNaN(Date.parse(part.time))
    ? "Since this start of the daemon"
    : h("time", { datetime: part.time }, `Since ${day(part.time)}, ${clock(part.time).slice(0, 5)}`);
  const mark = h("span", {}, icon("warn"));
  const node = h("li", { "data-level": "warn", tabindex: "-1" },
    mark,
    h("div", {}, h("p", {}, h("strong", {}, sentence(part.name))), h("p.small", {}, `${sentence(part.reason)}.`), h("p.small.soft", {}, since), line),
    pressed);
  /** @param {boolean} unused whether it is in quarantine */
  const set = (unused) => {
    if (pressed.getAttribute("aria-busy") === "true") return;
    if ((node.dataset.level === "warn") === unused) return;
    node.dataset.level = unused ? "warn" : "good";
    fill(mark, icon(unused ? "warn" : "check"));
    pressed.disabled = !unused;
    setText(pressed.lastElementChild, unused ? "Restore" : "Restored");
  };
  return { node, set };
}
