/**
 * Answers, their conversations, and the errors that they end with.
 *
 * Over 400 lines because an answer is told with everything that can become of it.
 *
 * @module
 */

/**
 * @import { AskFields, FileCitation, Response, SearchResult, ServerEvent, Usage } from "./events.js"
 * @import { Client } from "./ragsocket.js"
 */

// codes: written by docs/generate.py
/**
 * Whether to connect again after a close code; others below 4000 are accidents.
 *
 * @type {Record<number, boolean>}
 */
export const COMES_BACK = {
  1000: false, // the client closed the socket
  1002: false, // the WebSocket protocol was broken
  1007: false, // a text frame was not UTF-8
  1009: false, // a frame was larger than the limit
  1011: true, // a fault of this server, or a peer that stopped answering pings
  1012: true, // the server restarts
  4400: false, // too many malformed frames within a minute
  4403: false, // the page's origin or the host name is not allowed
  4460: true, // the client read too slowly
};
/** Codes of errors after which the same may work later. */
const RETRYABLE = new Set([
  "embedding_unavailable",
  "engine_not_ready",
  "history_unavailable",
  "internal_error",
  "server_shutting_down",
  "too_many_files",
  "too_many_responses",
  "upstream_failed",
  "upstream_interrupted",
  "upstream_rate_limited",
  "upstream_timeout",
  "upstream_unavailable",
]);
// end

/**
 * @typedef {object} About What an error is about.
 * @property {string} [code] the server's word for it; the documentation lists them
 * @property {string | null} [param] the field at fault
 * @property {string | null} [responseId] the response that it ended
 * @property {string} [text] what was written until then
 * @property {string} [reason] why an answer was interrupted
 * @property {number | null} [retryAfter] seconds
 * @property {unknown} [cause] what happened underneath
 */

/** Base of every error of this library. */
export class RagsocketError extends Error {
  name = "RagsocketError";

  /** @param {string} message what happened @param {About} [about] */
  constructor(message, about = {}) {
    super(message, about);
    /** The server's word for it. */
    this.code = about.code ?? "";
    /** The field at fault. */
    this.param = about.param ?? null;
    /** The response that it ended. */
    this.responseId = about.responseId ?? null;
    /** What was written until then. */
    this.text = about.text ?? "";
    /** Whether the same may work later. */
    this.retryable = RETRYABLE.has(this.code);
  }
}

/** Asked too often, or too much at a time. */
export class RateLimited extends RagsocketError {
  name = "RateLimited";

  /** @param {string} message @param {About} [about] */
  constructor(message, about = {}) {
    super(message, about);
    /** Seconds to wait, where the server said so. */
    this.retryAfter = about.retryAfter ?? null;
    this.retryable = true;
  }
}

/** The token is not taken, or not any more. */
export class AuthExpired extends RagsocketError {
  name = "AuthExpired";
}

/** What was asked for cannot be had; asking again would not help. */
export class Refused extends RagsocketError {
  name = "Refused";
}

/** The model or the embeddings behind the server failed. */
export class UpstreamFailed extends RagsocketError {
  name = "UpstreamFailed";
}

/** The answer ended before it was whole; `text` is what came. */
export class Interrupted extends RagsocketError {
  name = "Interrupted";

  /** @param {string} message @param {About} [about] */
  constructor(message, about = {}) {
    super(message, about);
    /** `worker_lost`, `shutdown` or `client_lost`. */
    this.reason = about.reason ?? "";
    this.retryable = true;
  }
}

/** A fault of the server. */
export class ServerFailed extends RagsocketError {
  name = "ServerFailed";
}

/** There is no connection, and there will be none. */
export class ConnectionLost extends RagsocketError {
  name = "ConnectionLost";
}

/** Why an answer ended that went down with its server. */
export const LOST = "worker_lost";

/** @type {Record<string, string>} */
const INTERRUPTED = {
  worker_lost: "the server was lost in the middle of the answer.",
  shutdown: "the server shut down in the middle of the answer.",
  client_lost: "nobody followed it for too long.",
};

/**
 * The error that a status of HTTP, or of an `error` event, stands for.
 *
 * @param {number} status
 * @param {{ message?: string } & About} detail
 */
export const refusal = (status, { message = `status ${status}`, ...about }) =>
  new (status === 401
    ? AuthExpired
    : status === 429
      ? RateLimited
      : status >= 500
        ? ServerFailed
        : Refused)(message, about);

/**
 * Why a response ended before it was whole; null if it is whole or was stopped.
 *
 * @param {Response} response
 * @param {string} text what had come
 */
export const failure = ({ id, status, error, ragsocket }, text) => {
  const { reason, code, reference, retry_after_s: retryAfter } = ragsocket;
  const about = { code: code ?? "", responseId: id, text, retryAfter };
  if (reason && INTERRUPTED[reason])
    return new Interrupted(INTERRUPTED[reason], { ...about, reason });
  if (status !== "failed") return null;
  const Kind = /rate_limited$/.test(about.code)
    ? RateLimited
    : /^(upstream|embedding)_/.test(about.code)
      ? UpstreamFailed
      : RETRYABLE.has(about.code)
        ? ServerFailed
        : Refused;
  return new Kind(
    (error?.message ?? "the answer failed.") + (reference ? ` (${reference})` : ""),
    about,
  );
};

/** @param {Response} [response] */
const textOf = (response) =>
  (response?.output ?? [])
    .flatMap((item) => (item.type === "message" ? item.content : []))
    .map((part) => part.text)
    .join("");

/**
 * @typedef {AskFields & { signal?: AbortSignal }} AskOptions
 *   What an ask may say as well; the signal stops the answer.
 */

/**
 * One answer as it comes in, whatever becomes of the connection meanwhile.
 *
 * Iterate it for events, `texts()` for pieces of text, `await` it for all of the text. Leaving
 * the loop stops the answer, at the model too; a lost connection does not.
 *
 * @implements {PromiseLike<string>}
 * @implements {AsyncIterable<ServerEvent>}
 */
export class Answer {
  /** The response's id; null until the server has taken the question. @type {string | null} */
  id = null;
  /** The passages that it is made from; `[n]` in the text is the n-th. @type {SearchResult[]} */
  sources = [];
  /** The marks in the text; `index` is where one ends in `text`. @type {FileCitation[]} */
  citations = [];
  /** The resource as the server last told it. @type {Response | null} */
  response = null;

  /** @type {string[]} */
  #texts = [];
  /** @type {ServerEvent[]} */
  #events = [];
  #shown = -1;
  /** @type {RagsocketError | null} */
  #error = null;
  #wake = () => {};
  /** @type {() => void} */
  #end;
  /** @type {Promise<void>} */
  #ended;

  /** What follows is for the client. */
  /** @internal */ _key = Math.random().toString(36).slice(2) + Date.now().toString(36);
  /** @internal */ _sent = false;
  /** @internal */ _over = false;
  /** @internal */ _stopped = false;
  /** @internal */ _last = -1;
  /** @internal Number after which a gap was noticed. */ _missing = -2;
  /** @internal @type {Answer | null} */ _target = null;

  /**
   * @internal
   * @param {Client} client
   * @param {Conversation | null} chat
   * @param {Record<string, any>} fields of the ask
   */
  constructor(client, chat, fields) {
    /** @internal */ this._client = client;
    /** @internal */ this._chat = chat;
    /** @internal */ this._fields = fields;
    this.#end = () => {};
    this.#ended = new Promise((end) => (this.#end = end));
  }

  /** The answer so far, and at the end exactly what history keeps. */
  get text() {
    return this.#texts.join("");
  }

  /**
   * Where it stands.
   *
   * @returns {"queued" | "in_progress" | "completed" | "incomplete" | "cancelled" | "failed"}
   */
  get status() {
    const status = this.response?.status ?? "queued";
    if (!this._over || (status !== "queued" && status !== "in_progress")) return status;
    return this.#error ? "failed" : "cancelled";
  }

  /** Why it ended: `completed`, `cancelled`, `steered`, `max_output_tokens`, … */
  get reason() {
    return this.response?.ragsocket.reason ?? null;
  }

  /** Token counts, once it has ended. @returns {Usage | null} */
  get usage() {
    return this.response?.usage ?? null;
  }

  /** Milliseconds of the search, to the first text, and in all. */
  get timings() {
    const facts = this.response?.ragsocket;
    return {
      retrievalMs: facts?.retrieval_ms ?? null,
      ttftMs: facts?.ttft_ms ?? null,
      totalMs: facts?.total_ms ?? null,
    };
  }

  /** The response that this one goes on from; null for the first of a conversation. */
  get previous() {
    return this.response?.previous_response_id ?? null;
  }

  /**
   * The events, each once; leaving stops the answer.
   *
   * @returns {AsyncGenerator<ServerEvent, void, void>}
   * @throws {RagsocketError} why there is no whole answer
   */
  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        for (let event; (event = this.#events.shift());) {
          this.#shown = /** @type {any} */ (event).sequence_number;
          yield event;
        }
        if (this._over) break;
        await new Promise((wake) => (this.#wake = () => wake(0)));
      }
    } finally {
      this.cancel();
    }
    if (this.#error) throw this.#error;
  }

  /**
   * The text as it comes; leaving stops the answer.
   *
   * @returns {AsyncGenerator<string, void, void>}
   * @throws {RagsocketError} why there is no whole answer
   */
  async *texts() {
    let told = "";
    for await (const event of this) {
      let piece = "";
      if (event.type === "response.output_text.delta") piece = event.delta;
      else if ("response" in event) {
        // A snapshot or the end holds all of the text, and may hold more than was told.
        const whole = textOf(event.response);
        if (whole.startsWith(told)) piece = whole.slice(told.length);
      }
      told += piece;
      if (piece) yield piece;
    }
  }

  /**
   * Wait for the end, and return the text.
   *
   * @template [T=string]
   * @template [E=never]
   * @param {((text: string) => T | PromiseLike<T>) | null} [resolve]
   * @param {((error: any) => E | PromiseLike<E>) | null} [reject]
   * @returns {Promise<T | E>}
   */
  then(resolve, reject) {
    return this.#ended
      .then(() => {
        if (this.#error) throw this.#error;
        return this.text;
      })
      .then(resolve, reject);
  }

  /** Stop it. Await this to know where it ended; it never fails. @returns {Promise<void>} */
  cancel() {
    if (!this._over && !this._stopped) {
      this._stopped = true;
      // Nothing more is handed out, so that what was is what history keeps.
      this.#events = [];
      this._client._cancel(this);
    }
    return this.#ended;
  }

  /** Stop it when a block of `await using` is left. */
  [Symbol.asyncDispose]() {
    return this.cancel();
  }

  /**
   * Stop it, and answer this at once in its place.
   *
   * @param {string | object[]} input
   * @returns {Answer}
   */
  steer(input) {
    return this.#conversation().steer(this, input);
  }

  /**
   * Ask something else in the place of its question; what went on from it is left behind.
   *
   * @param {string | object[]} input
   * @param {AskOptions} [fields]
   * @returns {Answer}
   */
  edit(input, fields) {
    const chat = this.#conversation();
    if (!this.response)
      throw new Refused("it has not begun.");
    this.cancel();
    const { previous: previous_response_id } = this;
    return chat.ask(input, { previous_response_id, from_start: !previous_response_id, ...fields });
  }

  /** Ask the same again, in the place of this answer. @param {AskOptions} [fields] @returns {Answer} */
  regenerate(fields) {
    if (!this._fields.input) throw new Refused("no question; use edit().");
    return this.edit(this._fields.input, fields);
  }

  #conversation() {
    if (!this._chat) throw new Refused("it has no conversation.");
    return this._chat;
  }

  /** @internal What a cancel says: the last event that was handed out, if any loop reads. */
  get _after() {
    return this.#shown < 0 ? {} : { after: this.#shown };
  }

  /**
   * @internal Take an event.
   * @param {any} event
   * @returns {boolean} false if one before it is missing
   */
  _take(event) {
    const { type, response, sequence_number: number, output_index: index } = event;
    const final = /^response\.(completed|incomplete|failed)$/.test(type);
    const whole = final || response?.ragsocket.snapshot;
    // A server that died kept nothing; what there is of it is what came here.
    const kept = whole && response.ragsocket.reason !== LOST;
    if (this._over || (number <= this._last && !final)) return true;
    if (number > this._last + 1 && !whole) return false;
    this._last = number;
    const before = final ? this.text : "";
    if (response) {
      this.response = response;
      this.id = response.id;
      if (response.conversation) this._chat ??= this._client.conversation(response.conversation.id);
    }
    if (kept) {
      this.#texts = [];
      this.citations = [];
      for (const [at, item] of response.output.entries()) this.#item(at, item);
    } else if (type === "response.output_text.delta") {
      this.#texts[index] = (this.#texts[index] ?? "") + event.delta;
    } else if (type === "response.output_text.done") {
      this.#texts[index] = event.text;
    } else if (type === "response.output_text.annotation.added") {
      this.#cite(index, event.annotation);
    } else if (type === "response.output_item.done" && event.item.results) {
      this.sources = event.item.results;
    }
    if (final || !this._stopped) this.#events.push(event);
    if (final) this._finish(failure(response, before));
    this.#wake();
    return true;
  }

  /** @internal Nothing more comes. @param {RagsocketError | null} error */
  _finish(error) {
    if (this._over) return;
    this._over = true;
    this.#error = error;
    this.#end();
    this.#wake();
  }

  /** @param {number} index @param {any} item */
  #item(index, item) {
    if (item.results) this.sources = item.results;
    if (item.type !== "message") return;
    this.#texts[index] = textOf(/** @type {any} */ ({ output: [item] }));
    for (const mark of item.content[0]?.annotations ?? []) this.#cite(index, mark);
  }

  /** Take a mark; the wire counts code points. @param {number} index @param {FileCitation} mark */
  #cite(index, mark) {
    let end = mark.index;
    // Only pairs are looked at: to spread a long answer for each of its marks takes seconds.
    this.#texts[index]?.replace(/[^\0-\uffff]/gu, (pair, at) => (at < end && end++, pair));
    end += this.#texts.slice(0, index).join("").length;
    this.citations.push({ ...mark, index: end });
  }
}

/** A conversation; its answers go on from one another. */
export class Conversation {
  /** @internal */ _making = false;

  /** @internal @param {Client} client @param {string} lane @param {string | null} id */
  constructor(client, lane, id) {
    /** @internal */ this._client = client;
    /** @internal */ this._lane = lane;
    /** `conv_…`; null until the server has made it, at the first ask. */
    this.id = id;
  }

  /**
   * Ask. A conversation answers one question at a time; the next one waits.
   *
   * @param {string | object[]} input the question, or items of the Responses API
   * @param {AskOptions} [options]
   * @returns {Answer}
   */
  ask(input, { signal, ...fields } = {}) {
    const answer = new Answer(this._client, this, { input, ...fields });
    this._client._begin(answer);
    if (signal) {
      const stop = () => answer.cancel();
      signal.addEventListener("abort", stop);
      answer.then(null, () => {}).then(() => signal.removeEventListener("abort", stop));
      if (signal.aborted) stop();
    }
    return answer;
  }

  /**
   * Stop an answer, and answer this at once in its place, before anything that waits.
   *
   * @param {Answer} target
   * @param {string | object[]} input
   * @returns {Answer}
   */
  steer(target, input) {
    const answer = new Answer(this._client, this, { input });
    answer._target = target;
    this._client._begin(answer);
    return answer;
  }
}
