/** Drives the client through the cases of tests/clients/suite: commands in, reports out, by lines. */

import { createInterface } from "node:readline";
import { connect, RagsocketError } from "ragsocket";

const Socket = globalThis.WebSocket ?? (await import("ws")).default;
const PATIENT = { quietMs: 5_000, patienceMs: 5_000 };
const IMPATIENT = { quietMs: 50, patienceMs: 100 };

const known = (error) => ({
  type: error.name,
  message: error.message,
  code: error.code,
  param: error.param,
  text: error.text,
  retryable: error.retryable,
  response_id: error.responseId,
  reason: error.reason ?? null,
  retry_after: error.retryAfter ?? null,
});

let client, report, chats, answers;

const start = ({ case: number, url, token, tokens, impatient }) => {
  report = (line) => process.stdout.write(JSON.stringify({ case: number, ...line }) + "\n");
  const tell = report;
  [chats, answers] = [new Map(), new Map()];
  // Nothing of a case that went wrong is left.
  void client?.close();
  const next = async () => {
    const made = tokens.length > 1 ? tokens.shift() : tokens[0];
    if (made === null) throw new Error("there is no token now");
    return made;
  };
  client = connect(url, {
    WebSocket: Socket,
    token: tokens ? next : token,
    delay: () => 1,
    ...(impatient ? IMPATIENT : PATIENT),
  });
  const state = ({ retryAt, ...told }) => tell({ state: told });
  const here = client;
  state(here.state);
  here.addEventListener("state", () => state(here.state));
};

const begin = ({ do: kind, chat = "c", conversation, input, fields, answer, id, after }) => {
  if (kind === "resume") return client.resume(id, { startingAfter: after });
  if (kind === "ask") {
    if (!chats.has(chat)) chats.set(chat, client.conversation(conversation));
    return chats.get(chat).ask(input, fields);
  }
  const before = answers.get(answer);
  return kind === "regenerate" ? before.regenerate(fields) : before[kind](input, fields);
};

const read = async (answer, { as: of, read, leave_at }) => {
  const tell = report;
  const numbers = [];
  let told = "";
  let error = null;
  try {
    if (read === "whole") told = await answer;
    else if (read === "events") for await (const event of answer) numbers.push(event.sequence_number);
    else
      for await (const text of answer.texts()) {
        told += text;
        tell({ of, told });
        if (told === leave_at) break;
      }
  } catch (failed) {
    if (!(failed instanceof RagsocketError)) throw failed;
    error = known(failed);
  }
  await answer.then(null, () => {});
  const { id, text, status, reason, usage, timings, sources, citations } = answer;
  const ended = { told, numbers, error, id, text, status, reason, usage };
  ended.total_ms = timings.totalMs;
  ended.sources = sources.map(({ filename }) => filename);
  ended.marked = citations.map(({ index }) => text.slice(0, index));
  tell({ of, ended });
};

for await (const line of createInterface({ input: process.stdin })) {
  const step = JSON.parse(line);
  if (step.do === "connect") start(step);
  else if (step.do === "echo") report({ echo: true });
  else if (step.do === "cancel") answers.get(step.answer).cancel();
  else if (step.do === "close") await client.close().then(() => report({ done: true }));
  else {
    const answer = begin(step);
    answers.set(step.as, answer);
    void read(answer, step);
  }
}
