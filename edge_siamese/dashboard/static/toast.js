/** Short messages at the bottom of the page, with "Undo" after a change. */

import { announce, button, h, setText } from "./dom.js";
import { send } from "./api.js";
import { listen, stream } from "./stream.js";

const SHOWN_MS = 5000;
const WITH_UNDO_MS = 12000;

/**
 * Show a message for a while; it stays while the pointer or the focus is in it.
 * @param {string} text
 * @param {{undo?: boolean, before?: number, undone?: () => void}} [more] `undo`: offer to undo the change. `before`:
 *   `stream.changes` before the change; once another change follows, the offer is withdrawn, since it would undo that one.
 */
export function toast(text, more = {}) {
  const place = document.getElementById("toasts");
  const ending = new AbortController();
  const message = h("p", {}, text);
  const node = h("div.toast", {}, message);
  let timer = 0;

  /** Remove a part of the page; focus in it moves to the main part. */
  const withdraw = (part) => {
    if (part.contains(document.activeElement)) document.getElementById("main").focus();
    part.remove();
  };
  const close = () => {
    ending.abort();
    clearTimeout(timer);
    withdraw(node);
  };
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(close, more.undo ? WITH_UNDO_MS : SHOWN_MS);
  };
  const stay = () => clearTimeout(timer);

  if (more.undo) {
    const undone = (text) => {
      close();
      toast(sentence(text));
      more.undone?.();
    };
    const late = () => withdraw(undo);
    const undo = undoButton({ before: more.before, signal: ending.signal, undone, late, failed: (text) => setText(message, text) });
    node.append(undo);
  }
  node.append(button("Close", close, { icon: "cross", class: "quiet bare", name: "Close this message" }));
  for (const kind of ["pointerenter", "focusin"]) node.addEventListener(kind, stay);
  for (const kind of ["pointerleave", "focusout"]) node.addEventListener(kind, wait);
  // One message at a time: the "Undo" of an older one would undo the latest change.
  place.replaceChildren(node);
  announce(text);
  wait();
}

/**
 * A button that undoes a change while it is the latest one; later it would undo another.
 * @param {{before?: number, signal: AbortSignal, undone: (text: string) => void, late: () => void,
 *   failed: (text: string) => void, class?: string}} what `before`: `stream.changes` before the change
 */
export function undoButton({ before = stream.changes - 1, signal, undone, late, failed, class: classes = "quiet" }) {
  const pressed = button("Undo", async () => {
    pressed.disabled = true;
    try {
      undone((await send("POST", "/undo", {})).text);
    } catch (error) {
      failed(error.message);
    }
  }, { icon: "undo", class: classes });
  listen("event", () => stream.changes > before + 1 && late(), signal);
  return pressed;
}

/** Capitalize the first letter. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
