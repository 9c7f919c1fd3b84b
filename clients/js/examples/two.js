// Two conversations at the same time on one socket: node examples/two.js
import WebSocket from "ws"; // Node 22 and newer need none
import { connect } from "ragsocket";

const client = connect(process.env.RAGSOCKET_URL ?? "http://127.0.0.1:8000", { WebSocket });
const questions = ["When are dogs allowed in the huts?", "How do I complain?"];
await Promise.all(
  questions.map(async (question) => {
    const answer = client.conversation().ask(question);
    for await (const text of answer.texts()) console.log(`${question} … ${text}`);
    console.log(`${question} ${answer.sources.map(({ filename }) => filename)}`);
  }),
);
await client.close();
