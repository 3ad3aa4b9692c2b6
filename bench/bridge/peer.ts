/**
 * One end of the benchmark of the bridge's overhead, in its own process, so that no two share an event loop. Ends with its
 * stdin.
 *
 *     upstream SOCKET        a model server that puts the send time into each chunk; `tcp` in place of the socket: any
 *                            port on loopback, which it prints
 *     bridge SOCKET SERVER   the bridge, in front of a server at a socket or at a port of loopback
 */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { sleep, systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { createBridge } from '../../src/inference/bridge/bridge.ts';

/** Like a model with 50 tokens a second per stream. */
const CHUNK_INTERVAL_MS = 20;
const [role, place = '', server = ''] = process.argv.slice(2);

if (role === 'upstream') serveUpstream();
else await serveBridge();
process.stdin.on('end', () => process.exit(0)).resume();

function serveUpstream(): void {
  const upstream = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const body = parts.length === 0 ? {} : JSON.parse(Buffer.concat(parts).toString());
      if (request.method === 'GET') response.end('{"object":"list","data":[{"id":"bench"}]}');
      else if (body.stream === true) void stream(response, Number(body.max_tokens));
      else {
        response.setHeader('content-type', 'application/json');
        response.end(ANSWER);
      }
    });
  });
  const ready = (): void => {
    const address = upstream.address() as AddressInfo | string;
    process.stdout.write(`ready ${typeof address === 'string' ? address : address.port}\n`);
  };
  if (place === 'tcp') upstream.listen(0, '127.0.0.1', ready);
  else upstream.listen(place, ready);
}

const ANSWER = JSON.stringify({
  id: 'chatcmpl-bench',
  object: 'chat.completion',
  created: 0,
  model: 'bench',
  choices: [{ index: 0, message: { role: 'assistant', content: 'x'.repeat(200) }, finish_reason: 'stop' }],
  usage: { prompt_tokens: 20, completion_tokens: 50, total_tokens: 70 },
});

async function stream(response: ServerResponse, chunks: number): Promise<void> {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const begunAtMs = performance.now();
  for (let i = 0; i < chunks && !response.destroyed; i += 1) {
    // All processes of a machine share the monotonic clock.
    response.write(chunk({ content: String(process.hrtime.bigint()) }, null));
    await sleep(Math.max(0, begunAtMs + (i + 1) * CHUNK_INTERVAL_MS - performance.now()));
  }
  response.end(`${chunk({}, 'stop')}data: [DONE]\n\n`);
}

function chunk(delta: object, finish: string | null): string {
  const choices = [{ index: 0, delta, finish_reason: finish }];
  const event = { id: 'chatcmpl-bench', object: 'chat.completion.chunk', created: 0, model: 'bench', choices };
  return `data: ${JSON.stringify(event)}\n\n`;
}

async function serveBridge(): Promise<void> {
  const at = server.includes('/') ? { socketPath: server } : { baseUrl: `http://127.0.0.1:${server}` };
  const target = { name: 'bench', apiKey: 'host', ...at };
  const bridge = createBridge({ upstream: () => Promise.resolve(target), clock: systemClock, log: silentLog });
  // The maximum that the benchmark has at once.
  const limits = { connectionsMax: 256, requestsInFlightMax: 256 };
  await bridge.attach({ sandboxId: 'bench', socketPath: place, policy: { limits } });
  process.stdout.write(`ready ${place}\n`);
}
