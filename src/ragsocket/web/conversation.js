/**
 * A conversation as it is shown: its turns, what is asked in it, and what others ask in it.
 *
 * @module
 */

import { el } from "./dom.js";
import { Turn } from "./turn.js";

/**
 * @import { Answer, AskOptions, Client } from "./vendor/ragsocket.js"
 * @import { Announcer } from "./announcer.js"
 * @import { Sources } from "./sources.js"
 * @import { Told } from "./turn.js"
 */

/** Items that are asked for at a time, newest first. */
const PART = 60;
/** Output items are named after their response. */
const OF_RESPONSE = /^(?:msg|fs|fc|rs)_([0-9a-f]{32})_\d+$/;

/**
 * @typedef {object} Surroundings
 * @property {Client} client
 * @property {Sources} sources
 * @property {Announcer} announcer
 * @property {() => string | undefined} model the model that was chosen, if any was
 * @property {(view: ConversationView) => void} changed whether something runs, or its name
 * @property {(view: ConversationView, responseId: string) => void} asked a response has begun here
 * @property {(view: ConversationView) => void} grew there is more to see
 * @property {() => void} refocus put the focus where the next question is written
 */

/** @param {any} item what somebody wrote, in words */
const textOf = ({ content, type, name, output }) =>
  type === "function_call"
    ? `*Calls the function \`${name}\`.*`
    : typeof output === "string"
      ? output
      : (content ?? [])
          .map((/** @type {any} */ part) => part.text ?? (part.type === "input_image" ? "[picture]" : ""))
          .join("\n");

/** One conversation on the page. It goes on while another is shown. */
export class ConversationView {
  /** @type {Turn[]} */
  turns = [];
  title = "";
  element = el("ol", { class: "turns" });
  /** True once what was said before is shown. */
  isLoaded = false;

  #around;
  #chat;
  #isGone = false;
  /** Items that were read and make no whole turn yet, oldest first. @type {any[]} */
  #pending = [];
  /** Cursor for what was said before; null if there is nothing more. @type {string | null} */
  #before = null;
  #earlier = el(
    "button",
    { type: "button", class: "button earlier", onclick: () => this.#loadEarlier() },
    "Show what was said before",
  );

  /** @param {Surroundings} around @param {string | null} id null for one that nobody has asked in */
  constructor(around, id) {
    this.#around = around;
    this.#chat = around.client.conversation(id);
    this.isLoaded = id === null;
  }

  /** Its id; null until the first question has been taken. */
  get id() {
    return this.#chat.id;
  }

  /** What it is called: its title, until that is known its first question. */
  get name() {
    return this.title || this.turns[0]?.question || "";
  }

  /** The turn that is being answered. */
  get running() {
    return this.turns.findLast((turn) => turn.isRunning) ?? null;
  }

  /** Ask, or, while an answer is being written, steer it. @param {string} text */
  ask(text) {
    const { running } = this;
    this.#begin(text, running?.answer ? running.answer.steer(text) : this.#ask(text));
  }

  /** Stop the answer. */
  stop() {
    this.running?.answer?.cancel();
  }

  /** Answer the question of a turn anew. @param {Turn} turn */
  regenerate(turn) {
    this.edit(turn, turn.question);
  }

  /** Ask something else in the place of a turn. @param {Turn} turn @param {string} text */
  async edit(turn, text) {
    this.stop();
    // One that never came to be has left nothing to go on before.
    const fields = turn.responseId ? await this.#inPlaceOf(turn) : {};
    this.#drop(this.turns.slice(this.turns.indexOf(turn)));
    this.#begin(text, this.#ask(text, fields));
    // What was pressed is gone.
    this.#around.refocus();
  }

  /** Load what was said, once; and follow what is being answered. */
  async load() {
    if (!this.isLoaded) await this.#loadEarlier();
    this.isLoaded = true;
    await this.refresh();
  }

  /** Follow what was asked elsewhere meanwhile. */
  async refresh() {
    if (!this.id || !this.isLoaded || this.#isGone) return;
    const { ragsocket } = await this.#around.client.request(`conversations/${this.id}`);
    this.title = ragsocket.title ?? "";
    const newest = this.turns.at(-1);
    const hasHead = this.turns.some(({ responseId }) => responseId === ragsocket.head);
    if (ragsocket.head && !hasHead && !newest?.isRunning) await this.#reload();
    for (const id of ragsocket.active_response_ids) await this.follow(id);
  }

  /** Show a response of this conversation that was asked for elsewhere. @param {string} id */
  async follow(id) {
    if (!this.isLoaded || this.turns.some(({ responseId }) => responseId === id)) return;
    const { client } = this.#around;
    const { data } = await client.request(`responses/${id}/input_items?order=asc&limit=100`);
    // Own asks get their name from the socket, which may be later than this.
    if (this.turns.some(({ responseId, answer }) => responseId === id || (answer && !answer.id))) return;
    const question = data.filter((/** @type {any} */ item) => item.role === "user").map(textOf);
    const turn = this.#begin(question.join("\n"), client.resume(id));
    turn.responseId = id;
  }

  /** It was deleted. */
  forget() {
    this.#isGone = true;
    this.stop();
  }

  /** @param {string} text @param {AskOptions} [fields] @returns {Answer} */
  #ask(text, fields = {}) {
    const model = this.#around.model();
    return this.#chat.ask(text, { ...(model && { model }), ...fields });
  }

  /** @param {Turn} turn @returns {Promise<AskOptions>} */
  async #inPlaceOf(turn) {
    let previous = turn.previous;
    if (previous === undefined) previous = this.turns[this.turns.indexOf(turn) - 1]?.responseId;
    if (previous === undefined)
      previous = (await this.#around.client.request(`responses/${turn.responseId}`))
        .previous_response_id;
    return previous ? { previous_response_id: previous } : { from_start: true };
  }

  /** @param {string} text @param {Answer} answer */
  #begin(text, answer) {
    const turn = this.#turn(text);
    this.turns.push(turn);
    this.element.append(turn.element);
    turn.follow(answer);
    this.#around.changed(this);
    return turn;
  }

  /** @param {string} text */
  #turn(text) {
    const { client, sources, announcer, asked, changed, grew } = this.#around;
    return new Turn(text, {
      client,
      sources,
      announcer,
      regenerate: (turn) => this.regenerate(turn),
      edit: (turn, question) => this.edit(turn, question),
      began: (turn) => {
        this.#place(turn);
        asked(this, /** @type {string} */ (turn.responseId));
        changed(this);
      },
      grew: () => grew(this),
      ended: () => changed(this),
    });
  }

  /** Drop the turns that an edit elsewhere has left behind. @param {Turn} turn */
  #place(turn) {
    if (turn.previous === undefined) return;
    const before = this.turns.slice(0, this.turns.indexOf(turn));
    const at = before.findIndex(({ responseId }) => responseId === turn.previous);
    if (turn.previous === null) this.#drop(before);
    else if (at >= 0) this.#drop(before.slice(at + 1));
  }

  /** @param {Turn[]} turns */
  #drop(turns) {
    for (const turn of turns) turn.element.remove();
    this.turns = this.turns.filter((turn) => !turns.includes(turn));
  }

  async #reload() {
    this.#drop(this.turns);
    this.#before = null;
    this.#pending = [];
    await this.#loadEarlier();
  }

  async #loadEarlier() {
    const after = this.#before ? `&after=${this.#before}` : "";
    const path = `conversations/${this.id}/items?limit=${PART}&include=file_search_call.results${after}`;
    const { data, has_more, last_id } = await this.#around.client.request(path);
    this.#before = has_more ? last_id : null;
    const items = [...data.reverse(), ...this.#pending];
    // What stands before the first question belongs to a turn that is not here yet.
    const first = has_more ? items.findIndex(({ role }) => role === "user") : 0;
    this.#pending = items.slice(0, Math.max(first, 0));
    const made = this.#made(first < 0 ? [] : items.slice(first));
    this.turns.unshift(...made);
    this.element.prepend(...made.map(({ element }) => element));
    this.#earlier.remove();
    if (has_more) this.element.before(this.#earlier);
    if (has_more && !made.length) await this.#loadEarlier();
  }

  /** Turns of items. @param {any[]} items */
  #made(items) {
    /** @type {(Told & { question: string })[]} */
    const told = [];
    for (const item of items) {
      let last = told.at(-1);
      const isQuestion = item.role === "user";
      if (!last || (isQuestion && (last.responseId || last.text)))
        told.push((last = { question: "", text: "", sources: [], responseId: null }));
      const response = OF_RESPONSE.exec(item.id)?.[1];
      if (response) last.responseId = `resp_${response}`;
      if (isQuestion) last.question += (last.question && "\n") + textOf(item);
      else if (item.type === "file_search_call") last.sources = item.results ?? [];
      else if (item.role === "assistant" || item.type?.startsWith("function"))
        last.text += (last.text && "\n\n") + textOf(item);
    }
    return told.map(({ question, ...answer }) => {
      const turn = this.#turn(question);
      turn.show(answer);
      return turn;
    });
  }
}
