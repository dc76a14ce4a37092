// The official TypeScript client 2.x; see sdk.mjs. It finds out which era the server speaks.

import {
  Client,
  SSEClientTransport,
  StreamableHTTPClientTransport,
} from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { serveLines } from "./lines.mjs";

const transports = {
  stdio: StdioClientTransport,
  sse: SSEClientTransport,
  http: StreamableHTTPClientTransport,
};

await serveLines(transports, (accept) => {
  const options = { capabilities: { elicitation: {} }, versionNegotiation: { mode: "auto" } };
  const client = new Client({ name: "typescript-client", version: "2" }, options);
  client.setRequestHandler("elicitation/create", accept);
  return client;
});
