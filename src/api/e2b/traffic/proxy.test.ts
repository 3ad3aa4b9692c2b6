import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { expect, it } from 'vitest';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { withOwner } from '../../tenants/owner.ts';
import type { E2bParts } from '../parts.ts';
import { TRAFFIC_LIMITS } from './limits.ts';
import { PortProxy } from './proxy.ts';

it('PortProxy: a tenant whose sandboxes have all the connections they can leaves some to others', () => {
  const { exchangesMax, exchangesPerSandboxMax } = TRAFFIC_LIMITS;
  // Guests that never answer.
  const proxy = new PortProxy({ control: { guest: () => new Promise(() => undefined) } } as unknown as E2bParts);
  const socket = new Socket();
  const statusOf = (owner: string | null, id: string): number => {
    const request = new IncomingMessage(socket);
    Object.assign(request, { method: 'GET', url: '/', complete: true });
    const response = new ServerResponse(request);
    void proxy.answer(request, response, { id, annotations: withOwner({}, owner) } as SandboxInfo, 80);
    return response.statusCode;
  };
  for (let sandbox = 0; sandbox * exchangesPerSandboxMax < exchangesMax; sandbox += 1) {
    for (let one = 0; one < exchangesPerSandboxMax; one += 1) statusOf('greedy', `g${sandbox}`);
  }
  expect(statusOf('greedy', 'last')).toBe(429);
  expect(statusOf('other', 'o')).toBe(200);
  expect(statusOf(null, 'operators')).toBe(200);
});
