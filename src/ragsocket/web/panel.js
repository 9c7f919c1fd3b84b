/**
 * The one panel beside the conversation: it shows documents, or one of them. On a narrow screen
 * it lies over the page and keeps the focus until it is closed.
 *
 * @module
 */

import { at, el } from "./dom.js";

const narrow = matchMedia("(max-width: 70rem)");

/** The panel. */
export class Panel {
  #dialog = /** @type {HTMLDialogElement} */ (at("panel"));
  #title = /** @type {HTMLElement} */ (at("panel-title"));
  #body = /** @type {HTMLElement} */ (at("panel-body"));
  /** @type {Element | null} */
  #opener = null;
  #closed = () => {};

  constructor() {
    at("panel-close").addEventListener("click", () => this.close());
    this.#dialog.addEventListener("close", () => {
      document.body.classList.remove("with-panel");
      this.#closed();
      this.#closed = () => {};
      if (this.#opener instanceof HTMLElement && this.#opener.isConnected) this.#opener.focus();
    });
    this.#dialog.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      this.close();
    });
    // Beside it and over it are two ways of being open.
    narrow.addEventListener("change", () => {
      if (!this.#dialog.open) return;
      this.#dialog.removeAttribute("open");
      this.#show();
    });
  }

  /**
   * Show something, in place of what was shown.
   *
   * @param {string} title
   * @param {(Node | null)[]} content
   * @param {() => void} [closed] called once it is shown no more
   */
  open(title, content, closed = () => {}) {
    this.#closed();
    this.#closed = closed;
    if (!this.#dialog.open) this.#opener = document.activeElement;
    this.#title.replaceChildren(el("bdi", {}, title));
    this.#body.replaceChildren(.../** @type {Node[]} */ (content.filter(Boolean)));
    this.#body.scrollTop = 0;
    if (!this.#dialog.open) this.#show();
    this.#title.focus();
  }

  /** Close it; the focus goes back to where it was opened from. */
  close() {
    this.#dialog.close();
  }

  #show() {
    if (narrow.matches) this.#dialog.showModal();
    else this.#dialog.show();
    document.body.classList.add("with-panel");
  }
}
