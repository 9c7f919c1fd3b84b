/**
 * The documents that answers come from: which there are, bringing some in, deleting them. And the
 * line that says at all times what one talks to.
 *
 * @module
 */

import { at, el, icon, iconButton, plural, sentence, size } from "./dom.js";
import { STORE } from "./sources.js";

/**
 * @import { Client } from "./vendor/ragsocket.js"
 * @import { Announcer } from "./announcer.js"
 * @import { Panel } from "./panel.js"
 */

const LOOK_AGAIN_MS = 700;
const PART = 100;

/** @typedef {{ id: string, status: string, usage_bytes: number, last_error: { message: string } | null, ragsocket: { filename: string, in_folder: boolean } }} Member */

/** Documents and model. */
export class Documents {
  #client;
  #panel;
  #announcer;
  #changed;
  #about = /** @type {HTMLButtonElement} */ (at("about"));
  #model = /** @type {HTMLSelectElement} */ (at("model"));
  #picker = /** @type {HTMLInputElement} */ (at("picker"));
  #list = el("ul", { class: "documents", "aria-label": "Documents" });
  #more = el("button", { type: "button", class: "button", onclick: () => this.#load(true) }, "Show more");
  #uploads = el("ul", { class: "documents uploads", "aria-label": "Uploads" });
  /** @type {Member[]} */
  #members = [];
  #isOpen = false;
  /** Ids of files that are being read, which stand among the uploads. @type {Set<string>} */
  #reading = new Set();
  #timer = 0;
  /** The questions that the page suggests, and how many documents there are. */
  store = { count: 0, isReading: false, questions: /** @type {string[]} */ ([]), isThere: true };

  /**
   * @param {Client} client
   * @param {Panel} panel
   * @param {Announcer} announcer
   * @param {() => void} changed
   */
  constructor(client, panel, announcer, changed) {
    this.#client = client;
    this.#panel = panel;
    this.#announcer = announcer;
    this.#changed = changed;
    this.#about.addEventListener("click", () => this.open());
    this.#picker.addEventListener("change", () => {
      this.upload([...(this.#picker.files ?? [])]);
      this.#picker.value = "";
    });
    this.#takeDrops();
  }

  /** The model that was chosen; undefined for the server's default. */
  get model() {
    return this.#model.selectedIndex > 0 ? this.#model.value : undefined;
  }

  /** Look what there is, until everything has been read. */
  async refresh() {
    clearTimeout(this.#timer);
    const [models, store] = await Promise.all([
      this.#client.request("models").catch(() => null),
      this.#client.request(`vector_stores/${STORE}`).catch((/** @type {any} */ error) => error),
    ]);
    // Once there is a connection this is asked again.
    if (!store.file_counts && this.#client.state.name !== "ready") return;
    if (models) this.#showModels(models.data.map((/** @type {{ id: string }} */ { id }) => id));
    const isThere = store.code !== "not_found";
    const counts = store.file_counts;
    this.store = {
      isThere,
      count: counts?.completed ?? 0,
      isReading: isThere && (!counts || counts.in_progress > 0),
      questions: store.ragsocket?.sample_questions ?? this.store.questions,
    };
    this.#about.hidden = !isThere;
    at("add").hidden = !isThere;
    const words = !counts
      ? "Reading the documents…"
      : plural(counts.completed, "document") + (counts.in_progress ? `, reading ${counts.in_progress} more` : "");
    at("about-documents").textContent = words;
    this.#changed();
    if (this.store.isReading) this.#timer = window.setTimeout(() => this.refresh(), LOOK_AGAIN_MS);
  }

  /** Show the documents. */
  open() {
    this.#isOpen = true;
    this.#panel.open(
      "Documents",
      [
        el("p", { class: "muted" }, "Answers come from these. Markdown, text, HTML and PDF files can be added."),
        el(
          "div",
          { class: "buttons" },
          el("button", { type: "button", class: "button primary", onclick: () => this.#picker.click() }, icon("plus"), "Add files"),
          el("span", { class: "muted" }, "or drop them anywhere"),
        ),
        this.#uploads,
        this.#list,
        this.#more,
      ],
      () => (this.#isOpen = false),
    );
    this.#load();
  }

  /** Let somebody choose files. */
  choose() {
    this.#picker.click();
  }

  /** Bring files in. @param {File[]} files */
  upload(files) {
    if (!files.length) return;
    if (!this.#isOpen) this.open();
    for (const file of files) this.#upload(file);
  }

  /** @param {string[]} names */
  #showModels(names) {
    const chosen = this.#model.value;
    if (names.join() !== [...this.#model.options].map(({ value }) => value).join())
      this.#model.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    if (names.includes(chosen)) this.#model.value = chosen;
    this.#model.disabled = names.length < 2;
    this.#model.hidden = !names.length;
  }

  async #load(more = false) {
    const after = more ? `&after=${this.#members.at(-1)?.id}` : "";
    const path = `vector_stores/${STORE}/files?limit=${PART}&order=desc${after}`;
    const told = await this.#client.request(path).catch(() => null);
    if (!told) return;
    this.#members = more ? [...this.#members, ...told.data] : told.data;
    this.#more.hidden = !told.has_more;
    const others = this.#members.filter(({ id }) => !this.#reading.has(id));
    this.#list.replaceChildren(...others.map((member) => this.#row(member)));
  }

  /** @param {Member} member */
  #row({ id, status, usage_bytes, last_error, ragsocket: { filename, in_folder } }) {
    const about = {
      completed: `${size(usage_bytes)} · ${in_folder ? "in the folder" : "uploaded"}`,
      in_progress: "Being read…",
      failed: sentence(last_error?.message ?? "could not be read."),
    }[status];
    return el(
      "li",
      { class: status },
      icon("document"),
      el("div", {}, el("bdi", { class: "name" }, filename), el("p", { class: "muted" }, about ?? status)),
      !in_folder && iconButton("trash", `Delete ${filename}`, () => this.#delete(id, filename)),
    );
  }

  /** @param {string} id @param {string} name */
  async #delete(id, name) {
    await this.#client.request(`files/${id}`, undefined, { method: "DELETE" }).catch(() => null);
    this.#announcer.say(`${name} was deleted.`);
    await Promise.all([this.#load(), this.refresh()]);
    at("panel-title").focus();
  }

  /** @param {File} file */
  async #upload(file) {
    const bar = el("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
    const about = el("p", { class: "muted" }, "Uploading…");
    const row = el("li", {}, icon("document"), el("div", {}, el("bdi", { class: "name" }, file.name), about, bar));
    this.#uploads.append(row);
    let id = "";
    try {
      const made = await this.#send(file, (share) => (bar.value = share));
      this.#reading.add((id = made.id));
      bar.removeAttribute("value");
      about.textContent = "Being read…";
      await this.#client.request(`vector_stores/${STORE}/files`, { file_id: made.id });
      this.refresh();
      await this.#untilRead(id);
      row.remove();
      this.#announcer.say(`${file.name} can be asked about now.`);
    } catch (/** @type {any} */ error) {
      bar.remove();
      row.classList.add("failed");
      about.textContent = sentence(error.message);
      row.append(iconButton("close", "Dismiss", () => row.remove()));
      this.#announcer.say(`${file.name}: ${error.message}`);
    }
    this.#reading.delete(id);
    await Promise.all([this.#load(), this.refresh()]);
  }

  /**
   * Send a file; `fetch` does not tell how far it is.
   *
   * @param {File} file
   * @param {(share: number) => void} progress
   * @returns {Promise<{ id: string }>}
   */
  #send(file, progress) {
    const form = new FormData();
    form.set("purpose", "assistants");
    form.set("file", file, file.name);
    return new Promise((done, failed) => {
      const request = new XMLHttpRequest();
      request.upload.onprogress = ({ loaded, total }) => progress(loaded / total);
      request.onerror = () => failed(new Error("The server could not be reached."));
      request.onload = () => {
        /** @type {any} */
        let told = {};
        try {
          told = JSON.parse(request.responseText);
        } catch {
          // What stands before the server may answer in its own way.
        }
        if (request.status < 300) done(told);
        else failed(new Error(told.error?.message ?? `The server refused it (${request.status}).`));
      };
      request.open("POST", "v1/files");
      request.send(form);
    });
  }

  /** @param {string} id */
  async #untilRead(id) {
    for (;;) {
      const { status, last_error } = await this.#client.request(`vector_stores/${STORE}/files/${id}`);
      if (status === "completed") return;
      if (status !== "in_progress") throw new Error(last_error?.message ?? "It could not be read.");
      await new Promise((again) => setTimeout(again, LOOK_AGAIN_MS));
    }
  }

  #takeDrops() {
    const veil = /** @type {HTMLElement} */ (at("veil"));
    /** @param {DragEvent} event */
    const brings = (event) =>
      this.store.isThere && Boolean(event.dataTransfer?.types.includes("Files"));
    let inside = 0;
    addEventListener("dragenter", (event) => {
      if (brings(event)) veil.hidden = ++inside < 1;
    });
    addEventListener("dragleave", (event) => {
      if (brings(event)) veil.hidden = --inside < 1;
    });
    addEventListener("dragover", (event) => {
      if (brings(event)) event.preventDefault();
    });
    addEventListener("drop", (event) => {
      if (!brings(event)) return;
      event.preventDefault();
      inside = 0;
      veil.hidden = true;
      this.upload([...(event.dataTransfer?.files ?? [])]);
    });
  }
}
