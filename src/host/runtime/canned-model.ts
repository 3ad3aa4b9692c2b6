/**
 * The model server for a guest that becomes a template: every call gets one fixed answer, whole or streamed, in
 * OpenAI's format. Each connection is closed after its answer, so that none ends up in the template.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';

const BODY_BYTES_MAX = MIB;
const ID = 'rehearsal';
const USAGE = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 };

export async function serveCannedModel(socketPath: string): Promise<{ close(): Promise<void> }> {
  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      ignore(error, 'the guest aborted its call');
      response.destroy();
    });
  });
  const sockets = new Set<Socket>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, () => resolve());
  });
  return {
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX) return void response.destroy();
    chunks.push(chunk);
  }
  response.shouldKeepAlive = false;
  if (/"stream"\s*:\s*true/.test(Buffer.concat(chunks).toString())) {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(`${STREAM.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')}${DONE}`);
  } else {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(WHOLE));
  }
}

const base = { id: ID, created: 0, model: ID };
const WHOLE = {
  ...base,
  object: 'chat.completion',
  usage: USAGE,
  choices: [{ index: 0, message: { role: 'assistant', content: 'ok' }, finish_reason: 'stop' }],
};
const chunk = (delta: object, finish: string | null): object => ({
  ...base,
  object: 'chat.completion.chunk',
  choices: [{ index: 0, delta, finish_reason: finish }],
});
const STREAM = [chunk({ role: 'assistant', content: '' }, null), chunk({ content: 'ok' }, null), chunk({}, 'stop')];
const DONE = 'data: [DONE]\n\n';
