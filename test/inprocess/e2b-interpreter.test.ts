/** E2B's code interpreter as clients reach it: which tokens open its port, and its prior set-up. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { INTERPRETER_PORT } from '../../src/api/e2b/dispatch.ts';
import { mayUseInterpreter } from '../../src/api/e2b/interpreter/interpreter.ts';
import { accessTokens } from '../../src/api/e2b/tokens.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

const tokens = accessTokens(Buffer.alloc(32, 7));

describe('port of the code interpreter', () => {
  const may = (headers: Record<string, string>, url = '/execute', method = 'POST'): boolean =>
    mayUseInterpreter({ headers, url, method }, 'a', { tokens });

  it.each([
    ['the token of envd', { 'x-access-token': tokens.envd('a') }, true],
    ['the token of traffic', { 'e2b-traffic-access-token': tokens.traffic('a') }, true],
    ['no token', {}, false],
    ['the token of another sandbox', { 'x-access-token': tokens.envd('b') }, false],
    ['a token in the wrong header', { 'x-access-token': tokens.traffic('a') }, false],
  ])('%s', (_what, headers, isOpen) => {
    for (const path of ['/execute', '/contexts', '/contexts/1/restart', '/health?']) {
      expect(may(headers, path)).toBe(isOpen);
    }
  });

  it('its health is public', () => {
    expect(may({}, '/health', 'GET')).toBe(true);
    expect(may({}, '/health', 'POST')).toBe(false);
  });
});

describe('a sandbox', () => {
  let world: E2bWorld;
  let home: string;
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'nv-e2b-interpreter-'));
    world = await openE2bWorld({ home });
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
    await rm(home, { recursive: true, force: true });
  });

  it('clients get the token for the port, whether or not other ports are public', async () => {
    const sandbox = await Sandbox.create('agent', world.client);
    expect(sandbox.trafficAccessToken).toBe(tokens.traffic(sandbox.sandboxId));
    const ask = async (headers: Record<string, string>) => {
      const address = { 'e2b-sandbox-id': sandbox.sandboxId, 'e2b-sandbox-port': String(INTERPRETER_PORT) };
      const response = await fetch(`${world.url}/contexts`, { headers: { ...address, ...headers } });
      await response.arrayBuffer();
      return response.status;
    };
    expect(await ask({})).toBe(403);
    // No listener, or one without contexts.
    expect(await ask({ 'e2b-traffic-access-token': sandbox.trafficAccessToken ?? '' })).not.toBe(403);
    expect(world.errors).toEqual([]);
  });
});
