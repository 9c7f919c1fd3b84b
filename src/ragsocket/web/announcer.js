/**
 * What a screen reader is told of an answer: whole sentences, never tokens.
 *
 * @module
 */

const PAUSE_MS = 1200;
const SENTENCE = /[.!?…。！？](?:["'”»)\]]|\s*\[\d+\])*(?=\s)|\n/g;

/** Text as it is read out: without marks and the signs of markdown. @param {string} text */
const spoken = (text) =>
  text
    .replace(/\[\d+\]/g, "")
    .replace(/^[#>\s]+|[*_`|]+/gm, " ")
    .replace(/\s+/g, " ")
    .trim();

/** A polite live region. */
export class Announcer {
  #region;
  /** @type {string[]} */
  #waiting = [];
  #timer = 0;
  #told = 0;

  /** @param {HTMLElement} region with `aria-live` */
  constructor(region) {
    this.#region = region;
  }

  /** Say something as soon as what was said before had its time. @param {string} text */
  say(text) {
    if (!text) return;
    this.#waiting.push(text);
    this.#timer ||= window.setTimeout(this.#flush, 50);
  }

  /** An answer begins. */
  begin() {
    this.#told = 0;
  }

  /**
   * Say the sentences of an answer that are new and whole; at its end the rest, too.
   *
   * @param {string} text all of the answer so far
   * @param {boolean} [final]
   */
  follow(text, final = false) {
    let end = final ? text.length : this.#told;
    if (!final) {
      SENTENCE.lastIndex = this.#told;
      for (let found; (found = SENTENCE.exec(text));) end = SENTENCE.lastIndex;
    }
    if (end > this.#told) this.say(spoken(text.slice(this.#told, end)));
    this.#told = end;
  }

  #flush = () => {
    this.#region.textContent = this.#waiting.join(" ");
    const more = this.#waiting.length > 0;
    this.#waiting = [];
    this.#timer = more ? window.setTimeout(this.#flush, PAUSE_MS) : 0;
  };
}
