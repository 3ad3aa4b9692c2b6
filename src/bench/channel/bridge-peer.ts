/**
 * One end of the bridge benchmark, in its own process, so that no two share an event loop: `upstream SOCKET` is a model
 * server that puts the send time into each chunk, `bridge SOCKET UPSTREAM` is the bridge. Each prints `ready` and ends
 * with its stdin.
 */
import { createServer, type ServerResponse } from 'node:http';
import { systemClock } from '../../base/clock.ts';
import { silentLog } from '../../base/log.ts';
import { createBridge } from '../../bridge/bridge.ts';

const CHUNK_INTERVAL_MS = 2;
const [role, socketPath = '', upstreamPath = ''] = process.argv.slice(2);

if (role === 'upstream') serveUpstream();
else await serveBridge();
process.stdin.on('end', () => process.exit(0)).resume();

function serveUpstream(): void {
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const body = parts.length === 0 ? {} : JSON.parse(Buffer.concat(parts).toString());
      if (request.method === 'GET') response.end('{"object":"list","data":[{"id":"bench"}]}');
      else if (body.stream === true) void stream(response, Number(body.max_tokens));
      else response.end(ANSWER);
    });
  });
  server.listen(socketPath, () => process.stdout.write('ready\n'));
}

const ANSWER = JSON.stringify({
  choices: [{ message: { role: 'assistant', content: 'x'.repeat(200) }, finish_reason: 'stop' }],
  usage: { prompt_tokens: 20, completion_tokens: 50 },
});

async function stream(response: ServerResponse, chunks: number): Promise<void> {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (let i = 0; i < chunks; i += 1) {
    // All processes of a machine share the monotonic clock.
    const content = String(process.hrtime.bigint());
    const choices = [{ index: 0, delta: { content }, finish_reason: null }];
    response.write(`data: ${JSON.stringify({ id: 'chatcmpl-bench', choices })}\n\n`);
    await new Promise((resolve) => setTimeout(resolve, CHUNK_INTERVAL_MS));
  }
  response.end('data: [DONE]\n\n');
}

async function serveBridge(): Promise<void> {
  const target = { name: 'bench', socketPath: upstreamPath, apiKey: 'host' };
  const upstream = () => Promise.resolve(target);
  const bridge = createBridge({ upstream, clock: systemClock, log: silentLog });
  await bridge.attach({ sandboxId: 'bench', socketPath });
  process.stdout.write('ready\n');
}
