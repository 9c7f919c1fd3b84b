/**
 * Where a question is written: Enter sends, Shift+Enter breaks the line, Esc stops the answer.
 *
 * @module
 */

import { at } from "./dom.js";

/** Where what was not sent is kept over a reload. */
const DRAFT = "ragsocket-draft";

/** True while an input method composes a word; its Enter takes the word. @param {KeyboardEvent} event */
export const composes = (event) => event.isComposing || event.keyCode === 229;

/** The form at the foot of the page. */
export class Composer {
  #form = /** @type {HTMLFormElement} */ (at("composer"));
  #text = /** @type {HTMLTextAreaElement} */ (at("question"));
  #send = /** @type {HTMLButtonElement} */ (at("send"));
  #stop = /** @type {HTMLButtonElement} */ (at("stop"));
  #hint = /** @type {HTMLElement} */ (at("hint"));
  /** Where a finger opens a keyboard that covers half of the page, and Enter is for new lines. */
  #isTouch = matchMedia("(pointer: coarse)").matches;

  /**
   * @param {object} to
   * @param {(text: string) => void} to.ask
   * @param {() => void} to.stop
   * @param {() => void} to.editLast
   */
  constructor({ ask, stop, editLast }) {
    this.#text.value = sessionStorage.getItem(DRAFT) ?? "";
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.#text.value.trim();
      if (!text) return;
      this.#text.value = "";
      this.#changed();
      ask(text);
    });
    this.#text.addEventListener("input", () => this.#changed());
    this.#text.addEventListener("keydown", (event) => {
      if (composes(event)) return;
      if (event.key === "Enter" && !event.shiftKey && !this.#isTouch) {
        event.preventDefault();
        this.#form.requestSubmit();
      } else if (event.key === "ArrowUp" && !this.#text.value) {
        event.preventDefault();
        editLast();
      }
    });
    this.#stop.addEventListener("click", () => {
      stop();
      this.focus();
    });
    this.#changed();
  }

  /** Say whether an answer is being written: then it can be stopped, and what is sent steers it. @param {boolean} answering */
  set answering(answering) {
    this.#stop.hidden = !answering;
    this.#text.placeholder = answering ? "Change its course…" : "Ask about your documents";
    if (this.#isTouch) return;
    this.#hint.textContent = answering
      ? "Enter changes the answer’s course · Esc stops it"
      : "Enter sends · Shift+Enter for a new line";
  }

  /** Put a question there, to be changed or sent. @param {string} text */
  set value(text) {
    this.#text.value = text;
    this.#changed();
    this.focus();
  }

  /** Put the focus there, unless that would open a keyboard nobody asked for. */
  focus() {
    if (!this.#isTouch) this.#text.focus();
  }

  #changed() {
    sessionStorage.setItem(DRAFT, this.#text.value);
    this.#send.disabled = !this.#text.value.trim();
    if (CSS.supports("field-sizing", "content")) return;
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight}px`;
  }
}
