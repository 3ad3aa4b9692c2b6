/** The REST server on a fake control plane, at a unix socket and a port. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Certificate } from '../../src/api/rest/listener.ts';
import { type ApiServer, createApiServer } from '../../src/api/rest/server.ts';
import { type Clock, systemClock } from '../../src/base/clock.ts';
import type { Log } from '../../src/base/log.ts';
import { FakeControlPlane, type FakeOptions } from './fake-control-plane.ts';
import { homeParts } from './home-parts.ts';

export const API_KEY = 'the-key-of-this-test';

export interface ApiFixture extends AsyncDisposable {
  readonly control: FakeControlPlane;
  readonly server: ApiServer;
  readonly socketPath: string;
  readonly port: number;
  readonly errors: string[];
  /** Sends a request without a connection. A text body is sent as JSON. */
  ask(method: Method, path: string, body?: unknown): Promise<Answer>;
  connect(): Socket;
}

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly text: string;
  readonly json: unknown;
}

export interface ApiFixtureOptions extends FakeOptions {
  readonly clock?: Clock;
  /** Of the port. Default: no TLS. */
  readonly certificate?: Certificate;
}

export async function startApi(options: ApiFixtureOptions = {}): Promise<ApiFixture> {
  const dir = mkdtempSync(join(tmpdir(), 'nv-api-'));
  const socketPath = join(dir, 'api.sock');
  const control = new FakeControlPlane(options);
  const errors: string[] = [];
  const nothing = (): void => undefined;
  const log: Log = {
    error: (message, fields) => errors.push(`${message} ${JSON.stringify(fields)}`),
    warn: nothing,
    info: nothing,
    debug: nothing,
  };
  const { clock = systemClock, certificate } = options;
  const { administration, contents } = homeParts(dir);
  const server = await createApiServer({ control, administration, contents, log, clock, apiKey: API_KEY });
  await server.listen({ socketPath });
  const port = (await server.listen({ port: 0, certificate })) ?? 0;
  return {
    control,
    server,
    socketPath,
    port,
    errors,
    ask: async (method, path, body) => {
      const answer = await server.app.inject({
        method,
        url: `/v1${path}`,
        headers: {
          host: 'localhost',
          'x-api-key': API_KEY,
          ...(typeof body === 'string' ? { 'content-type': 'application/json' } : {}),
        },
        ...(body === undefined ? {} : { payload: body as object }),
      });
      const isJson = String(answer.headers['content-type']).startsWith('application/json');
      const json: unknown = isJson ? answer.json() : null;
      return { status: answer.statusCode, headers: answer.headers, text: answer.body, json };
    },
    connect: () => connect(socketPath),
    async [Symbol.asyncDispose]() {
      await server.close();
      await control[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
