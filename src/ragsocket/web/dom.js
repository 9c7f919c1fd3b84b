/**
 * Making elements, and saying sizes and times in words.
 *
 * @module
 */

/**
 * Make an element. Properties that are functions are listeners (`onclick`), true and false set
 * or leave out an attribute, null leaves it out.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | null | false)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export const el = (tag, properties = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, String(value));
  }
  made.append(.../** @type {(Node | string)[]} */ (children.filter((child) => child)));
  return made;
};

const SVG = "http://www.w3.org/2000/svg";

/** A picture from the sheet in the page; it says nothing to a screen reader. @param {string} name */
export const icon = (name) => {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("class", "icon");
  picture.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  picture.append(use);
  return picture;
};

/**
 * A button that is a picture; its name is read out, and shown when the pointer rests on it.
 *
 * @param {string} picture
 * @param {string} name
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, any>} [properties]
 */
export const iconButton = (picture, name, onclick, properties = {}) =>
  el(
    "button",
    { type: "button", class: "icon-button", "aria-label": name, title: name, onclick, ...properties },
    icon(picture),
  );

/**
 * The element with an id, which is in the page.
 *
 * @param {string} id
 * @returns {any}
 */
export const at = (id) => document.getElementById(id);

/** What the server says, as a sentence of its own. @param {string} text */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** @param {number} bytes */
export const size = (bytes) =>
  bytes < 1000
    ? `${bytes} B`
    : bytes < 1e6
      ? `${Math.round(bytes / 1000)} kB`
      : `${(bytes / 1e6).toFixed(1)} MB`;

/** @param {number | null} ms */
export const duration = (ms) =>
  ms === null ? "–" : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;

/** @param {number} count @param {string} one @param {string} [many] */
export const plural = (count, one, many = `${one}s`) =>
  `${count.toLocaleString()} ${count === 1 ? one : many}`;

/** @param {string} text @returns {boolean} whether it could be copied */
const copyInTheOldWay = (text) => {
  const { activeElement } = document;
  const field = el("textarea", { class: "unseen", readonly: true });
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (activeElement instanceof HTMLElement) activeElement.focus();
  return isCopied;
};

/**
 * Put text where a user can paste it; where the browser will not, the button says so.
 *
 * @param {string} text
 * @param {HTMLElement} button what was pressed; it shows for a moment that it is done
 */
export const copy = async (text, button) => {
  // There is none on a page that came without TLS from another machine.
  const { clipboard } = /** @type {{ clipboard?: Clipboard }} */ (navigator);
  const isCopied = clipboard
    ? await clipboard.writeText(text).then(
        () => true,
        () => false,
      )
    : copyInTheOldWay(text);
  const said = isCopied ? "Copied" : "Copying is not allowed here";
  const before = button.title;
  button.title = said;
  button.dataset.said = said;
  setTimeout(() => {
    button.title = before;
    delete button.dataset.said;
  }, 1600);
};

/**
 * Save something as a file.
 *
 * @param {string} name
 * @param {Blob} content
 */
export const save = (name, content) => {
  const url = URL.createObjectURL(content);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
};
