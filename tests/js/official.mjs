// The official client for Node, against the server whose address is the one argument. Prints one
// JSON object with what it got at every door; the test that runs it knows what that should be.
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0, timeout: 20_000 });
const question = "When does the ferry to Holm leave?";
// The model does not get to the end of this one.
const long = `${question} Tell me all about it.`;
const got = {};

const models = await client.models.list();
got.models = models.data.map(({ id }) => id);

const answer = await client.responses.create({ input: question, include: ["file_search_call.results"] });
const more = await client.responses.create({ input: "And dogs?", previous_response_id: answer.id });
const again = await client.responses.retrieve(answer.id);
got.json = {
  text: answer.output_text,
  file: answer.output[0].results[0].filename,
  previous: more.previous_response_id === answer.id,
  same: JSON.stringify(again.output) === JSON.stringify(answer.output),
};

got.stream = { types: [], numbers: [], text: "" };
for await (const event of await client.responses.create({ input: question, stream: true })) {
  got.stream.types.push(event.type);
  got.stream.numbers.push(event.sequence_number);
  if (event.type === "response.output_text.delta") got.stream.text += event.delta;
}

const helper = client.responses.stream({ input: question });
got.helper = (await helper.finalResponse()).output_text;

for await (const event of await client.responses.create({ input: long, stream: true })) {
  if (event.type === "response.created") got.cancelled = (await client.responses.cancel(event.response.id)).status;
  got.last = event.type;
}

try {
  await client.responses.create({ input: question, model: "nobody" });
} catch (error) {
  got.refused = { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
}

const messages = [{ role: "user", content: question }];
const chat = await client.chat.completions.create({ model: "scripted", messages });
got.chat = { text: chat.choices[0].message.content, reason: chat.choices[0].finish_reason };

got.chunks = { text: "" };
const chunks = { model: "scripted", messages, stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create(chunks)) {
  got.chunks.text += chunk.choices[0]?.delta.content ?? "";
  got.chunks.usage ??= chunk.usage?.completion_tokens;
}

const socket = new ResponsesWS(client, { reconnect: null });
const next = (...types) =>
  new Promise((resolve) => {
    const take = (event) => {
      if (!types.includes(event.type)) return;
      socket.off("event", take);
      resolve(event);
    };
    socket.on("event", take);
  });
const refusal = new Promise((resolve) => socket.on("error", resolve));
got.socket = [];
let previous;
for (let turn = 0; turn < 3; turn += 1) {
  const ended = next("response.completed");
  socket.send({ type: "response.create", input: question, previous_response_id: previous });
  const { response } = await ended;
  previous = response.id;
  got.socket.push(response.output.at(-1).content[0].text);
}
const stopped = next("response.incomplete");
socket.send({ type: "response.create", input: long });
socket.sendRaw(JSON.stringify({ type: "response.cancel" }));
got.stopped = (await stopped).response.status;
socket.send({ type: "response.create", input: question, model: "nobody" });
got.error = (await refusal).error?.code;
socket.close();

console.log(JSON.stringify(got));
