import { describe, expect, it } from 'vitest';
import { silentLog } from '../../base/log.ts';
import { sumTimes } from '../../machine/observe/latency.ts';
import type { TapProbe } from '../../machine/observe/probes.ts';
import { PacketLatency, type Probes } from './packet-latency.ts';

/** Programs that attach only when the test lets them. */
class SlowProbes implements Probes {
  readonly waiting: (() => void)[] = [];
  attached = 0;
  isClosed = false;

  async watchCard(): Promise<TapProbe> {
    await new Promise<void>((resolve) => this.waiting.push(resolve));
    this.attached += 1;
    const none = sumTimes([]);
    const paths = { guest: none, peer: { ...none, answered: 7 }, forward: none };
    const counts = { framesOut: 0, framesIn: 0, unreadable: 0, mayBeIncomplete: false };
    return {
      linkIndex: 1,
      ingress: 'tcx',
      read: () => ({ ...counts, paths }),
      [Symbol.dispose]: () => {
        this.attached -= 1;
      },
    };
  }
  async watchUplink(): Promise<void> {}
  [Symbol.dispose](): void {
    this.isClosed = true;
  }
}

function begun(probes: SlowProbes): PacketLatency {
  return new PacketLatency({ open: async () => probes, log: silentLog });
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('PacketLatency', () => {
  it('watch: a card that is released while its probe attaches leaves no probe', async () => {
    const probes = new SlowProbes();
    const packets = begun(probes);
    const stop = packets.watch('one', 'nv-one');
    await turn();
    stop();
    for (const go of probes.waiting) go();
    await packets.settled();
    expect([probes.attached, packets.of('one')]).toEqual([0, undefined]);
    await packets.close();
  });

  it('watch: a card that returns from a loan attaches after its previous probe is gone', async () => {
    const probes = new SlowProbes();
    const packets = begun(probes);
    packets.watch('one', 'nv-one')();
    const stop = packets.watch('one', 'nv-one');
    await turn();
    stop();
    packets.watch('one', 'nv-one');
    await turn();
    // The second card waits for its own probe; the third has not started, and no card waits for another.
    expect(probes.waiting).toHaveLength(1);
    packets.watch('two', 'nv-two');
    await turn();
    expect(probes.waiting).toHaveLength(2);
    for (const go of probes.waiting.splice(0)) go();
    await turn();
    expect([probes.attached, probes.waiting.length]).toEqual([1, 1]);
    for (const go of probes.waiting) go();
    await packets.settled();
    expect(probes.attached).toBe(2);
    expect(packets.of('one')?.paths.peer.answered).toBe(7);
    await packets.close();
  });

  it('close: waits for pending probes and removes them first', async () => {
    const probes = new SlowProbes();
    const packets = begun(probes);
    packets.watch('one', 'nv-one');
    await turn();
    const closing = packets.close();
    await turn();
    expect(probes.isClosed).toBe(false);
    for (const go of probes.waiting) go();
    await closing;
    expect([probes.attached, probes.isClosed]).toEqual([0, true]);
    await packets.close();
  });

  it('close: while the programs are loading, leaves no probe', async () => {
    const probes = new SlowProbes();
    const opened = Promise.withResolvers<Probes>();
    const packets = new PacketLatency({ open: () => opened.promise, log: silentLog });
    packets.watch('one', 'nv-one');
    const closing = packets.close();
    opened.resolve(probes);
    await closing;
    expect([probes.attached, probes.isClosed, packets.isOpen]).toEqual([0, true, false]);
  });
});
