/**
 * The part of E2B's API that its unmodified client needs to create a sandbox, run commands in it, change its network
 * and end it: control plane and envd on one port of loopback, plain HTTP. The test provides the sandboxes.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { E2bNetwork } from './e2b-policy.ts';

export interface CommandResult {
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly code: number;
}

export interface EndpointGuest {
  /** Undefined if the SDK asks for an unknown program. */
  run(argv: readonly string[], env: Readonly<Record<string, string>>): Promise<CommandResult>;
  setNetwork(network: E2bNetwork): Promise<void>;
  end(): Promise<void>;
}

export interface E2bEndpointOptions {
  readonly apiKey: string;
  /** @param network undefined if the request names none */
  readonly makeGuest: (network: E2bNetwork | undefined) => Promise<EndpointGuest>;
  /** False: like an endpoint without updates. */
  readonly hasUpdates?: boolean;
}

export interface E2bEndpoint extends AsyncDisposable {
  readonly url: string;
  /** Ids that were created, and those that exist. */
  readonly made: readonly string[];
  readonly alive: ReadonlyMap<string, EndpointGuest>;
}

interface CreateBody {
  readonly allow_internet_access?: boolean;
  readonly network?: { readonly allowOut?: string[]; readonly denyOut?: string[] };
}

const FRAME_HEADER_BYTES = 5;
const END_FLAG = 2;

export async function startE2bEndpoint(options: E2bEndpointOptions): Promise<E2bEndpoint> {
  const made: string[] = [];
  const alive = new Map<string, EndpointGuest>();

  async function control(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url = '' } = request;
    if (request.headers['x-api-key'] !== options.apiKey) {
      refuse(response, 401, 'the key is not known');
      return;
    }
    const route = `${method} ${url.replace(/^\/v2/, '').replace(/\/sandboxes\/[^/?]+/, '/sandboxes/:id')}`;
    const id = /\/sandboxes\/([^/?]+)/.exec(url)?.[1] ?? '';
    const guest = alive.get(id);
    if (route === 'POST /sandboxes') {
      const body = JSON.parse(await read(request)) as CreateBody;
      const sandboxID = `i${randomBytes(10).toString('hex')}`;
      alive.set(sandboxID, await options.makeGuest(networkOf(body)));
      made.push(sandboxID);
      json(response, 201, {
        templateID: 'base',
        sandboxID,
        clientID: 'test',
        envdVersion: '0.6.13',
        envdAccessToken: randomUUID(),
      });
    } else if (guest === undefined) refuse(response, 404, 'there is no such sandbox');
    else if (route === 'DELETE /sandboxes/:id') {
      alive.delete(id);
      await guest.end();
      response.writeHead(204).end();
    } else if (route === 'POST /sandboxes/:id/timeout') response.writeHead(204).end();
    else if (route === 'POST /sandboxes/:id/connect')
      json(response, 200, { templateID: 'base', sandboxID: id, clientID: 't', envdVersion: '0.6.13' });
    else if (route === 'PUT /sandboxes/:id/network' && options.hasUpdates !== false) {
      const { allow_internet_access, ...network } = JSON.parse(await read(request));
      await guest.setNetwork(networkOf({ allow_internet_access, network }) ?? {});
      response.writeHead(204).end();
    } else refuse(response, 404, `${route} is not known here`);
  }

  async function envd(guest: EndpointGuest, request: IncomingMessage, response: ServerResponse) {
    if (request.url === '/health') response.writeHead(204).end();
    else if (request.url === '/process.Process/Start') await start(guest, request, response);
    else json(response, 404, { code: 'unimplemented', message: `${request.url} is not known here` });
  }

  const server = createServer((request, response) => {
    const id = request.headers['e2b-sandbox-id'];
    const answer = async (): Promise<void> => {
      if (id === undefined) return await control(request, response);
      const guest = alive.get(String(id));
      if (guest !== undefined) return await envd(guest, request, response);
      json(response, 502, { sandboxId: id, message: 'The sandbox was not found', code: 502 });
    };
    answer().catch((error: unknown) => {
      if (response.headersSent) response.destroy();
      else refuse(response, 500, String(error));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    made,
    alive,
    async [Symbol.asyncDispose]() {
      server.close();
      server.closeAllConnections();
      await Promise.all([...alive.values()].map((guest) => guest.end()));
    },
  };
}

function networkOf({ allow_internet_access: access, network }: CreateBody): E2bNetwork | undefined {
  if (access === undefined && network === undefined) return undefined;
  return { ...network, ...(access === undefined ? {} : { allowInternetAccess: access }) };
}

/** process.Process/Start: one message in, events out, in frames of the Connect protocol. */
async function start(guest: EndpointGuest, request: IncomingMessage, response: ServerResponse) {
  const body = Buffer.from(await read(request), 'latin1');
  const { process } = JSON.parse(body.subarray(FRAME_HEADER_BYTES).toString()) as {
    process: { cmd: string; args?: string[]; envs?: Record<string, string> };
  };
  const send = (flags: number, message: object): void => {
    const text = Buffer.from(JSON.stringify(message));
    const header = Buffer.alloc(FRAME_HEADER_BYTES);
    header.writeUInt8(flags);
    header.writeUInt32BE(text.length, 1);
    response.write(Buffer.concat([header, text]));
  };
  response.writeHead(200, { 'content-type': 'application/connect+json' });
  send(0, { event: { start: { pid: 1 } } });
  const { cmd, args = [], envs = {} } = process;
  const { stdout, stderr, code } = await guest.run([cmd, ...args], envs);
  for (const [name, bytes] of Object.entries({ stdout, stderr }))
    if (bytes.length > 0) send(0, { event: { data: { [name]: Buffer.from(bytes).toString('base64') } } });
  const status = `exit status ${code}`;
  const failure = code === 0 ? {} : { error: status };
  send(0, { event: { end: { exitCode: code, exited: true, status, ...failure } } });
  send(END_FLAG, {});
  response.end();
}

/** As latin1: each character is a byte. */
async function read(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const bytes of request) text += (bytes as Buffer).toString('latin1');
  return text;
}

function json(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function refuse(response: ServerResponse, code: number, message: string): void {
  json(response, code, { code, message });
}
