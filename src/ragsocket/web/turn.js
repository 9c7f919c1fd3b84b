/**
 * One question and its answer, as they are shown.
 *
 * @module
 */

import { composes } from "./composer.js";
import { copy, duration, el, icon, iconButton, sentence } from "./dom.js";
import { Rendered } from "./markdown.js";
import { RateLimited } from "./vendor/ragsocket.js";

/**
 * @import { Answer, Client, RagsocketError, Response, SearchResult } from "./vendor/ragsocket.js"
 * @import { Announcer } from "./announcer.js"
 * @import { Sources } from "./sources.js"
 */

/**
 * @typedef {object} Told An answer that was given earlier.
 * @property {string} text
 * @property {SearchResult[]} sources
 * @property {string | null} responseId
 *
 * @typedef {object} Around What a turn is told and asks for.
 * @property {Client} client
 * @property {Sources} sources
 * @property {Announcer} announcer
 * @property {(turn: Turn) => void} regenerate answer the same question anew
 * @property {(turn: Turn, question: string) => void} edit ask another in its place
 * @property {(turn: Turn) => void} began the answer has a name and a place in the conversation
 * @property {(turn: Turn) => void} grew there is more to see
 * @property {(turn: Turn) => void} ended
 */

/** Why an answer ended before it was whole, for people. @type {Record<string, string>} */
const ENDED = {
  cancelled: "Stopped.",
  steered: "Stopped for what you wrote next.",
  client_lost: "Stopped: nobody was reading any more.",
  shutdown: "The server shut down before the answer was whole.",
  worker_lost: "The server was lost before the answer was whole.",
  max_output_tokens: "The answer ends here because it reached its greatest length.",
  content_filter: "The model's server withheld the rest.",
};
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;
const ASK_AGAIN = new Set(["client_lost", "shutdown", "worker_lost"]);

/** A turn of the conversation. */
export class Turn {
  /** The question's text. */
  question;
  /** Id of the response; null until the server has named it. @type {string | null} */
  responseId = null;
  /** Id of the response that this one goes on from; undefined while that is not known. @type {string | null | undefined} */
  previous;
  /** The answer while it is being written. @type {Answer | null} */
  answer = null;
  /** @type {SearchResult[]} */
  sources = [];
  text = "";

  #around;
  /** @type {Rendered | null} */
  #rendered = null;
  /** @type {Response | null} */
  #response = null;
  #frame = 0;
  #searching = false;
  #countdown = 0;
  /** @type {string | null} */
  #reasoning = null;

  // What it is shown by.
  #asked = el("div", { class: "asked" });
  #status = el("p", { class: "status" });
  #row = el("div", { class: "source-row" });
  #thoughts = el("details", { class: "thoughts" });
  #prose = el("div", { class: "prose" });
  #notice = el("div", { class: "notice", role: "note" });
  #actions = el("div", { class: "actions" });
  #facts = el("dl", { class: "facts" });
  element = el(
    "li",
    { class: "turn" },
    el("section", { class: "question", "aria-label": "Question" }, this.#asked),
    el(
      "section",
      { class: "answer", "aria-label": "Answer" },
      this.#row,
      this.#status,
      this.#thoughts,
      this.#prose,
      this.#notice,
      this.#actions,
      this.#facts,
    ),
  );

  /** @param {string} question @param {Around} around */
  constructor(question, around) {
    this.question = question;
    this.#around = around;
    this.#showQuestion();
    for (const part of [this.#notice, this.#facts, this.#thoughts, this.#status])
      part.hidden = true;
  }

  /** True while the answer is being written. */
  get isRunning() {
    return this.answer !== null;
  }

  /** The resource, once the answer has ended. */
  get response() {
    return this.#response;
  }

  /**
   * Show an answer as it is written, and keep on until it ends.
   *
   * @param {Answer} answer
   */
  async follow(answer) {
    const { announcer, began, ended, grew } = this.#around;
    this.answer = answer;
    this.responseId ??= answer.id;
    this.element.classList.add("running");
    this.#prose.setAttribute("aria-busy", "true");
    this.#reset();
    announcer.begin();
    this.#paint();
    /** @type {RagsocketError | null} */
    let error = null;
    try {
      for await (const event of answer) {
        const { type } = event;
        if (type === "response.file_search_call.searching") this.#searching = true;
        if (type === "response.file_search_call.completed") this.#searching = false;
        if (type === "response.reasoning_text.delta") this.#think(event.delta);
        if (answer.id && answer.response && this.responseId !== answer.id) {
          this.responseId = answer.id;
          began(this);
        }
        if (type === "response.in_progress" || "response" in event) this.#place(answer);
        this.#frame ||= requestAnimationFrame(() => this.#paint());
      }
    } catch (/** @type {any} */ failed) {
      error = failed;
    }
    cancelAnimationFrame(this.#frame);
    this.answer = null;
    this.#response = answer.response;
    this.#take(answer);
    this.element.classList.remove("running");
    this.#prose.removeAttribute("aria-busy");
    this.#status.hidden = true;
    this.#write(true);
    announcer.follow(this.text, true);
    if (error) this.#fail(error);
    else if (answer.reason !== "completed") this.#close(answer.reason ?? "cancelled", true);
    this.#finish();
    grew(this);
    ended(this);
  }

  /**
   * Show an answer that was given earlier; how it ended is looked up.
   *
   * @param {Told} told
   */
  async show({ text, sources, responseId }) {
    this.text = text;
    this.sources = sources;
    this.responseId = responseId;
    this.#showSources();
    this.#write(true);
    this.#finish();
    if (!responseId) return;
    const response = await this.#around.client.request(`responses/${responseId}`).catch(() => null);
    if (!response) return;
    this.#response = response;
    this.previous = response.previous_response_id;
    const { reason } = response.ragsocket;
    if (reason === "failed") this.#fail(response.error ?? {});
    else if (reason !== "completed") this.#close(reason);
    this.#finish();
  }

  /** Let the question be changed, and asked in its own place. */
  edit() {
    if (this.element.querySelector(".edit")) return;
    const text = el("textarea", { rows: 2, "aria-label": "Your question", dir: "auto" });
    text.value = this.question;
    const done = () => {
      this.#showQuestion();
      /** @type {HTMLElement | null} */ (this.#asked.querySelector("button"))?.focus();
    };
    const form = el(
      "form",
      {
        class: "edit",
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          const question = text.value.trim();
          if (question) this.#around.edit(this, question);
        },
        onkeydown: (/** @type {KeyboardEvent} */ event) => {
          if (composes(event)) return;
          if (event.key === "Enter" && !event.shiftKey) {
            event.preventDefault();
            form.requestSubmit();
          } else if (event.key === "Escape") {
            event.stopPropagation();
            done();
          }
        },
      },
      text,
      el(
        "div",
        { class: "buttons" },
        el("button", { class: "button primary" }, "Ask this instead"),
        el("button", { type: "button", class: "button", onclick: done }, "Cancel"),
      ),
    );
    this.#asked.replaceChildren(form);
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
  }

  #showQuestion() {
    this.#asked.replaceChildren(
      el("h2", { dir: "auto" }, this.question),
      iconButton("edit", "Edit the question", () => this.edit()),
    );
  }

  #reset() {
    clearInterval(this.#countdown);
    for (const part of [this.#row, this.#prose, this.#actions, this.#notice, this.#facts, this.#thoughts])
      part.replaceChildren();
    for (const part of [this.#notice, this.#facts, this.#thoughts]) part.hidden = true;
    this.#rendered = this.#reasoning = null;
    this.sources = [];
    this.text = "";
  }

  /** @param {Answer} answer */
  #place(answer) {
    const was = this.previous;
    if (answer.response?.status !== "queued" && this.responseId) {
      this.previous = answer.previous;
      if (was !== this.previous) this.#around.began(this);
    }
  }

  /** @param {Answer} answer */
  #take(answer) {
    this.text = answer.text;
    if (answer.sources !== this.sources) {
      this.sources = answer.sources;
      this.#showSources();
    }
  }

  #paint() {
    this.#frame = 0;
    const { answer } = this;
    if (!answer) return;
    this.#take(answer);
    this.#write(false);
    this.#around.announcer.follow(this.text);
    const status = this.#doing(answer);
    this.#status.hidden = !status;
    if (this.#status.textContent !== status) this.#status.textContent = status;
    this.#around.grew(this);
  }

  /** What goes on while there is no text yet. @param {Answer} answer */
  #doing(answer) {
    if (this.text) return "";
    if (!answer.id) {
      const isReady = this.#around.client.state.name === "ready";
      return isReady ? "Asking…" : "Waits for the connection…";
    }
    if (answer.status === "queued") return "Waits for its turn…";
    if (this.#searching) return "Searching the documents…";
    if (this.#reasoning) return "Thinking…";
    return this.sources.length ? "Reading what was found…" : "Writing…";
  }

  /** @param {string} more */
  #think(more) {
    if (this.#reasoning === null) {
      this.#thoughts.replaceChildren(el("summary", {}, "What the model thought"), el("p", { dir: "auto" }));
      this.#thoughts.hidden = false;
    }
    this.#reasoning = (this.#reasoning ?? "") + more;
    /** @type {Element} */ (this.#thoughts.lastElementChild).textContent = this.#reasoning;
  }

  #showSources() {
    this.#row.replaceChildren(
      ...(this.sources.length ? [this.#around.sources.row(this.sources)] : []),
    );
  }

  /** @param {boolean} final */
  #write(final) {
    if (!this.text && !this.#rendered) return;
    // Lists and tables go the way of the answer, whatever word one of them begins with.
    const letter = /\p{L}/u.exec(this.text)?.[0];
    const direction = letter && RIGHT_TO_LEFT.test(letter) ? "rtl" : "ltr";
    // Set again, it would have every element's style computed again.
    if (this.#prose.dir !== direction) this.#prose.dir = direction;
    this.#rendered ??= new Rendered(this.#prose, {
      onMark: (number) => this.#around.sources.chip(this.sources, number),
      onCode: (frame, code) => {
        const button = iconButton("copy", "Copy the code", () => copy(code.textContent ?? "", button));
        frame.append(button);
      },
    });
    this.#rendered.update(this.text, { final });
  }

  /** How it ended, said below it. @param {string} reason @param {boolean} [announced] */
  #close(reason, announced = false) {
    const text = ENDED[reason];
    if (!text) return;
    this.#tell("quiet", text, ASK_AGAIN.has(reason) ? this.#again("Ask again") : null);
    if (announced) this.#around.announcer.say(text);
  }

  /** @param {Partial<RagsocketError>} error */
  #fail(error) {
    const message = sentence(error.message || "the answer failed.");
    const again = this.#again("Try again");
    if (error instanceof RateLimited) {
      const until = Date.now() + (error.retryAfter ?? 0) * 1000;
      const time = new Date(until).toLocaleTimeString([], { timeStyle: "medium" });
      const left = el("span", {}, error.retryAfter ? `You can ask again at ${time}.` : "");
      this.#tell("failed", message, el("div", { class: "buttons" }, left, again));
      const tick = () => {
        const seconds = Math.ceil((until - Date.now()) / 1000);
        /** @type {HTMLButtonElement} */ (again).disabled = seconds > 0;
        again.lastChild?.replaceWith(seconds > 0 ? `Try again in ${seconds} s` : "Try again");
        if (seconds <= 0) clearInterval(this.#countdown);
      };
      this.#countdown = window.setInterval(tick, 500);
      tick();
    } else this.#tell("failed", message, again);
    this.#around.announcer.say(message);
  }

  /** @param {string} kind @param {string} text @param {Node | null} [action] */
  #tell(kind, text, action = null) {
    this.#notice.className = `notice ${kind}`;
    this.#notice.replaceChildren(
      ...(kind === "failed" ? [icon("warning")] : []),
      el("p", { dir: "auto" }, text),
      ...(action ? [action] : []),
    );
    this.#notice.hidden = false;
  }

  /** @param {string} name */
  #again(name) {
    return el(
      "button",
      { type: "button", class: "button", onclick: () => this.#around.regenerate(this) },
      icon("again"),
      name,
    );
  }

  /** Show what can be done with an answer that has ended. */
  #finish() {
    const copying = iconButton("copy", "Copy the answer", () => copy(this.text, copying));
    const again = iconButton("again", "Answer again", () => this.#around.regenerate(this));
    const details = iconButton("info", "Timings and tokens", () => this.#showFacts(details), {
      "aria-expanded": "false",
    });
    this.#actions.replaceChildren(
      ...(this.text ? [copying] : []),
      again,
      ...(this.responseId
        ? [this.#thumb("up", "Good answer"), this.#thumb("down", "Bad answer"), details]
        : []),
    );
  }

  /** @param {"up" | "down"} rating @param {string} name */
  #thumb(rating, name) {
    const thumb = iconButton(`thumb-${rating}`, name, async () => {
      const facts = this.#response?.ragsocket;
      const chosen = facts?.feedback?.rating === rating ? null : rating;
      const told = { rating: chosen, text: facts?.feedback?.text ?? null };
      try {
        await this.#around.client.request(`responses/${this.responseId}/feedback`, told);
        if (facts) facts.feedback = told;
      } catch {
        this.#around.announcer.say("That could not be kept; try again.");
      }
      for (const other of this.#actions.querySelectorAll("[data-rating]"))
        other.setAttribute(
          "aria-pressed",
          String(/** @type {HTMLElement} */ (other).dataset.rating === facts?.feedback?.rating),
        );
    });
    thumb.dataset.rating = rating;
    thumb.setAttribute("aria-pressed", String(this.#response?.ragsocket.feedback?.rating === rating));
    return thumb;
  }

  /** @param {HTMLElement} button */
  #showFacts(button) {
    this.#facts.hidden = !this.#facts.hidden;
    button.setAttribute("aria-expanded", String(!this.#facts.hidden));
    const { model, usage, ragsocket: facts } = this.#response ?? {};
    if (!facts) return;
    const counted = facts.usage_estimated ? " (counted here)" : "";
    const rows = {
      Model: model,
      Search: duration(facts.retrieval_ms),
      "First word": duration(facts.ttft_ms),
      "In all": duration(facts.total_ms),
      "Tokens read": usage && `${usage.input_tokens.toLocaleString()}${counted}`,
      "Tokens written": usage && `${usage.output_tokens.toLocaleString()}${counted}`,
      "Index revision": facts.index_revision,
      Response: this.responseId,
    };
    this.#facts.replaceChildren(
      ...Object.entries(rows).flatMap(([name, value]) =>
        value == null ? [] : [el("div", {}, el("dt", {}, name), el("dd", {}, el("bdi", {}, String(value))))],
      ),
    );
  }
}
