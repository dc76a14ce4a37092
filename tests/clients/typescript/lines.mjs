// A client that is driven by lines of JSON: what both lines of the TypeScript client have in common.

import { createInterface } from "node:readline";

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

function connection(transports, how) {
  if (how.transport === "stdio") {
    const [command, ...args] = how.command;
    return new transports.stdio({ command, args, env: how.env, cwd: how.cwd, stderr: "ignore" });
  }
  const requestInit = { headers: how.headers };
  return new transports[how.transport](new URL(how.url), { requestInit });
}

export async function serveLines(transports, makeClient) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const how = JSON.parse((await lines.next()).value);
  const client = makeClient(async () => ({ action: "accept", content: {} }));
  await client.connect(connection(transports, how));
  const { tools } = await client.listTools();
  say({ tools: tools.map((tool) => tool.name) });
  for (;;) {
    const { value, done } = await lines.next();
    if (done) break;
    const { tool, arguments: args } = JSON.parse(value);
    const result = await client.callTool({ name: tool, arguments: args });
    const text = result.content.map((block) => block.text).join("");
    say({ text, structured: result.structuredContent ?? null, is_error: result.isError ?? false });
  }
  await client.close();
}
