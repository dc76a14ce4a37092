// The official TypeScript client 1.x, and `client.mjs` the one of 2.x: the first line of input says
// how to connect, the first line of output lists the tools; then a call a line, an answer a line.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { serveLines } from "./lines.mjs";

const transports = {
  stdio: StdioClientTransport,
  sse: SSEClientTransport,
  http: StreamableHTTPClientTransport,
};

await serveLines(transports, (accept) => {
  const capabilities = { elicitation: {} };
  const client = new Client({ name: "typescript-sdk", version: "1" }, { capabilities });
  client.setRequestHandler(ElicitRequestSchema, accept);
  return client;
});
