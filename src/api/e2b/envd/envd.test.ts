import { EventEmitter } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { expect, it } from 'vitest';
import { settle } from '../../../../test/support/fake-members.ts';
import { FakeClock } from '../../../base/clock.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';
import { accessTokens, fileSignature } from '../tokens.ts';
import { Envd } from './envd.ts';

it('logs no signature with an internal error', async () => {
  const lines: unknown[] = [];
  const tokens = accessTokens(Buffer.alloc(32, 1));
  const parts = {
    control: { guest: async () => await Promise.reject(new TypeError('a bug')) },
    clock: new FakeClock(),
    log: { error: (...line: unknown[]) => lines.push(line) },
    tokens,
  };
  const file = { path: 'a', operation: 'read', user: '', expiration: null } as const;
  const signature = fileSignature(file, tokens.envd('i1'));
  const url = `/files?path=a&signature=${encodeURIComponent(signature)}`;
  const answer: number[] = [];
  const response = {
    setHeader: () => undefined,
    once: () => undefined,
    writeHead: (status: number) => answer.push(status),
    end: () => undefined,
  };
  await new Envd(parts as unknown as E2bParts).answer(
    { method: 'GET', url, headers: {} } as IncomingMessage,
    response as unknown as ServerResponse,
    { id: 'i1', annotations: {}, template: null, network: null } as unknown as SandboxInfo,
    () => expect.unreachable('it has not gone'),
  );
  expect(answer).toEqual([500]);
  expect(lines).toHaveLength(1);
  expect(JSON.stringify(lines)).not.toContain('signature');
});

it('refuses more calls of one sandbox than it may have in progress, until one is closed', async () => {
  const tokens = accessTokens(Buffer.alloc(32, 1));
  const waiting = Promise.withResolvers<never>();
  const parts = { control: { guest: () => waiting.promise }, clock: new FakeClock(), log: {}, tokens };
  const envd = new Envd(parts as unknown as E2bParts);
  const call = async (id: string): Promise<{ statuses: number[]; close(): void }> => {
    const statuses: number[] = [];
    const response = Object.assign(new EventEmitter(), {
      setHeader: () => undefined,
      writeHead: (status: number) => statuses.push(status),
      end: () => undefined,
    });
    const headers = { 'x-access-token': tokens.envd(id) };
    const request = { method: 'POST', url: '/process.Process/List', headers };
    const info = { id, annotations: { tenant: 'first' }, template: null, network: null };
    const refuse = () => expect.unreachable('it has not gone');
    void envd.answer(request as never, response as never, info as unknown as SandboxInfo, refuse);
    await settle();
    return { statuses, close: () => void response.emit('close') };
  };
  const one = await call('i1');
  for (let calls = 1; calls < E2B_LIMITS.callsPerSandboxMax; calls += 1) await call('i1');
  expect((await call('i1')).statuses).toEqual([429]);
  expect((await call('i2')).statuses).toEqual([]);
  one.close();
  expect((await call('i1')).statuses).toEqual([]);
  expect((await call('i1')).statuses).toEqual([429]);
});
