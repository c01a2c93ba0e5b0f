/** Entry point: session, routing between pages, theme, and the state of the connection. */

import { access, logout, session } from "./api.js";
import { fill, h, icon, setText } from "./dom.js";
import { listen, stream } from "./stream.js";
import { toast } from "./toast.js";
import * as events from "./events.js";
import * as health from "./health.js";
import * as live from "./live.js";
import * as login from "./login.js";
import * as object from "./object.js";
import * as objects from "./objects.js";
import * as regions from "./regions.js";
import * as register from "./register.js";

/** Pages by the first part of the hash; `objects/UID` is one object. */
const PAGES = { live, register, objects, events, health, regions };

const main = document.getElementById("main");
const bar = document.getElementById("bar");
let leaving = new AbortController();
let current = null;

/** Show the page that the hash names. */
function show({ focus = true } = {}) {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, uid] = path.split("/");
  const page = name === "objects" && uid ? object : PAGES[name] ?? live;
  mountPage(page, { uid: decode(uid), query: new URLSearchParams(query) }, focus);
  for (const link of document.querySelectorAll("#nav a")) {
    const isCurrent = link.hash === `#/${PAGES[name] ? PAGES[name].parent ?? name : "live"}`;
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function decode(part) {
  try {
    return decodeURIComponent(part ?? "");
  } catch {
    return "";
  }
}

/** Replace the current page. */
function mountPage(page, route = {}, focus = true) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const heading = h("h1", { tabindex: "-1" }, page.title);
  const place = h(`div.page.page-${page.name}`);
  fill(main, place);
  current = page;
  document.title = `${page.title} – ${document.getElementById("device").textContent}`;
  page.mount(place, { heading, signal, ...route, name: (text) => name(heading, text) });
  window.scrollTo(0, 0);
  if (focus) heading.focus({ preventScroll: true });
}

/** Change the title of the current page. */
function name(heading, text) {
  setText(heading, text);
  document.title = `${text} – ${document.getElementById("device").textContent}`;
}

/** Load the session, then show the pages or the login. */
async function begin({ focus = false } = {}) {
  let found;
  try {
    found = await session();
  } catch (error) {
    fill(main, h("div.page", {}, h("h1", {}, "No connection"), h("p.notice", { role: "alert" }, `${error.message} Retrying.`)));
    setTimeout(begin, 3000);
    return;
  }
  if (found.device) {
    setText(document.getElementById("device"), found.device);
  }
  document.getElementById("logout").hidden = !(found.login && found.authenticated);
  bar.hidden = !found.authenticated;
  document.body.classList.toggle("outside", !found.authenticated);
  if (found.authenticated) {
    stream.start();
    show({ focus });
  } else {
    stream.stop();
    mountPage(login, { device: found.device, done: () => begin({ focus: true }) }, false);
  }
}

function drawTheme() {
  const chosen = window.theme.chosen();
  const named = { system: "system", light: "light", dark: "dark" }[chosen];
  const switcher = document.getElementById("theme");
  fill(switcher, icon(chosen), h("span", {}, "Theme"), h("span.unseen", {}, `: ${named}`));
  switcher.title = `Theme: ${named}`;
}

function drawLink() {
  const text = { connecting: "Connecting", open: "Connected", full: "Too many viewers", lost: "Reconnecting" }[stream.link];
  const state = document.getElementById("link-state");
  state.dataset.link = stream.link;
  setText(state, text);
}

/** Mark the page that shows the quarantine, while anything is in it. */
function drawAlert() {
  document.getElementById("alert").hidden = !stream.status?.quarantine?.length;
}

document.getElementById("theme").addEventListener("click", () => {
  window.theme.next();
  drawTheme();
});
document.getElementById("logout").addEventListener("click", async () => {
  try {
    await logout();
    await begin();
  } catch (error) {
    toast(error.message);
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash names the page
  main.focus();
});
access.addEventListener("signed-out", () => current !== login && begin());
window.addEventListener("hashchange", () => current !== login && show());
listen("link", drawLink, new AbortController().signal);
listen("status", drawAlert, new AbortController().signal);
drawTheme();
drawLink();
begin();
