/** Builds elements. Text is always set as text, so that a name can never become markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element.
 * @param {string} tag such as `p`, or `p.note.small` with classes
 * @param {Object<string, any>} [props] attributes; `on…` are listeners, `class` is added, null and false are left out
 * @param {...(Node|string|number|null|false|undefined)} children strings become text
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  node.classList.add(...classes);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.classList.add(...value.split(" ").filter(Boolean));
    else if (key === "value") node.value = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/**
 * A symbol of index.html; decoration, so what it means has to be said in words too.
 * @param {string} name
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/**
 * A button.
 * @param {string} label what it says
 * @param {() => any} click
 * @param {{icon?: string, class?: string, name?: string, disabled?: boolean}} [more] `name`: what a screen reader says
 */
export function button(label, click, more = {}) {
  return h(
    "button",
    { type: "button", class: more.class ?? "", "aria-label": more.name, disabled: more.disabled, onclick: click },
    more.icon ? icon(more.icon) : null,
    h("span", {}, label),
  );
}

/** Replace all that is inside of a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set a node's text if it is another one, so that nothing is announced or drawn twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * A picture that may not be there; then a quiet mark stands in its place.
 * @param {string|null} source
 * @param {string} alt empty where the name stands beside it
 */
export function picture(source, alt) {
  const frame = h("span.crop");
  const none = () => fill(frame, icon("picture"), alt ? h("span.unseen", {}, `${alt}: no picture`) : null);
  if (!source) none();
  else frame.append(h("img", { src: source, alt, loading: "lazy", decoding: "async", draggable: "false", onerror: none }));
  return frame;
}

/** Pictures by their addresses, so that a page that is drawn anew does not ask for them anew. */
export function pictureShelf() {
  const known = new Map();
  return (source, alt) => {
    const key = `${source} ${alt}`;
    if (!known.has(key)) known.set(key, picture(source, alt));
    return known.get(key);
  };
}

/** A place for what went wrong, in one line; announced when it is filled. */
export function errorLine() {
  return h("p.error", { role: "alert" });
}

/** Tell an error in its place; one of the page itself goes to the console too. A request that was ended is none. */
export function tell(line, error) {
  if (error.name === "AbortError") return;
  if (error instanceof TypeError || error instanceof ReferenceError) console.error(error);
  say(line, error.message);
}

/**
 * Do something that may fail, with its button disabled meanwhile; a failure is told where it happened.
 * @template T
 * @param {HTMLElement} line of `errorLine`
 * @param {HTMLButtonElement|null} pressed
 * @param {() => Promise<T>} action
 * @returns {Promise<T|undefined>}
 */
export async function attempt(line, pressed, action) {
  say(line, "");
  const focused = document.activeElement === pressed;
  if (pressed) {
    pressed.disabled = true;
    pressed.setAttribute("aria-busy", "true");
  }
  try {
    return await action();
  } catch (error) {
    tell(line, error);
    return undefined;
  } finally {
    if (pressed) {
      pressed.disabled = false;
      pressed.removeAttribute("aria-busy");
      // A button that was disabled has lost the focus; whoever uses the keyboard goes on from there.
      if (focused && pressed.isConnected && document.activeElement === document.body) pressed.focus();
    }
  }
}

/** Tell a screen reader, politely. */
export function announce(text) {
  const place = document.getElementById("announcer");
  if (place && text) place.textContent = text;
}
