// Reads a list of AsyncAPI documents from standard input and prints what the official parser says of each.
import { Parser } from "@asyncapi/parser";

let source = "";
for await (const piece of process.stdin) source += piece;
const said = [];
for (const one of JSON.parse(source)) {
  const { document, diagnostics } = await new Parser().parse(one);
  const found = diagnostics.map(({ code, message, path }) => ({ code, message, path: path.join(".") }));
  said.push({ messages: document?.allMessages().length ?? 0, found });
}
console.log(JSON.stringify(said));
