/**
 * Stops answers with the JavaScript client: `node stop.mjs URL WISH TIMES`, where WISH tells the
 * model what to write. Prints one JSON line of `stop.Times`.
 */

import { createRequire } from "node:module";
import { connect } from "../clients/js/ragsocket.js";

const near = createRequire(new URL("../clients/js/package.json", import.meta.url));
const [url, wish, times] = process.argv.slice(2);

let socket;
class Socket extends (globalThis.WebSocket ?? near("ws")) {
  constructor(...from) {
    super(...from);
    socket = this;
  }
}

const took = async (work) => {
  const began = performance.now();
  await work();
  return (performance.now() - began) * 1000;
};

const ping = () =>
  new Promise((done) => {
    const hear = ({ data }) => {
      if (!data.includes('"ragsocket:pong"')) return;
      socket.removeEventListener("message", hear);
      done();
    };
    socket.addEventListener("message", hear);
    socket.send('{"type":"ragsocket:ping"}');
  });

const client = connect(url, { WebSocket: Socket });
const chat = client.conversation();
const told = { ping_us: [], streaming_ping_us: [], stop_us: [] };
await chat.ask("[1 tokens]");
for (let time = 0; time < Number(times); time++) {
  told.ping_us.push(await took(ping));
  const answer = chat.ask(wish, { tool_choice: "none" });
  let pieces = 0;
  for await (const _ of answer.texts()) {
    if (++pieces < 3) continue;
    told.streaming_ping_us.push(await took(ping));
    told.stop_us.push(await took(() => answer.cancel()));
  }
  if (answer.reason !== "cancelled") throw new Error(`it was not stopped: ${answer.reason}`);
}
await client.close();
process.stdout.write(JSON.stringify(told) + "\n");
