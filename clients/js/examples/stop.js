// Stops after so many words: node examples/stop.js 12 "What is in the handbook?"
import WebSocket from "ws"; // Node 22 and newer need none
import { connect } from "ragsocket";

const [most = "12", question = "What should a new volunteer know?"] = process.argv.slice(2);
const client = connect(process.env.RAGSOCKET_URL ?? "http://127.0.0.1:8000", { WebSocket });
const answer = client.conversation().ask(question);
for await (const text of answer.texts()) {
  process.stdout.write(text);
  if (answer.text.split(/\s+/).length > Number(most)) break; // the model stops too
}
await answer.cancel(); // stopped already: this only waits until the server has said so
console.log(`\n${answer.status}; the conversation keeps ${answer.text.length} characters`);
await client.close();
