/** HTTP to a port of a sandbox, through the agent: no network card is needed. */
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { ignore } from '../../base/ignore.ts';
import type { SandboxInfo } from '../../sandbox/control.ts';
import type { E2bParts } from '../parts.ts';
import { type ProxyRefusal, refusalOf, sendRefusal } from './refusal.ts';

/** Headers of ours, which the program in the sandbox does not get. */
const OURS: readonly string[] = [
  'e2b-sandbox-id',
  'e2b-sandbox-port',
  'e2b-traffic-access-token',
  'x-access-token',
];

export class PortProxy {
  readonly #parts: E2bParts;

  constructor(parts: E2bParts) {
    this.#parts = parts;
  }

  /** Never rejects. */
  async answer(
    request: IncomingMessage,
    response: ServerResponse,
    info: SandboxInfo,
    port: number,
  ): Promise<void> {
    try {
      const connection = await this.#connect(info.id, port);
      await forward(request, response, connection);
    } catch (error) {
      if (response.headersSent) response.destroy();
      else sendRefusal(response, refusalOf(error, info.id, port));
    }
  }

  /** Joins an upgraded connection; never rejects. */
  async join(
    request: IncomingMessage,
    client: Duplex,
    head: Buffer,
    info: SandboxInfo,
    port: number,
  ): Promise<void> {
    client.on('error', (error) => ignore(error, 'reported by the close that follows'));
    try {
      const connection = await this.#connect(info.id, port);
      connection.on('error', (error) => ignore(error, 'reported by the close that follows'));
      connection.once('close', () => client.destroy());
      client.once('close', () => connection.destroy());
      connection.write(requestHead(request));
      connection.write(head);
      client.pipe(connection);
      connection.pipe(client);
    } catch (error) {
      endWith(client, refusalOf(error, info.id, port));
    }
  }

  async #connect(id: string, port: number): Promise<Duplex> {
    const guest = await this.#parts.control.guest(id);
    return await guest.connect(port);
  }
}

async function forward(
  request: IncomingMessage,
  response: ServerResponse,
  connection: Duplex,
): Promise<void> {
  const { method, url: path } = request;
  const outgoing = httpRequest({
    method,
    path,
    headers: forwardedHeaders(request),
    createConnection: () => connection as never,
    setHost: false,
  });
  response.once('close', () => outgoing.destroy());
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve);
    outgoing.once('error', reject);
  });
  pipeline(request, outgoing).catch((error: unknown) => ignore(error, 'the answer says why'));
  const answer = await answered;
  response.writeHead(answer.statusCode ?? 502, answer.rawHeaders);
  response.flushHeaders();
  await pipeline(answer, response);
}

function forwardedHeaders({ rawHeaders }: IncomingMessage): string[] {
  return rawHeaders.flatMap((value, index) => {
    const name = rawHeaders[index - (index % 2)] ?? '';
    return OURS.includes(name.toLowerCase()) ? [] : [value];
  });
}

function requestHead(request: IncomingMessage): string {
  const { method = 'GET', url = '/' } = request;
  const headers = forwardedHeaders(request);
  const lines = headers.flatMap((name, index) =>
    index % 2 === 0 ? [`${name}: ${headers[index + 1] ?? ''}`] : [],
  );
  return `${method} ${url} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`;
}

function endWith(client: Duplex, { status, body }: ProxyRefusal): void {
  const text = JSON.stringify(body);
  client.end(
    `HTTP/1.1 ${status} Refused\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(text)}\r\nconnection: close\r\n\r\n${text}`,
  );
}
