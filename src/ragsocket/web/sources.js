/**
 * Sources: the row above an answer, the chips in it, the card of a chip, and the document itself,
 * opened at the passage.
 *
 * @module
 */

import { at, el, icon, save } from "./dom.js";
import { Rendered } from "./markdown.js";

/**
 * @import { Client, SearchResult } from "./vendor/ragsocket.js"
 * @import { Panel } from "./panel.js"
 */

/** The vector store that answers come from here: the folder of documents, and uploads beside it. */
export const STORE = "vs_default";

const SHOW_AFTER_MS = 120;
const HIDE_AFTER_MS = 200;
/** A shorter overlap of two passages may be chance. */
const LEAST_OVERLAP = 12;
const MOST_OVERLAP = 4000;

/** @param {SearchResult} source */
const placeOf = ({ attributes }) => String(attributes.place ?? "").replace(/(\d)-(\d)/, "$1–$2");

/** The last part of a path. @param {SearchResult} source */
const nameOf = ({ filename }) => filename.split("/").pop() || filename;

/** What a screen reader says of a source. @param {SearchResult} source */
const inWords = (source) => [source.filename, placeOf(source)].filter(Boolean).join(", ");

/**
 * Passages in order, as one text, without what two neighbours have in common.
 *
 * @param {string[]} passages
 * @returns {{ text: string, starts: number[] }} and where each begins
 */
const joined = (passages) => {
  let text = "";
  const starts = [];
  for (const passage of passages) {
    let common = Math.min(text.length, passage.length, MOST_OVERLAP);
    while (common >= LEAST_OVERLAP && !text.endsWith(passage.slice(0, common))) common--;
    if (common < LEAST_OVERLAP) {
      if (text) text += "\n\n";
      common = 0;
    }
    starts.push(text.length - common);
    text += passage.slice(common);
  }
  return { text, starts };
};

/**
 * Text of a document as it is meant to be read.
 *
 * @param {"div" | "mark"} tag
 * @param {string} text
 * @param {string} filename
 */
const written = (tag, text, filename) => {
  const isMarkdown = /\.(md|markdown)$/i.test(filename);
  const made = el(tag, { class: isMarkdown ? "prose" : "plain", dir: "auto" });
  if (isMarkdown) new Rendered(made, { onMark: () => null }).update(text, { final: true });
  else made.textContent = text;
  return made;
};

/** The longer words of a text. @param {string | null | undefined} text */
const wordsOf = (text) => new Set(text?.toLowerCase().match(/[\p{L}\p{N}]{4,}/gu));

/**
 * The part of a passage that has most words in common with what cites it.
 *
 * @param {Element} passage
 * @param {Set<string>} words
 */
const closest = (passage, words) => {
  const parts = [...passage.querySelectorAll("p, li, tr")];
  const common = parts.map((part) => [...wordsOf(part.textContent)].filter((word) => words.has(word)).length);
  const most = Math.max(0, ...common);
  return most ? /** @type {HTMLElement} */ (parts[common.indexOf(most)]) : null;
};

/** Everything that shows where an answer comes from. */
export class Sources {
  #client;
  #panel;
  #card = /** @type {HTMLElement} */ (at("card"));
  #timer = 0;
  /** The chip whose card is shown. @type {HTMLElement | null} */
  #shown = null;

  /** @param {Client} client @param {Panel} panel */
  constructor(client, panel) {
    this.#client = client;
    this.#panel = panel;
    this.#card.addEventListener("pointerenter", () => clearTimeout(this.#timer));
    this.#card.addEventListener("pointerleave", () => this.#later(HIDE_AFTER_MS, this.hide));
    const scrolled = (/** @type {Event} */ { target }) =>
      this.#card.contains(/** @type {Node} */ (target)) || this.hide();
    document.addEventListener("scroll", scrolled, { capture: true, passive: true });
  }

  /**
   * The row above an answer: every source, best first.
   *
   * @param {SearchResult[]} sources
   */
  row(sources) {
    return el(
      "ol",
      { class: "sources", "aria-label": "Sources" },
      ...sources.map((source, at) =>
        el(
          "li",
          {},
          this.#opening(
            el(
              "button",
              { type: "button", class: "source" },
              el("span", { class: "number" }, String(at + 1)),
              el("bdi", { class: "name" }, nameOf(source)),
              placeOf(source) ? el("span", { class: "place" }, placeOf(source)) : null,
            ),
            sources,
            at,
          ),
        ),
      ),
    );
  }

  /**
   * The chip of a mark `[number]`; null for a mark that names no source.
   *
   * @param {SearchResult[]} sources
   * @param {number} number
   */
  chip(sources, number) {
    const source = sources[number - 1];
    if (!source) return null;
    const name = `Source ${number}: ${inWords(source)}`;
    return this.#opening(
      el("button", { type: "button", class: "cite", "aria-label": name }, String(number)),
      sources,
      number - 1,
    );
  }

  /** Hide the card. @returns {boolean} whether there was one */
  hide = () => {
    clearTimeout(this.#timer);
    const shown = this.#shown;
    this.#shown?.removeAttribute("aria-describedby");
    this.#shown = null;
    if (shown) this.#card.hidePopover();
    return Boolean(shown);
  };

  /**
   * Open a document at a passage.
   *
   * @param {SearchResult[]} sources those of one answer, to step through
   * @param {number} at which
   * @param {string} [step] the button that was pressed for it, if one of the panel was
   */
  async open(sources, at, step = "") {
    const source = /** @type {SearchResult} */ (sources[at]);
    this.hide();
    const page = el("div", { class: "document", tabindex: "0", "aria-label": `Text of ${source.filename}` });
    page.append(el("p", { class: "muted" }, "Opening…"));
    /** @param {number} step @param {string} name */
    const stepping = (step, name) =>
      el(
        "button",
        {
          type: "button",
          class: "button",
          "data-step": name,
          disabled: !sources[at + step],
          onclick: () => this.open(sources, at + step, name),
        },
        name,
      );
    const original = el(
      "button",
      { type: "button", class: "button", onclick: () => this.#saveOriginal(original, source) },
      icon("download"),
      "Original",
    );
    this.#panel.open(nameOf(source), [
      el(
        "div",
        { class: "about-source" },
        el("p", {}, el("bdi", { class: "path" }, source.filename)),
        el(
          "p",
          { class: "muted" },
          `Source ${at + 1} of ${sources.length}`,
          placeOf(source) && ` · ${placeOf(source)}`,
          ` · score ${source.score.toFixed(2)}`,
        ),
        el(
          "div",
          { class: "buttons" },
          sources.length > 1 && stepping(-1, "Previous"),
          sources.length > 1 && stepping(1, "Next"),
          original,
        ),
      ),
      page,
    ]);
    const pressed = document.querySelector(`[data-step="${step}"]:enabled`);
    if (pressed instanceof HTMLElement) pressed.focus();
    /** @type {string[]} */
    let passages = [];
    try {
      const path = `vector_stores/${STORE}/files/${encodeURIComponent(source.file_id)}/content`;
      const { data } = await this.#client.request(path);
      passages = data.map((/** @type {{ text: string }} */ passage) => passage.text);
    } catch {
      original.remove();
    }
    this.#fill(page, source, passages);
  }

  /** @param {HTMLButtonElement} button @param {SearchResult} source */
  async #saveOriginal(button, source) {
    const answer = await fetch(`v1/files/${encodeURIComponent(source.file_id)}/content`).catch(() => null);
    if (answer?.ok) return save(nameOf(source), await answer.blob());
    button.disabled = true;
    button.textContent = "The original is not there";
  }

  /** @param {HTMLElement} page @param {SearchResult} source @param {string[]} passages */
  #fill(page, source, passages) {
    const which = passages.indexOf(source.text);
    const { text, starts } = joined(which < 0 ? [source.text] : passages);
    const start = starts[Math.max(which, 0)] ?? 0;
    const end = start + source.text.length;
    /** @param {"div" | "mark"} tag @param {string} part */
    const part = (tag, part) => written(tag, part, source.filename);
    const passage = part("mark", text.slice(start, end));
    page.replaceChildren(
      ...(which < 0
        ? [el("p", { class: "notice" }, "The document is not there any more, or has changed. This is the passage as it was read.")]
        : []),
      ...(text.slice(0, start).trim() ? [part("div", text.slice(0, start))] : []),
      passage,
      ...(text.slice(end).trim() ? [part("div", text.slice(end))] : []),
    );
    passage.scrollIntoView({ block: "start" });
  }

  /**
   * Let a button show the card and open the document.
   *
   * @template {HTMLElement} T
   * @param {T} button
   * @param {SearchResult[]} sources
   * @param {number} at
   */
  #opening(button, sources, at) {
    const show = () => this.#show(button, /** @type {SearchResult} */ (sources[at]), at + 1);
    button.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") this.#later(SHOW_AFTER_MS, show);
    });
    button.addEventListener("pointerleave", () => this.#later(HIDE_AFTER_MS, this.hide));
    button.addEventListener("focus", () => button.matches(":focus-visible") && show());
    button.addEventListener("blur", this.hide);
    button.addEventListener("click", () => this.open(sources, at));
    return button;
  }

  /** @param {number} ms @param {() => void} then */
  #later(ms, then) {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(then, ms);
  }

  /** @param {HTMLElement} chip @param {SearchResult} source @param {number} number */
  #show(chip, source, number) {
    this.hide();
    if (!chip.isConnected) return;
    this.#shown = chip;
    chip.setAttribute("aria-describedby", "card");
    this.#card.replaceChildren(
      el(
        "p",
        { class: "card-head" },
        el("span", { class: "number" }, String(number)),
        el("bdi", { class: "name" }, source.filename),
      ),
      el("div", { class: "card-text" }, written("div", source.text, source.filename)),
      el(
        "p",
        { class: "muted" },
        [placeOf(source), `score ${source.score.toFixed(2)}`].filter(Boolean).join(" · "),
      ),
    );
    this.#card.showPopover();
    const text = /** @type {HTMLElement} */ (this.#card.querySelector(".card-text"));
    const part = closest(text, wordsOf(chip.closest("p, li, td")?.textContent));
    if (part) text.scrollTop = part.offsetTop - text.offsetTop - part.offsetHeight / 2;
    text.classList.toggle("inside", text.scrollTop > 0);
    const { left, top, bottom } = chip.getBoundingClientRect();
    const { width, height } = this.#card.getBoundingClientRect();
    const x = Math.min(Math.max(8, left - 24), innerWidth - width - 8);
    const above = top - height - 8;
    this.#card.style.left = `${x}px`;
    this.#card.style.top = `${above > 8 ? above : bottom + 8}px`;
  }
}
