/** How long packets of a guest take, as the kernel measures it, on a host of our own. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { TapLatency } from '../../src/observe/latency.ts';
import { echo, GUEST, HOST } from '../support/latency-frames.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';

const FIXTURE = join(import.meta.dirname, '../fixtures/observe-latency.ts');

let dir: string;
let host: NamespacedProcess;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-observe-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));
beforeEach(() => {
  host = NamespacedProcess.inNewNamespace(FIXTURE);
});
afterEach(() => host.kill());

const open = (more: object = {}) => host.do('open', { dir, compiler: '/usr/bin/clang', ...more });
const read = () => host.do<TapLatency>('read');

describe('LatencyProbes', () => {
  it('counts every frame of a TAP, and the time of every answer', async () => {
    await open();
    expect(await host.do('watch')).toBe('xdp');
    const pings = Array.from({ length: 25 }, (_, index) => echo({ from: GUEST, to: HOST }, index));
    for (const ping of pings) {
      await host.do('send', 'guest', ping);
      await host.do('receive', 'guest');
    }
    expect(await read()).toMatchObject({
      framesOut: 25,
      framesIn: 25,
      unreadable: 0,
      paths: { peer: { started: 25, answered: 25, unanswered: 0 }, guest: { started: 0 } },
    });
  });
});
