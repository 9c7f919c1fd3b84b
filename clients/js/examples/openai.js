// The official SDK pointed at a server, and how to stop from it: node examples/openai.js
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const url = process.env.RAGSOCKET_URL ?? "http://127.0.0.1:8000";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const input = "What should a new volunteer know?";

// Over HTTP: leaving the loop closes the connection, and that stops the answer, at the model too.
let told = "";
for await (const event of await client.responses.create({ input, stream: true })) {
  if (event.type === "response.output_text.delta") told += event.delta;
  if (told.length > 40) break;
}
console.log(`left after ${told.length} characters`);

// Over a socket: the cancel is an event of this server. The SDK sends it as text.
const socket = new ResponsesWS(client, { reconnect: null });
socket.on("event", (event) => {
  if (event.type === "response.output_text.delta") socket.sendRaw('{"type":"response.cancel"}');
  if (!/^response\.(completed|incomplete|failed)$/.test(event.type)) return;
  console.log(`${event.response.status} over the socket`);
  socket.close();
});
socket.send({ type: "response.create", input });
