/** Helpers that build elements. Text is never parsed as markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an element.
 * @param {string} tag such as `p`, or `p.note.small` with classes
 * @param {Object<string, any>} [props] attributes; `on…` adds a listener, `class` adds classes, null and false are skipped
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
 * A symbol of index.html, hidden from screen readers.
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
 * @param {string} label
 * @param {() => any} click
 * @param {{icon?: string, class?: string, name?: string, disabled?: boolean}} [more] `name`: label for screen readers
 */
export function button(label, click, more = {}) {
  return h(
    "button",
    { type: "button", class: more.class ?? "", "aria-label": more.name, disabled: more.disabled, onclick: click },
    more.icon ? icon(more.icon) : null,
    h("span", {}, label),
  );
}

/** Replace the children of a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set a node's text if it differs, so that nothing is announced or drawn twice. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * A picture, or a symbol if it is missing.
 * @param {string|null} source
 * @param {string} alt empty if the name is next to it
 */
export function picture(source, alt) {
  const frame = h("span.crop");
  const none = () => fill(frame, icon("picture"), alt ? h("span.unseen", {}, `${alt}: no picture`) : null);
  if (!source) none();
  else frame.append(h("img", { src: source, alt, loading: "lazy", decoding: "async", draggable: "false", onerror: none }));
  return frame;
}

/** A cache of picture elements by URL, so that redrawing does not load them again. */
export function pictureShelf() {
  const known = new Map();
  return (source, alt) => {
    const key = `${source} ${alt}`;
    if (!known.has(key)) known.set(key, picture(source, alt));
    return known.get(key);
  };
}

/** A line for an error message, announced by screen readers. */
export function errorLine() {
  return h("p.error", { role: "alert" });
}

/** Show an error; aborted requests are ignored, bugs of the page are logged too. */
export function showError(line, error) {
  if (error.name === "AbortError") return;
  if (error instanceof TypeError || error instanceof ReferenceError) console.error(error);
  setText(line, error.message);
}

/**
 * Run an action with its button disabled, and show its error.
 * @template T
 * @param {HTMLElement} line of `errorLine`
 * @param {HTMLButtonElement|null} pressed
 * @param {() => Promise<T>} action
 * @returns {Promise<T|undefined>}
 */
export async function attempt(line, pressed, action) {
  setText(line, "");
  const focused = document.activeElement === pressed;
  if (pressed) {
    pressed.disabled = true;
    pressed.setAttribute("aria-busy", "true");
  }
  try {
    return await action();
  } catch (error) {
    showError(line, error);
    return undefined;
  } finally {
    if (pressed) {
      pressed.disabled = false;
      pressed.removeAttribute("aria-busy");
      // A disabled button loses the focus, which keyboard users need back.
      if (focused && pressed.isConnected && document.activeElement === document.body) pressed.focus();
    }
  }
}

/** Announce a text to screen readers. */
export function announce(text) {
  const place = document.getElementById("announcer");
  if (place && text) place.textContent = text;
}
