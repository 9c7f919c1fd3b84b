// A chat in ten lines: node examples/chat.js
import { createInterface } from "node:readline";
import WebSocket from "ws"; // Node 22 and newer need none
import { connect } from "ragsocket";

const client = connect(process.env.RAGSOCKET_URL ?? "http://127.0.0.1:8000", { WebSocket });
const chat = client.conversation();
for await (const question of createInterface({ input: process.stdin })) {
  for await (const text of chat.ask(question).texts()) process.stdout.write(text);
  process.stdout.write("\n");
}
await client.close();
