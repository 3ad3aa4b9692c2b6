import type { IncomingMessage, ServerResponse } from 'node:http';
import { expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
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
