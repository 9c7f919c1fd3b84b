/**
 * Ask a ragsocket server, read the answer as it is written, stop it, and never mind the network.
 *
 *     const client = connect("http://127.0.0.1:8000");
 *     for await (const text of client.conversation().ask("…").texts()) write(text);
 *
 * Over 400 lines because a connection is told with everything that can become of it.
 *
 * @module
 */

import {
  Answer,
  AuthExpired,
  COMES_BACK,
  ConnectionLost,
  Conversation,
  Interrupted,
  LOST,
  refusal,
  ServerFailed,
} from "./answer.js";

export {
  Answer,
  AuthExpired,
  ConnectionLost,
  Conversation,
  Interrupted,
  RagsocketError,
  RateLimited,
  Refused,
  ServerFailed,
  UpstreamFailed,
} from "./answer.js";

/** @import { RagsocketError } from "./answer.js" */

/**
 * @typedef {import("./answer.js").AskOptions} AskOptions
 * @typedef {import("./events.js").ServerEvent} ServerEvent
 * @typedef {import("./events.js").Response} Response
 * @typedef {import("./events.js").SearchResult} SearchResult
 * @typedef {import("./events.js").FileCitation} FileCitation
 * @typedef {import("./events.js").Usage} Usage
 */

/** Lanes of one socket, in which conversations go on side by side. */
const LANES = 16;
const STABLE_MS = 10_000;
const CLOSE_WITHIN_MS = 2_000;

/** Milliseconds of a clock that never goes back. */
const now = () => performance.now();

/**
 * @typedef {{ name: "connecting" } | { name: "ready" } | { name: "resuming" }
 *   | { name: "offline", retryAt: number }
 *   | { name: "closed", code: number, reason: string, retryable: boolean }} State
 *   How a client stands; `retryAt` is the time of the next try, as `Date.now()` counts.
 *
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} [token] who you are; a function is called
 *   for every connection
 * @property {any} [WebSocket] where the platform has none (Node before 22: that of npm's `ws`)
 * @property {typeof globalThis.fetch} [fetch] instead of the platform's
 * @property {number} [quietMs] after so long a silence the server is asked for a sign of life
 * @property {number} [patienceMs] how long that, or a connect, may take
 * @property {(tries: number) => number} [delay] milliseconds to wait after so many tries in vain
 */

/** @param {number} tries */
const fullJitter = (tries) => Math.random() * Math.min(30_000, 250 * 2 ** tries);

/**
 * What names the response of an event. Deltas name their item alone, and that is named after it.
 *
 * @param {any} event
 */
const named = ({ response, item, item_id, steer }) =>
  (response?.id ?? item?.id ?? item_id ?? steer?.previous_response_id ?? "").split("_")[1];

/**
 * One socket to a server, opened again whenever it is lost.
 *
 * An EventTarget: `state` events tell that `state` has changed.
 */
export class Client extends EventTarget {
  /** How it stands. @type {State} */
  state = { name: "connecting" };

  #base;
  #options;
  /** Those that are not over, in their order, by the event id of the ask. @type {Map<string, Answer>} */
  #answers = new Map();
  /** By what names their events; null once it is over. @type {Map<string, Answer | null>} */
  #named = new Map();
  #lanes = 0;
  /** The open socket. @type {any} */
  #socket = null;
  /** Closes the socket, open or not. */
  #leave = () => {};
  #wasReady = false;
  /** Ends of the pauses that go on. @type {Set<() => void>} */
  #pauses = new Set();
  /** Once closed: what becomes of an answer. @type {((answer: Answer) => RagsocketError) | null} */
  #closed = null;

  /** @param {string | URL} url @param {Options} options */
  constructor(url, options) {
    super();
    const base = new URL(url, globalThis.location?.href);
    base.pathname = base.pathname.replace(/(\/v1\/responses|\/ws)?\/*$/, "/v1/");
    base.search = base.hash = "";
    this.#base = base.href;
    this.#options = {
      WebSocket: globalThis.WebSocket,
      quietMs: 15_000,
      patienceMs: 10_000,
      delay: fullJitter,
      ...options,
    };
    if (!this.#options.WebSocket)
      throw new TypeError("pass { WebSocket }");
    globalThis.addEventListener?.("online", this.#hurry);
    this.#run();
  }

  /** @param {string | null} [id] an old conversation's; none begins a new one @returns {Conversation} */
  conversation(id = null) {
    return new Conversation(this, `c${this.#lanes++ % LANES}`, id);
  }

  /**
   * Follow a response that was asked for earlier, or by somebody else. One that this client
   * follows already is the answer that you have.
   *
   * @param {string} id
   * @param {{ startingAfter?: number }} [from] number of the last event that need not come again
   * @returns {Answer}
   */
  resume(id, { startingAfter = -1 } = {}) {
    const name = named({ response: { id } });
    const known = this.#named.get(name);
    if (known) return known;
    const answer = new Answer(this, null, {});
    answer.id = id;
    answer._last = startingAfter;
    this.#named.set(name, answer);
    this._begin(answer);
    return answer;
  }

  /**
   * Call one of the server's HTTP doors.
   *
   * @param {string} path after `/v1/`
   * @param {any} [body] JSON, or a form; none asks with GET
   * @param {RequestInit} [init] of `fetch`, for another method, or a signal
   * @returns {Promise<any>} the answer's JSON
   * @throws {RagsocketError} what the server said, or that it could not be reached
   */
  async request(path, body, init = {}) {
    const { fetch = globalThis.fetch } = this.#options;
    const form = body instanceof FormData;
    const token = await this.#token();
    const answer = await fetch(this.#base.replace(/^ws/, "http") + path, {
      method: body ? "POST" : "GET",
      body: form || !body ? body : JSON.stringify(body),
      headers: {
        ...(token && { authorization: `Bearer ${token}` }),
        ...(body && !form && { "content-type": "application/json" }),
      },
      ...init,
    }).catch((cause) => {
      throw new ConnectionLost("the server cannot be reached.", { cause });
    });
    const told = await answer.json().catch(() => ({}));
    if (answer.ok) return told;
    throw refusal(answer.status, {
      ...told.error,
      retryAfter: Number(answer.headers.get("retry-after")) || null,
    });
  }

  /**
   * Upload a document, and where a vector store is named, put it in.
   *
   * @param {File | Blob} file
   * @param {{ name?: string, vectorStoreId?: string }} [options]
   * @returns {Promise<any>} the file
   */
  async upload(file, { name = /** @type {any} */ (file).name ?? "document", vectorStoreId } = {}) {
    const form = new FormData();
    form.set("purpose", "assistants");
    form.set("file", file, name);
    const made = await this.request("files", form);
    if (vectorStoreId)
      await this.request(`vector_stores/${vectorStoreId}/files`, { file_id: made.id });
    return made;
  }

  /** The files that there are. @returns {Promise<any[]>} */
  async files() {
    return (await this.request("files")).data;
  }

  /**
   * Search a vector store.
   *
   * @param {string} query
   * @param {{ vectorStoreId: string, [field: string]: any }} options and more fields of the door
   * @returns {Promise<any[]>} passages, the best first
   */
  async search(query, { vectorStoreId, ...fields }) {
    return (await this.request(`vector_stores/${vectorStoreId}/search`, { query, ...fields })).data;
  }

  /** Stop what goes on, wait a moment for where it ended, and close. @returns {Promise<void>} */
  async close() {
    const ends = [...this.#answers.values()].map((answer) => answer.cancel());
    if (this.#socket) await Promise.race([Promise.all(ends), this.#pause(CLOSE_WITHIN_MS)]);
    this.#close(1000, "closed here", ConnectionLost);
  }

  /** Close when a block of `await using` is left. */
  [Symbol.asyncDispose]() {
    return this.close();
  }

  /** @internal @param {Answer} answer */
  _begin(answer) {
    if (this.#closed) return answer._finish(this.#closed(answer));
    this.#answers.set(answer._key, answer);
    this.#put(answer);
  }

  /** @internal @param {Answer} answer */
  _cancel(answer) {
    if (!answer._sent) this.#finish(answer, null);
    else if (answer.id) {
      const { _key, id, _after } = answer;
      this.#send({
        type: "response.cancel",
        event_id: `${_key}:cancel`,
        response_id: id,
        ..._after,
      });
    }
    // Else it has no name yet, and is stopped when it gets one.
  }

  /** Say what has to be said for an answer to come, or to go on. @param {Answer} answer */
  #put(answer) {
    if (!this.#socket || answer._over) return;
    const { _target: target, _chat: chat, _key: event_id, _fields } = answer;
    if (answer.id) this.#resume(answer, answer.id, answer._last);
    else if (target && !target.id && !target._over) return;
    else if (target && target.reason === "steered" && answer._sent) {
      // Following its end once more brings what came in its place.
      this.#resume(answer, target.id, target._last - 2);
    } else if (target && !target._over) {
      this.#send({ type: "response.steer", event_id, previous_response_id: target.id, ..._fields });
    } else if (chat?.id) {
      answer._target = null;
      this.#send({
        type: "response.create",
        event_id,
        stream_id: chat._lane,
        conversation: chat.id,
        include: ["file_search_call.results"],
        ..._fields,
      });
    } else if (chat) return void this.#make(chat);
    answer._sent = true;
    if (answer._stopped) this._cancel(answer);
  }

  /** @param {Answer} answer @param {string | null} id @param {number} after */
  #resume({ _key }, id, after) {
    const starting_after = Math.max(after, -1);
    this.#send({
      type: "response.resume",
      event_id: `${_key}:resume`,
      response_id: id,
      starting_after,
    });
  }

  /** Make a conversation, however long the server is away. @param {Conversation} chat */
  async #make(chat) {
    if (chat._making) return;
    chat._making = true;
    const { delay, patienceMs } = this.#options;
    const its = () => [...this.#answers.values()].filter(({ _chat, id }) => _chat === chat && !id);
    for (let tries = 0; !chat.id && its().length; tries++) {
      try {
        const signal = AbortSignal.timeout(patienceMs);
        chat.id = (await this.request("conversations", {}, { signal })).id;
      } catch (/** @type {any} */ error) {
        if (error instanceof ConnectionLost || error instanceof ServerFailed)
          await this.#pause(delay(tries));
        else its().forEach((answer) => this.#finish(answer, error));
      }
    }
    chat._making = false;
    its().forEach((answer) => this.#put(answer));
  }

  /** @param {object} event */
  #send(event) {
    this.#socket?.send(JSON.stringify(event));
  }

  /** @param {Answer} answer @param {RagsocketError | null} error */
  #finish(answer, error) {
    answer._finish(error);
    this.#forget(answer);
  }

  /** It is over. @param {Answer} answer */
  #forget(answer) {
    this.#answers.delete(answer._key);
    this.#named.set(named({ response: answer }), null);
    for (const other of this.#answers.values()) {
      if (other._target === answer && answer.reason !== "steered") this.#askInstead(other);
    }
  }

  /** Ask in the ordinary way what could not be steered. @param {Answer} answer */
  #askInstead(answer) {
    answer._target?.cancel();
    answer._target = null;
    if (answer._stopped) return this.#finish(answer, null);
    // Under another name, for the server may know this one from the steering.
    this.#answers.delete(answer._key);
    answer._key += "-again";
    this.#answers.set(answer._key, answer);
    this.#put(answer);
  }

  /** @param {any} event */
  #take(event) {
    const { type } = event;
    if (type === "error" || type === "response.steer.failed") {
      const [key, about] = (event.event_id ?? event.error.event_id ?? "").split(":");
      const answer = this.#answers.get(key);
      if (answer) this.#takeError(answer, about, event.error, event.status);
      return;
    }
    const { response } = event;
    const name = named(event);
    let answer = this.#named.get(name);
    if (response && !this.#named.has(name)) {
      const waiting = [...this.#answers.values()].filter(({ id, _sent }) => _sent && !id);
      answer =
        this.#answers.get(event.event_id) ??
        // An ask that was answered long ago, when nobody heard, gets its end and nothing else.
        waiting.find(
          ({ _chat }) => type !== "response.created" && _chat?.id === response.conversation?.id,
        );
      if (answer) this.#named.set(name, answer);
      for (const other of waiting) {
        // Somebody else's input was answered in its place.
        const { _target: target } = other;
        if (other !== answer && target?._over && target.id === response.previous_response_id)
          this.#askInstead(other);
      }
    }
    if (!answer) return;
    const isNew = !answer.id;
    if (!answer._take(event)) {
      if (answer._missing !== answer._last)
        this.#resume(answer, answer.id, (answer._missing = answer._last));
    } else if (answer._over) this.#forget(answer);
    else if (isNew) {
      if (answer._stopped) this._cancel(answer);
      for (const other of this.#answers.values()) if (other._target === answer) this.#put(other);
    }
  }

  /**
   * @param {Answer} answer
   * @param {string | undefined} about `cancel`, `resume`, or none for the ask itself
   * @param {any} error
   * @param {number} [status] none for a steering
   */
  #takeError(answer, about, error, status) {
    const { code } = error;
    const { _target: target } = answer;
    const detail = { ...error, responseId: answer.id, text: answer.text };
    if (target) {
      if (/pending|not_active/.test(code) && target.response?.status === "in_progress") {
        // It may have been taken before the connection was lost; the target's end will tell.
      } else this.#askInstead(answer);
    } else if (code === "resume_gap") {
      // A snapshot follows.
    } else if (code === "server_shutting_down" && !about) {
      // It is asked again on the next connection.
      answer._sent = false;
      if (answer._stopped) this._cancel(answer);
    } else if (answer._stopped) this.#finish(answer, null);
    else if (code === "response_not_found" && answer.response) {
      this.#finish(
        answer,
        new Interrupted("the server no longer knows the answer.", { ...detail, reason: LOST }),
      );
    } else this.#finish(answer, refusal(status ?? 400, detail));
  }

  async #token() {
    const { token } = this.#options;
    return typeof token === "function" ? token() : token;
  }

  #hurry = () => this.#pauses.forEach((end) => end());

  /** Wait, or until something happens that makes it worth trying. @param {number} ms @returns {Promise<void>} */
  #pause(ms) {
    return new Promise((over) => {
      const end = () => {
        clearTimeout(timer);
        this.#pauses.delete(end);
        over();
      };
      const timer = setTimeout(end, ms);
      this.#pauses.add(end);
    });
  }

  /** @param {State} state */
  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  /** Connect, again and again, until closed. */
  async #run() {
    for (let tries = 0, denied = 0; !this.#closed;) {
      this.#become({ name: this.#wasReady ? "resuming" : "connecting" });
      const { code, reason, lasted } = await this.#connect();
      denied = code === 4401 ? denied + 1 : 0;
      const again =
        code === 4401
          ? denied < 2 && typeof this.#options.token === "function"
          : (COMES_BACK[code] ?? code < 4000);
      if (!again) this.#close(code, reason, code === 4401 ? AuthExpired : ConnectionLost);
      if (this.#closed) return;
      if (lasted > STABLE_MS) tries = 0;
      const wait = this.#options.delay(tries++);
      this.#become({ name: "offline", retryAt: Date.now() + wait });
      await this.#pause(wait);
    }
  }

  /**
   * Open a socket, and wait until it is gone.
   *
   * @returns {Promise<{ code: number, reason: string, lasted: number }>}
   */
  async #connect() {
    const { quietMs, patienceMs, WebSocket } = this.#options;
    const accident = { code: 1006, reason: "", lasted: 0 };
    /** @type {any} */
    let socket;
    let token;
    try {
      token = await this.#token();
    } catch {
      return accident;
    }
    if (this.#closed) return accident;
    try {
      const url = `${this.#base.replace(/^http/, "ws")}responses`;
      socket = new WebSocket(url, token ? ["ragsocket.v1", `bearer.${token}`] : []);
    } catch (error) {
      // The address or the token is none.
      this.#close(1006, String(error), ConnectionLost);
      return accident;
    }
    return new Promise((gone) => {
      let [asked, heard, opened] = [now(), 0, 0];
      // A dead network closes no socket, so silence has to be noticed.
      const beat = () => {
        if (asked > heard) return over(1006, "no sign of life");
        const quiet = now() - heard;
        if (quiet >= quietMs) {
          asked = now();
          this.#send({ type: "ragsocket:ping" });
        }
        timer = setTimeout(beat, quiet < quietMs ? quietMs - quiet : patienceMs);
      };
      let timer = setTimeout(beat, patienceMs);
      /** @param {number} code @param {string} reason */
      const over = (code, reason) => {
        clearTimeout(timer);
        this.#socket = null;
        socket.onmessage = socket.onopen = socket.onclose = null;
        // The socket of `ws` would wait long for the other end to agree.
        if (socket.terminate && code === 1006) socket.terminate();
        else socket.close();
        gone({ code, reason, lasted: opened && now() - opened });
      };
      this.#leave = () => over(1000, "");
      socket.onerror = () => {};
      socket.onclose = (/** @type {CloseEvent} */ { code, reason }) => over(code, reason);
      socket.onmessage = (/** @type {MessageEvent} */ { data }) => {
        heard = now();
        this.#take(JSON.parse(data));
      };
      socket.onopen = () => {
        heard = opened = now();
        this.#wasReady = true;
        this.#socket = socket;
        this.#become({ name: "ready" });
        this.#answers.forEach((answer) => this.#put(answer));
        this.#hurry();
      };
    });
  }

  /** @param {number} code @param {string} reason @param {typeof RagsocketError} Kind */
  #close(code, reason, Kind) {
    if (this.#closed) return;
    const message = `the connection is closed (${code}${reason && ", "}${reason}).`;
    this.#closed = ({ id, text }) =>
      new Kind(message, { code: String(code), responseId: id, text });
    globalThis.removeEventListener?.("online", this.#hurry);
    this.#answers.forEach((answer) => this.#finish(answer, this.#closed?.(answer) ?? null));
    this.#leave();
    this.#hurry();
    this.#become({ name: "closed", code, reason, retryable: Kind === AuthExpired });
  }
}

/**
 * Connect to a server. Questions that are asked before there is a connection wait for it.
 *
 * @param {string | URL} url of the server: `http://host:8000`, `wss://host/some/prefix`
 * @param {Options} [options]
 * @returns {Client}
 */
export const connect = (url, options = {}) => new Client(url, options);
