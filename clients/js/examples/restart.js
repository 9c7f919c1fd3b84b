// Lives through a restart of the server, in the middle of an answer too: node examples/restart.js
import WebSocket from "ws"; // Node 22 and newer need none
import { connect, Interrupted } from "ragsocket";

const client = connect(process.env.RAGSOCKET_URL ?? "http://127.0.0.1:8000", { WebSocket });
client.addEventListener("state", () => console.error(`[${client.state.name}]`));
const chat = client.conversation();
const question = process.argv[2] ?? "What should a new volunteer know?";
for (let whole = false; !whole;) {
  try {
    for await (const text of chat.ask(question).texts()) process.stdout.write(text);
    whole = true;
  } catch (error) {
    // A lost connection alone never ends here: the answer goes on. A lost answer does.
    if (!(error instanceof Interrupted)) throw error;
    console.error(`[${error.reason}, ${error.text.length} characters came; asking again]`);
  }
}
await client.close();
