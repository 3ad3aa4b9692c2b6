import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askHealth, readHealth } from './health.ts';

const HEALTH = {
  status: 'ok',
  model: 'm',
  gpu: 'cuda',
  device: 'NVIDIA H100',
  gpuLayers: 20,
  layers: 31,
  threads: 1,
  contextTokens: 4_096,
  slots: 4,
  running: 1,
  waiting: 0,
};

describe('readHealth', () => {
  it('reads the state of a ready engine', () => {
    const { status: _, model, running, waiting, ...setup } = HEALTH;
    expect(readHealth(JSON.stringify(HEALTH))).toEqual({ model, running, waiting, setup });
  });

  it('reads the state of a loading engine', () => {
    const text = '{"status":"loading","model":"m"}';
    expect(readHealth(text)).toEqual({ model: 'm', running: 0, waiting: 0, setup: null });
  });

  it.each<[string, unknown]>([
    ['no JSON', undefined],
    ['null', null],
    ['a list', []],
    ['an unknown processor', { ...HEALTH, gpu: 'tpu' }],
    ['layers below 0', { ...HEALTH, layers: -1 }],
    ['layers of text', { ...HEALTH, gpuLayers: '20' }],
    ['a huge number', { ...HEALTH, slots: 1e300 }],
    ['no requests', { ...HEALTH, running: undefined }],
    ['no model', { ...HEALTH, model: 1 }],
    ['an unknown state', { ...HEALTH, status: 'fine' }],
  ])('returns null for %s', (_name, value) => {
    expect(readHealth(JSON.stringify(value) ?? '{')).toBeNull();
  });

  it('shortens texts and removes terminal control characters', () => {
    const text = JSON.stringify({ ...HEALTH, model: '\u001b[2J', device: 'x'.repeat(3_000) });
    expect(readHealth(text)).toMatchObject({ model: '?[2J', setup: { device: 'x'.repeat(80) } });
  });
});

describe('askHealth', () => {
  let dir = '';
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nv-health-'));
  });
  afterAll(() => rm(dir, { recursive: true }));

  let sockets = 0;
  async function ask(answer: RequestListener): Promise<unknown> {
    const server = createServer(answer);
    const path = join(dir, `${sockets++}.sock`);
    await new Promise<void>((resolve) => server.listen(path, resolve));
    try {
      return await askHealth(path);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  }

  it('reads the answer of an engine', async () => {
    const answer = await ask((_, response) => response.end(JSON.stringify(HEALTH)));
    expect(answer).toMatchObject({ model: 'm', running: 1, setup: { gpuLayers: 20 } });
  });

  it.each<[string, RequestListener]>([
    ['never ends', (_, response) => void response.write('{')],
    ['is too long', (_, response) => response.end(`{"x":"${'x'.repeat(10_000)}"}`)],
    ['breaks off', (request) => request.socket.destroy()],
  ])('returns null for an answer that %s', async (_name, answer) => {
    expect(await ask(answer)).toBeNull();
  });

  it('returns null without a socket', async () => {
    expect(await askHealth(join(dir, 'none'))).toBeNull();
  });
});
