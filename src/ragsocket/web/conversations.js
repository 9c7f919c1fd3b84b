/**
 * The list of conversations: search, rename, delete.
 *
 * @module
 */

import { composes } from "./composer.js";
import { at, el, iconButton } from "./dom.js";

/** @import { Client } from "./vendor/ragsocket.js" */

/** @typedef {{ id: string, metadata: Record<string, string>, ragsocket: { title: string | null, updated_at: number, active_response_ids: string[] } }} Conversation */

const PART = 40;
const SEARCH_AFTER_MS = 200;
const DAY_S = 86_400;

/** The heading that a conversation stands under. @param {number} updated seconds since 1970 */
const period = (updated) => {
  const midnight = new Date().setHours(0, 0, 0, 0) / 1000;
  if (updated >= midnight) return "Today";
  if (updated >= midnight - DAY_S) return "Yesterday";
  return updated >= midnight - 7 * DAY_S ? "This week" : "Earlier";
};

/** The list at the side. */
export class Conversations {
  #client;
  #deleted;
  #renamed;
  #list = /** @type {HTMLElement} */ (at("conversations"));
  #search = /** @type {HTMLInputElement} */ (at("search"));
  #confirm = /** @type {HTMLDialogElement} */ (at("confirm"));
  #more = /** @type {HTMLButtonElement} */ (at("more-conversations"));
  /** @type {Conversation[]} */
  #shown = [];
  #timer = 0;
  /** Numbers the requests, for only the newest counts. */
  #asked = 0;
  /** @type {string | null} */
  #current = null;

  /**
   * @param {Client} client
   * @param {{ deleted: (id: string) => void, renamed: (id: string, title: string) => void }} to
   */
  constructor(client, { deleted, renamed }) {
    this.#client = client;
    this.#deleted = deleted;
    this.#renamed = renamed;
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = window.setTimeout(() => this.refresh(), SEARCH_AFTER_MS);
    });
    this.#search.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#search.value) return;
      event.stopPropagation();
      this.#search.value = "";
      this.refresh();
    });
    this.#more.addEventListener("click", () => this.refresh(this.#shown.at(-1)?.id));
  }

  /** Mark one as the one that is shown. @param {string | null} id */
  set current(id) {
    this.#current = id;
    this.#mark();
  }

  /** Read the list anew, or what comes after a conversation. @param {string} [after] */
  async refresh(after) {
    const asked = ++this.#asked;
    const wanted = new URLSearchParams({ limit: String(PART) });
    // The server takes ten words at most.
    const words = this.#search.value.trim().split(/\s+/).slice(0, 10).join(" ");
    if (words) wanted.set("q", words);
    if (after) wanted.set("after", after);
    const told = await this.#client.request(`conversations?${wanted}`).catch(() => null);
    if (!told || asked !== this.#asked) return;
    this.#shown = after ? [...this.#shown, ...told.data] : told.data;
    this.#more.hidden = !told.has_more;
    // What is being renamed is not taken away.
    if (!this.#list.querySelector("form")) this.#show(Boolean(words));
  }

  /** @param {boolean} searched */
  #show(searched) {
    const focused = /** @type {HTMLElement | null} */ (document.activeElement?.closest("[data-id]"));
    let heading = "";
    const rows = this.#shown.flatMap((conversation) => {
      const under = period(conversation.ragsocket.updated_at);
      const row = this.#row(conversation);
      if (under === heading) return [row];
      heading = under;
      return [el("li", { class: "period" }, el("h3", {}, under)), row];
    });
    if (!rows.length)
      rows.push(el("li", { class: "muted none" }, searched ? "Nothing was found." : "Nothing has been asked yet."));
    this.#list.replaceChildren(...rows);
    this.#mark();
    if (focused && this.#list.contains(focused) === false)
      /** @type {HTMLElement | null} */ (
        this.#list.querySelector(`[data-id="${focused.dataset.id}"] a`)
      )?.focus();
  }

  #mark() {
    for (const link of this.#list.querySelectorAll("a")) {
      const isCurrent = link.hash.slice(1) === this.#current;
      if (isCurrent) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  /** @param {Conversation} conversation */
  #row(conversation) {
    const title = conversation.ragsocket.title || "Without a title";
    const runs = conversation.ragsocket.active_response_ids.length > 0;
    const row = el(
      "li",
      { "data-id": conversation.id },
      el("a", { href: `#${conversation.id}`, class: runs ? "running" : "", dir: "auto", title }, title),
      iconButton("edit", `Rename “${title}”`, () => this.#rename(row, conversation)),
      iconButton("trash", `Delete “${title}”`, () => this.#delete(conversation, title)),
    );
    return row;
  }

  /** @param {HTMLElement} row @param {Conversation} conversation */
  #rename(row, conversation) {
    const { id, metadata, ragsocket } = conversation;
    const input = el("input", { "aria-label": "Title", value: ragsocket.title ?? "", maxlength: 200, dir: "auto" });
    let over = false;
    /** @param {boolean} keep */
    const done = async (keep) => {
      if (over) return;
      over = true;
      const title = input.value.trim();
      if (keep && title && title !== ragsocket.title) {
        await this.#client
          .request(`conversations/${id}`, { metadata: { ...metadata, title } })
          .then(() => this.#renamed(id, title))
          .catch(() => {});
      }
      form.remove();
      await this.refresh();
      /** @type {HTMLElement | null} */ (this.#list.querySelector(`[data-id="${id}"] a`))?.focus();
    };
    const form = el(
      "form",
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          done(true);
        },
        onkeydown: (/** @type {KeyboardEvent} */ event) => {
          if (event.key !== "Escape" || composes(event)) return;
          event.stopPropagation();
          done(false);
        },
        onfocusout: () => done(true),
      },
      input,
    );
    row.replaceChildren(form);
    input.focus();
    input.select();
  }

  /** @param {Conversation} conversation @param {string} title */
  #delete({ id }, title) {
    const { activeElement } = document;
    at("confirm-text").replaceChildren("“", el("bdi", {}, title), "” and everything said in it will be gone.");
    this.#confirm.returnValue = "";
    this.#confirm.showModal();
    this.#confirm.addEventListener(
      "close",
      async () => {
        if (this.#confirm.returnValue !== "delete") {
          if (activeElement instanceof HTMLElement) activeElement.focus();
          return;
        }
        const gone = await this.#client
          .request(`conversations/${id}`, undefined, { method: "DELETE" })
          .catch((/** @type {any} */ error) => ({ deleted: error.code === "conversation_not_found" }));
        if (gone.deleted) this.#deleted(id);
        await this.refresh();
      },
      { once: true },
    );
  }
}
