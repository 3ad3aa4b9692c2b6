/** Refusals of E2B's control plane: hostile ids, errors that say whether a retry helps, builds that take long. */
import { readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { AuthenticationError, Sandbox, ServiceBusyError } from 'e2b';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createControlApp } from '../../src/api/e2b/control/app.ts';
import { accessTokens } from '../../src/api/e2b/tokens.ts';
import { operatorOnly } from '../../src/api/tenants/callers.ts';
import { QUOTAS, QuotaError } from '../../src/api/tenants/errors.ts';
import { FakeClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import type { CreateRequest } from '../../src/sandbox/contract/control.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import { E2B_OPENAPI_FILE, e2bOpenapiDocument } from '../../tools/openapi.ts';
import { type Asking, asking } from '../support/e2b-ask.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';

let world: E2bWorld;
let beforeCreate: (request: CreateRequest) => void = () => undefined;

beforeAll(async () => {
  world = await openE2bWorld({ beforeCreate: (request) => beforeCreate(request) });
});
afterEach(() => {
  beforeCreate = () => undefined;
});
afterAll(() => world[Symbol.asyncDispose]());

const ask: Asking = (...request) => asking(world)(...request);

describe('errors', () => {
  it('say whether a retry helps', async () => {
    const { headers } = await ask('POST', '/v2/sandboxes', { templateID: 'agent', timeout: -1 });
    expect(headers.get('should-retry')).toBe('false');
    const wrong = { ...world.client, apiKey: 'e2b_00' };
    await expect(Sandbox.kill('x', wrong)).rejects.toThrow(AuthenticationError);
  });

  it('of a full quota of sandboxes or memory have the words by which Harbor waits for a place', async () => {
    const isWaited: Record<string, boolean> = {};
    for (const quota of QUOTAS) {
      beforeCreate = () => {
        throw new QuotaError('acme', quota, 'used up');
      };
      const { status, headers, json } = await ask('POST', '/v2/sandboxes', { templateID: 'agent' });
      expect([status, headers.get('should-retry')]).toEqual([429, 'true']);
      expect(json.message).toContain('quota of tenant acme: used up');
      isWaited[quota] = json.message.includes('maximum number of concurrent');
    }
    expect(isWaited).toEqual({ sandboxes: true, memory: true, starts: false, storage: false });
  });

  it('name the option mcp, which starts nothing', async () => {
    const { status, json } = await ask('POST', '/v2/sandboxes', { templateID: 'agent', mcp: { browserbase: {} } });
    expect([status, json]).toEqual([
      400,
      { code: 400, message: 'mcp: MCP servers are not supported; start them by a command in the sandbox' },
    ]);
    const { status: without } = await ask('POST', '/v2/sandboxes', { templateID: 'agent', mcp: null });
    expect(without).toBe(201);
  });

  const hostile = [
    '..%2F..%2Fetc',
    '%00',
    '%F0%9F%92%A9',
    '%2e%2e',
    'a'.repeat(4096),
    '%E0%A4%A',
    "'%20or%201=1",
    '__proto__',
  ];
  const routes = [
    ['GET', ''],
    ['DELETE', ''],
    ['POST', '/timeout'],
    ['POST', '/pause'],
    ['POST', '/resume'],
    ['POST', '/connect'],
    ['POST', '/refreshes'],
    ['POST', '/fork'],
    ['POST', '/snapshots'],
    ['PUT', '/network'],
    ['GET', '/metrics'],
    ['GET', '/logs'],
  ] as const;

  it.each(hostile)('the id %s is unknown or invalid', async (id) => {
    for (const [method, rest] of routes) {
      const { status, body } = await raw(method, `/sandboxes/${id}${rest}`);
      expect([400, 404, 414], `${method} ${rest} ${body}`).toContain(status);
      expect(JSON.parse(body).code).toBe(status);
    }
    for (const [method, path] of [
      ['DELETE', `/templates/${id}`],
      ['POST', `/v2/sandboxes/${id}/connect`],
      ['GET', `/v2/sandboxes/${id}/logs`],
    ] as const) {
      const { status, body } = await raw(method, path);
      expect([400, 404, 414], `${method} ${path} ${body}`).toContain(status);
    }
    const templateID = id === '%E0%A4%A' ? '\uFFFD' : decodeURIComponent(id);
    const created = await ask('POST', '/v2/sandboxes', { templateID });
    expect([400, 404]).toContain(created.status);
  });

  /** Uses no client, which would normalize the path. */
  function raw(method: string, path: string): Promise<{ status: number; body: string }> {
    return new Promise((resolve, reject) => {
      const headers = { 'x-api-key': world.apiKey, 'content-type': 'application/json' };
      const { port } = new URL(world.url);
      const request = httpRequest({ host: '127.0.0.1', port, method, path, headers });
      request.once('error', reject);
      request.once('response', (answer) => {
        const parts: Buffer[] = [];
        answer.on('data', (part: Buffer) => parts.push(part));
        answer.once('end', () => resolve({ status: answer.statusCode ?? 0, body: Buffer.concat(parts).toString() }));
      });
      request.end(method === 'POST' ? '{"timeout":1}' : undefined);
    });
  }

  it('log nothing as a bug', () => expect(world.errors).toEqual([]));
});

describe('a template that must be built first', () => {
  it('answers 503 after 50 s, continues, and leaves no sandbox behind', async () => {
    const clock = new FakeClock();
    const built = Promise.withResolvers<void>();
    const asked = Promise.withResolvers<void>();
    await using control = new FakeControlPlane({
      beforeCreate: async () => {
        asked.resolve();
        await built.promise;
      },
    });
    const parts = {
      control,
      clock,
      log: silentLog,
      tokens: accessTokens(new Uint8Array(32)),
      callers: operatorOnly(control, 'key'),
      domain: () => 'localhost',
    };
    const app = await createControlApp(parts, null);
    const answering = app.inject({
      method: 'POST',
      url: '/v2/sandboxes',
      headers: { 'x-api-key': 'key' },
      payload: { templateID: 'base' },
    });
    void answering.then(() => undefined);
    await asked.promise;
    clock.advance(49_000);
    clock.advance(2000);
    const { statusCode, headers, body } = await answering;
    expect([statusCode, headers['retry-after'], headers['should-retry']]).toEqual([503, '20', 'true']);
    expect(body).toContain('takes minutes');
    built.resolve();
    await new Promise((resolve) => setImmediate(resolve));
    expect(await control.list()).toEqual([]);
    await app.close();
  });

  it('is an error of a busy service for the client', async () => {
    beforeCreate = () => {
      throw new SandboxError('store_failed', 'not now');
    };
    await expect(Sandbox.create('agent', world.client)).rejects.toThrow(ServiceBusyError);
  });
});

it('e2b-openapi.json: the committed document matches the schemas', async () => {
  const committed: unknown = JSON.parse(readFileSync(E2B_OPENAPI_FILE, 'utf8'));
  expect(await e2bOpenapiDocument()).toEqual(committed);
});
