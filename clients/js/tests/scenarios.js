/**
 * What the tests do with the client, in Node and in a browser alike.
 *
 * Each scenario gets the connected client, what it is about, and a line to the test: `say` tells
 * it something, `heard` waits for it to answer.
 */

import { connect, Refused } from "ragsocket";

/** Read an answer to its end, and look at every number. */
const read = async (answer) => {
  const numbers = [];
  let told = "";
  for await (const event of answer) {
    numbers.push(event.sequence_number);
    if (event.type === "response.output_text.delta") told += event.delta;
  }
  return { numbers, told, text: answer.text, status: answer.status, reason: answer.reason };
};

/** What an error says. */
const known = ({
  name,
  code,
  message,
  param,
  text,
  reason,
  retryable,
  retryAfter,
  responseId,
}) => ({
  name,
  code,
  message,
  param,
  text,
  reason,
  retryable,
  retryAfter,
  responseId,
});

const failing = async (work) => {
  try {
    await work();
  } catch (error) {
    return known(error);
  }
  throw new Error("nothing was thrown");
};

export const scenarios = {
  /** Ask, and read without a thought for errors. */
  async whole({ client, question }) {
    return read(client.conversation().ask(question));
  },

  /** Ask, and tell every piece of text. */
  async texts({ client, question, say }) {
    const answer = client.conversation().ask(question);
    let told = "";
    for await (const text of answer.texts()) {
      told += text;
      say({ id: answer.id, told, number: answer._last });
    }
    return { told, text: answer.text };
  },

  /** Many answers after one another, as one conversation. */
  async many({ client, question, times, id }) {
    const chat = client.conversation(id);
    const seen = [];
    for (let time = 0; time < times; time++) seen.push(await read(chat.ask(question)));
    return { seen, id: chat.id };
  },

  /** Leave the loop after some pieces. */
  async leave({ client, question, pieces }) {
    const answer = client.conversation().ask(question);
    let told = "";
    for await (const text of answer.texts()) {
      told += text;
      if (--pieces === 0) break;
    }
    return { told, text: await answer, status: answer.status, id: answer.id };
  },

  /** Stop from outside, in one of the ways there are, when the test says so. */
  async stop({ client, question, way, say, heard }) {
    const controller = new AbortController();
    const answer = client.conversation().ask(question, { signal: controller.signal });
    let told = "";
    const loop = (async () => {
      for await (const text of answer.texts()) {
        told += text;
        say({ told });
      }
    })();
    await heard();
    if (way === "signal") controller.abort();
    else await answer.cancel();
    await loop;
    return { told, text: answer.text, status: answer.status, reason: answer.reason };
  },

  /** What never reached the server needs no server to be stopped. */
  async stopBefore({ client, question }) {
    const chat = client.conversation();
    const answer = chat.ask(question, { signal: AbortSignal.abort() });
    const other = chat.ask(question);
    await other.cancel();
    return [answer, other].map(({ id, status, text }) => ({ id, status, text }));
  },

  /** Two conversations at a time. */
  async sideBySide({ client, question, say }) {
    const chats = [client.conversation(), client.conversation()];
    const reads = chats.map(async (chat) => {
      const answer = chat.ask(question);
      for await (const _ of answer.texts()) say({ id: answer.id });
      return { text: answer.text, chat: chat.id };
    });
    return Promise.all(reads);
  },

  /** Everything that an answer carries beside its text. */
  async attributes({ client, question }) {
    const answer = client.conversation().ask(question);
    const before = [answer.id, answer.status, answer.reason, answer.usage, answer.previous];
    const text = await answer;
    const { id, status, reason, usage, timings, sources, citations, response, previous } = answer;
    return {
      before,
      text,
      id,
      status,
      reason,
      usage,
      timings,
      sources,
      citations,
      previous,
      marked: citations.map(({ index }) => text.slice(0, index)),
      same: response.id === id,
      drained: await read(answer),
    };
  },

  /** The errors of some asks, each with its own fields. */
  async errors({ client, asks }) {
    const chat = client.conversation();
    const seen = [];
    for (const [input, fields] of asks) {
      seen.push(await failing(() => chat.ask(input, fields)));
    }
    seen.push(await failing(() => client.resume("resp_0")));
    seen.push(await failing(() => client.request("files/file_0")));
    return seen;
  },

  /** Read until the test has done its worst, and tell how it ended; then ask once more. */
  async interrupted({ client, question, say, heard }) {
    const chat = client.conversation();
    const answer = chat.ask(question);
    let told = "";
    const error = await failing(async () => {
      for await (const text of answer.texts()) {
        told += text;
        say({ told, id: answer.id });
      }
    });
    say({ error, told });
    await heard();
    return { error, told, next: await read(client.conversation(chat.id).ask(question)) };
  },

  /** Change an earlier question, ask one again, and look at what each goes on from. */
  async instead({ client }) {
    const chat = client.conversation();
    const first = chat.ask("When does the ferry to Holm leave?");
    await first;
    const id = chat.id;
    const second = chat.ask("What does a bicycle cost on the ferry to Holm?");
    await second;
    const edited = second.edit("Does it rain on the ferry to Holm?");
    await edited;
    const again = edited.regenerate();
    await again;
    const anew = first.edit("Does a bicycle travel on the ferry to Holm?");
    await anew;
    return {
      previous: [first, second, edited, again, anew].map(({ previous }) => previous),
      first: first.id,
      conversations: [id, chat.id],
    };
  },

  /** Follow an answer that another client asked for. */
  async follow({ client, url, options, question, say, heard }) {
    const other = connect(url, options);
    const asked = other.conversation().ask(question);
    for await (const event of asked) {
      if (event.type === "response.output_text.delta") break;
      if (event.type === "response.in_progress") say({ id: asked.id });
    }
    return null;
  },

  async resume({ client, id, startingAfter, stop }) {
    const answer = client.resume(id, { startingAfter });
    const same = client.resume(id) === answer;
    const numbers = [];
    for await (const event of answer) {
      numbers.push(event.sequence_number);
      if (stop && event.type === "response.output_text.delta") break;
    }
    const text = await answer;
    const steered = await failing(() => answer.regenerate());
    return { same, numbers, text, status: answer.status, steered };
  },

  /** Stop an answer in favour of another one, at one of its stages. */
  async steer({ client, question, instead, when, say, heard }) {
    const chat = client.conversation();
    const before = when === "queued" && chat.ask(question);
    const answer = chat.ask(question);
    if (when === "ended") await answer;
    const events = answer[Symbol.asyncIterator]();
    if (before) while ((await events.next()).value.type !== "response.queued");
    let steered = when === "text" ? null : answer.steer(instead);
    if (before) say({ queued: answer.id });
    const seen = await read(
      (async function* () {
        for await (const event of events) {
          yield event;
          if (steered || event.type !== "response.output_text.delta") continue;
          say({ text: answer.text });
          await heard();
          steered = chat.steer(answer, instead);
        }
      })(),
    );
    const then = await read(steered);
    const { text, status, reason, id } = answer;
    return { text, status, reason, id, told: seen.told, then, previous: steered.previous };
  },

  /** What becomes of a client that is not let in, or closed. */
  async closed({ client, question, say }) {
    const answer = client.conversation().ask(question);
    const error = await failing(() => answer);
    const late = await failing(() => client.conversation().ask(question));
    return { error, late, status: answer.status };
  },

  /** Every state in its order, until one that the test names. */
  async states({ client, until, say }) {
    say(client.state);
    await new Promise((done) => {
      client.addEventListener("state", () => {
        say(client.state);
        if (client.state.name === until) done();
      });
    });
    return client.state;
  },

  async documents({ client, words }) {
    const store = await client.request("vector_stores", { name: "mine" });
    const file = await client.upload(new Blob([words]), {
      name: "notes.md",
      vectorStoreId: store.id,
    });
    for (;;) {
      const member = await client.request(`vector_stores/${store.id}/files/${file.id}`);
      if (member.status !== "in_progress") break;
    }
    const found = await client.search("ferry", { vectorStoreId: store.id });
    const names = (await client.files()).map(({ filename }) => filename);
    return { names, found: found.map(({ filename, content }) => [filename, content[0].text]) };
  },
};

/** Play one scenario; its states stand in the result. */
export const play = async (name, url, { options = {}, ...about }, { say, heard }) => {
  options = { ...options };
  if (options.waitMs !== undefined) options.delay = () => options.waitMs;
  const client = connect(url, options);
  const states = [];
  client.addEventListener("state", () => states.push(client.state.name));
  try {
    const result = await scenarios[name]({ client, url, options, say, heard, ...about });
    return { result, states };
  } finally {
    await client.close();
  }
};

export { Refused };
