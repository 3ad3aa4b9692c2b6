/** A scripted OpenAI-compatible server that records its requests and whether they were cut off. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { UpstreamTarget } from '../../src/inference/bridge/bridge.ts';

export interface Recorded {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
  readonly bytes: Buffer;
  /** Resolves if the connection breaks before the answer was complete. */
  readonly aborted: Promise<void>;
}

export type Answer = (request: Recorded, response: ServerResponse) => void;

export interface MockUpstream {
  readonly target: UpstreamTarget;
  /** All but model lists. */
  readonly requests: readonly Recorded[];
  /** Number of requests for the model list. */
  modelListCount(): number;
  /** The `authorization` header of each of them. */
  modelListKeys(): readonly (string | undefined)[];
  /** The next request that arrives from now on. */
  next(): Promise<Recorded>;
  answer(answer: Answer): void;
  connections(): number;
  /** Breaks every connection silently. */
  kill(): void;
  close(): Promise<void>;
}

export async function startMockUpstream(
  options: {
    models?: readonly string[] | null;
    ownedBy?: string;
    socketPath?: string;
    apiKey?: string;
    /** Serves HTTPS. */
    tls?: { readonly cert: string; readonly key: string };
  } = {},
): Promise<MockUpstream> {
  const { models = ['m1', 'm2'], socketPath, apiKey, ownedBy, tls } = options;
  const requests: Recorded[] = [];
  const waiting: ((request: Recorded) => void)[] = [];
  const sockets = new Set<Socket>();
  const modelListKeys: (string | undefined)[] = [];
  let answer: Answer = (_, response) => sendJson(response, 200, completion('hello'));
  const serve = (request: IncomingMessage, response: ServerResponse): void => {
    if (/\/models(?:\?|$)/.test(request.url ?? '')) {
      modelListKeys.push(request.headers.authorization);
      if (models === null) sendJson(response, 404, { error: 'none' });
      else sendJson(response, 200, { object: 'list', data: models.map((id) => ({ id, owned_by: ownedBy })) });
      return;
    }
    void record(request, response).then((recorded) => {
      requests.push(recorded);
      for (const resolve of waiting.splice(0)) resolve(recorded);
      answer(recorded, response);
    });
  };
  const server = tls === undefined ? createServer(serve) : createTlsServer(tls, serve);
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => {
    if (socketPath === undefined) server.listen(0, '127.0.0.1', resolve);
    else server.listen(socketPath, resolve);
  });
  return {
    target: {
      name: 'mock',
      ...place(server, socketPath, tls === undefined ? 'http' : 'https'),
      ...(apiKey ? { apiKey } : {}),
    },
    requests,
    modelListCount: () => modelListKeys.length,
    modelListKeys: () => modelListKeys,
    next: () => new Promise((resolve) => waiting.push(resolve)),
    answer(next) {
      answer = next;
    },
    connections: () => sockets.size,
    kill() {
      for (const socket of sockets) socket.destroy();
    },
    async close() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    },
  };
}

function place(server: Server, socketPath: string | undefined, scheme: string) {
  if (socketPath !== undefined) return { socketPath };
  return { baseUrl: `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

async function record(request: IncomingMessage, response: ServerResponse): Promise<Recorded> {
  const aborted = new Promise<void>((resolve) => {
    response.once('close', () => {
      if (!response.writableFinished) resolve();
    });
  });
  const parts: Buffer[] = [];
  for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
  const { method = '', url = '', headers } = request;
  const bytes = Buffer.concat(parts);
  return { method, path: url, headers, body: bytes.toString(), bytes, aborted };
}

export function sendJson(
  response: ServerResponse,
  status: number,
  value: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(value));
}

export function startEvents(response: ServerResponse, headers: Record<string, string> = {}): void {
  response.writeHead(200, { 'content-type': 'text/event-stream', ...headers });
  response.flushHeaders();
}

export const completion = (content: string): unknown => ({
  id: 'c1',
  choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }],
  usage: { prompt_tokens: 3, completion_tokens: 2 },
});

const event = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`;

export const delta = (content: string): string =>
  event({ choices: [{ index: 0, delta: { content }, finish_reason: null }], usage: null });

export const finish = event({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] });

export const usageEvent = event({ choices: [], usage: { prompt_tokens: 5, completion_tokens: 7 } });

export const done = 'data: [DONE]\n\n';
