/** The daemon measures packets of sandboxes while they have a network card; in a namespace of the test. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { LatencyReport } from '../../src/host/probes/latency.ts';
import type { TapLatency } from '../../src/machine/observe/latency.ts';
import { parseExposition } from '../support/exposition.ts';
import { echo, GUEST, HOST } from '../support/latency-frames.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';

const FIXTURE = join(import.meta.dirname, '../fixtures/observe-latency.ts');
const COUNT = 'neurovisor_network_latency_seconds_count';

let cacheDir: string;
let host: NamespacedProcess;
beforeAll(() => {
  cacheDir = mkdtempSync(join(tmpdir(), 'nv-packets-'));
});
afterAll(() => rmSync(cacheDir, { recursive: true, force: true }));
beforeEach(() => {
  host = NamespacedProcess.inNewNamespace(FIXTURE);
});
afterEach(() => host.kill());

async function echoes(first: number, count: number): Promise<void> {
  for (let number = first; number < first + count; number += 1) {
    await host.do('send', 'guest', echo({ from: GUEST, to: HOST }, number));
    await host.do('receive', 'guest');
  }
}

async function counted(name: string, labels: Record<string, string> = {}): Promise<number> {
  const families = parseExposition(await host.do<string>('metrics'));
  const samples = families.flatMap((family) => family.samples);
  const found = samples.filter(
    (one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value),
  );
  return found.reduce((sum, { value }) => sum + value, 0);
}

describe('PacketLatency', () => {
  it('measures a card from attach to detach; its latencies stay in the sums', async () => {
    await host.do('daemon', cacheDir);
    expect(await counted('neurovisor_probe_loaded', { probe: 'latency' })).toBe(0);
    await host.do('card', 'one', 'nv-guest');
    expect(await counted('neurovisor_probe_loaded', { probe: 'latency' })).toBe(1);
    await echoes(0, 5);
    expect(await counted(COUNT, { path: 'peer' })).toBe(5);
    expect(await counted('neurovisor_network_latency_cards')).toBe(1);
    expect(await host.do<TapLatency>('latencyOf', 'one')).toMatchObject({
      framesOut: 5,
      paths: { peer: { answered: 5 } },
    });
    await host.do('noCard', 'one');
    await echoes(5, 5);
    expect(await counted(COUNT, { path: 'peer' })).toBe(5);
    expect(await counted('neurovisor_network_latency_cards')).toBe(0);
    expect(await host.do('latencyOf', 'one')).toBeNull();
    // The next card starts at zero and adds to the sums.
    await host.do('card', 'two', 'nv-guest');
    await echoes(10, 3);
    expect(await counted(COUNT, { path: 'peer' })).toBe(8);
    expect(await host.do('told')).toEqual([]);
  });

  it('a missing card, or one that is already measured, is not measured; one warning', async () => {
    await host.do('daemon', cacheDir);
    await host.do('card', 'none', 'nv-none');
    expect(await host.do('told')).toEqual([]);
    await host.do('card', 'one', 'nv-guest');
    await host.do('card', 'two', 'nv-guest');
    await host.do('card', 'three', 'nv-guest');
    expect(await counted('neurovisor_network_latency_cards')).toBe(1);
    expect(await host.do('told')).toMatchObject([
      { what: 'packets of a sandbox are not measured', fields: { reason: expect.any(String) } },
    ]);
    for (const id of ['none', 'two', 'three']) await host.do('noCard', id);
    await echoes(0, 1);
    expect(await counted(COUNT, { path: 'peer' })).toBe(1);
  });

  it('without its requirements nothing is measured, with one warning, and the daemon runs', async () => {
    const hidden = 'for each in /usr/lib/*/libbpf.so.1; do mount --bind /dev/null $each; done';
    const prefix = ['unshare', '-n', '-m', 'sh', '-c', `${hidden}; exec "$@"`, 'sh'];
    host.kill();
    host = new NamespacedProcess(prefix, FIXTURE);
    await host.do('daemon', cacheDir);
    await host.do('card', 'one', 'nv-guest');
    await host.do('card', 'two', 'nv-uplink');
    expect(await counted('neurovisor_probe_loaded')).toBe(0);
    expect(await counted(COUNT)).toBe(0);
    expect(await host.do('told')).toMatchObject([{ fields: { reason: expect.stringContaining('libbpf') } }]);
    await host.do('noCard', 'one');
    await host.do('endDaemon');
  });

  it('close: removes its programs from the TAP and closes its descriptors', async () => {
    const before = await host.do<number>('fds');
    await host.do('daemon', cacheDir);
    await host.do('card', 'one', 'nv-guest');
    expect(host.ip('link', 'show', 'nv-guest')).toMatchObject([{ xdp: expect.anything() }]);
    await host.do('endDaemon');
    expect(host.ip<object>('link', 'show', 'nv-guest')[0]).not.toHaveProperty('xdp');
    expect(await host.do('fds')).toBe(before);
  });

  it('a killed daemon leaves no programs on the TAP', async () => {
    await host.do('fds');
    const killed = host.beside();
    await killed.do('daemon', cacheDir);
    await killed.do('card', 'one', 'nv-guest');
    expect(host.ip('link', 'show', 'nv-guest')).toMatchObject([{ xdp: expect.anything() }]);
    expect(await host.do('readOf')).not.toBeNull();
    await killed.kill();
    await expect.poll(() => host.do('readOf'), { timeout: 20_000 }).toBeNull();
    await expect
      .poll(() => host.ip<object>('link', 'show', 'nv-guest')[0], { timeout: 20_000 })
      .not.toHaveProperty('xdp');
    // The next daemon finds the card free.
    await host.do('daemon', cacheDir);
    await host.do('card', 'one', 'nv-guest');
    expect(await host.do('told')).toEqual([]);
  });

  it('`net latency` reads the daemon’s measurements, without programs of its own', async () => {
    await host.do('daemon', cacheDir);
    await host.do('card', 'one', 'nv-guest');
    await echoes(0, 5);
    const other = host.beside();
    try {
      await other.do('beginMeasure', cacheDir);
      await echoes(5, 3);
      expect(await other.do<LatencyReport>('endMeasure')).toMatchObject({
        interface: 'nv-guest',
        ingress: 'other process',
        framesOut: 3,
        framesIn: 3,
        paths: { peer: { started: 3, answered: 3 }, guest: { started: 0 } },
      });
    } finally {
      await other.kill();
    }
  });
});
