/** Latency of a guest's packets, as the kernel measures it, in a namespace of the test. */
import { execFileSync } from 'node:child_process';
import { appendFileSync, cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sleep, systemClock } from '../../src/base/clock.ts';
import { bucketOf, quantileNs, since } from '../../src/machine/observe/histogram.ts';
import type { Path, TapLatency } from '../../src/machine/observe/latency.ts';
import { cut, echo, FLAGS, fragment, GUEST, HOST, PEER, type Segment, tcp, udp } from '../support/latency-frames.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';

const FIXTURE = join(import.meta.dirname, '../fixtures/observe-latency.ts');
const BPF = join(import.meta.dirname, '../../bpf');
const DELAY_MS = 20;

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

/** A host whose PATH is empty, so that no command is found. */
const settings = (more: object) => ({ dir, compiler: '/usr/bin/clang', ...more });
const open = (more: object = {}) => host.do('open', settings(more));
const read = () => host.do<TapLatency>('read');
const watchAll = async (more: object = {}) => {
  await open(more);
  expect(await host.do('watch')).toBe('xdp-native');
  await host.do('watchUplink');
  await host.do('peerIsKnown');
};
const out = { from: GUEST, to: PEER };
const back = { from: PEER, to: GUEST };
const fromGuest = async (...frames: string[]) => {
  await host.do('send', 'guest', ...frames);
  for (const _ of frames) await host.do('receive', 'uplink');
};
const fromPeer = async (...frames: string[]) => {
  await host.do('send', 'uplink', ...frames);
  for (const _ of frames) await host.do('receive', 'guest');
};

describe('LatencyProbes', () => {
  it('counts every frame of a TAP, and times every answer', async () => {
    await watchAll();
    for (let number = 0; number < 25; number += 1) {
      await host.do('send', 'guest', echo({ from: GUEST, to: HOST }, number));
      await host.do('receive', 'guest');
    }
    const seen = await read();
    expect(seen).toMatchObject({
      framesOut: 25,
      framesIn: 25,
      unreadable: 0,
      paths: {
        peer: { started: 25, answered: 25, repeated: 0, failed: 0, unanswered: 0 },
        guest: { started: 0 },
        forward: { started: 25, answered: 0, unanswered: 25 },
      },
    });
    expect(seen.paths.peer.buckets.reduce((sum, count) => sum + count)).toBe(25);
    expect(await host.do('readOf')).toEqual(seen);
  });

  it('TCP: the segment that acknowledges the last byte is the answer, each way', async () => {
    await watchAll();
    const guest = (segment: Segment) => fromGuest(tcp(out, segment));
    const ports = [9999, 40_000] as const;
    const peer = (segment: Segment) => fromPeer(tcp(back, { ports, ...segment }));
    await guest({ sequence: 0xffff_fff0, flags: FLAGS.syn });
    await peer({ sequence: 5000, acknowledge: 0xffff_fff1, flags: FLAGS.syn });
    // Sequence numbers wrap around; 5001 acknowledges the SYN.
    await guest({ sequence: 0xffff_fff1, acknowledge: 5001, bytes: 100 });
    await peer({ sequence: 5001, acknowledge: 85 });
    // Two segments with one acknowledgment.
    await guest({ sequence: 85, acknowledge: 5001, bytes: 10 });
    await guest({ sequence: 95, acknowledge: 5001, bytes: 10, flags: FLAGS.fin });
    await peer({ sequence: 5001, acknowledge: 106 });
    // A repeated acknowledgment, which matches no pending segment.
    await peer({ sequence: 5001, acknowledge: 106 });
    expect((await read()).paths).toMatchObject({
      peer: { started: 4, answered: 3, unanswered: 1 },
      guest: { started: 1, answered: 1 },
      forward: { started: 4, answered: 4 },
    });
  });

  it('does not time retransmissions, resets, later fragments and partial headers', async () => {
    await watchAll();
    const segment = tcp(out, { sequence: 100, acknowledge: 1, bytes: 50 });
    await fromGuest(segment, segment, segment);
    await fromPeer(tcp(back, { ports: [9999, 40_000], sequence: 1, acknowledge: 150 }));
    await fromGuest(tcp(out, { sequence: 1, flags: FLAGS.rst, bytes: 5 }), fragment(out), udp(out, 7));
    await host.do('send', 'guest', cut(segment, 14 + 20 + 12), cut(segment, 14 + 10), 'ff'.repeat(20));
    expect(await read()).toMatchObject({
      framesOut: 9,
      unreadable: 2,
      paths: {
        peer: { started: 1, answered: 0, repeated: 1, unanswered: 0 },
        // The first two left before they came again; UDP has a way, too.
        forward: { started: 4, answered: 4 },
      },
    });
  });

  /** @returns an upper bound of the duration in ms, measured outside */
  const pass = async (path: Path, number: number, delayMs: number): Promise<number> => {
    const begun = systemClock.now();
    if (path === 'guest') {
      await fromPeer(echo(back, number));
      await sleep(delayMs);
      await fromGuest(echo(out, number, 'reply'));
    } else {
      await fromGuest(echo(out, number));
      await sleep(delayMs);
      await fromPeer(echo(back, number, 'reply'));
    }
    return systemClock.now() - begun;
  };

  it.each(['guest', 'peer'] as const)('a delay of 20 ms moves p50 of %s by as much', async (path) => {
    await watchAll();
    for (let number = 0; number < 9; number += 1) await pass(path, number, 0);
    const before = (await read()).paths[path];
    expect(before.answered).toBe(9);
    const took: number[] = [];
    for (let number = 100; number < 109; number += 1) took.push(await pass(path, number, DELAY_MS));
    const delayed = since((await read()).paths[path], before);
    expect(quantileNs(delayed, 0.5) ?? 0).toBeGreaterThanOrEqual(2 ** bucketOf(DELAY_MS * 1e6));
    expect(bucketOf(quantileNs(delayed, 0.5) ?? 0)).toBeLessThanOrEqual(bucketOf(Math.max(...took) * 1e6));
  });

  it('a host that holds packets for 20 ms moves p50 of forward, and only that', async () => {
    await open();
    await host.do('watch');
    await host.do('watchUplink');
    const begun = systemClock.now();
    const frames = Array.from({ length: 9 }, (_, number) => echo(out, number));
    await host.do('send', 'guest', ...frames);
    // The packets wait for the peer's MAC address.
    await sleep(DELAY_MS);
    expect((await read()).paths.forward).toMatchObject({ started: 9, answered: 0 });
    await host.do('peerIsKnown');
    for (const _ of frames) await host.do('receive', 'uplink');
    const tookNs = (systemClock.now() - begun) * 1e6;
    const { forward, peer } = (await read()).paths;
    expect(forward.answered).toBe(9);
    expect(peer.answered).toBe(0);
    const p50 = quantileNs(forward, 0.5) ?? 0;
    expect(p50).toBeGreaterThanOrEqual(2 ** bucketOf(DELAY_MS * 1e6));
    expect(bucketOf(p50)).toBeLessThanOrEqual(bucketOf(tookNs));
  });

  it('shares a TAP with the metadata drop, and sees the packets that pass it', async () => {
    await host.do('guard');
    await open();
    expect(await host.do('watch')).toBe('tcx');
    await host.do(
      'send',
      'guest',
      ...Array.from({ length: 7 }, (_, number) => echo({ from: GUEST, to: '169.254.169.254' }, number)),
    );
    await host.do('send', 'guest', echo({ from: GUEST, to: HOST }, 1));
    await host.do('receive', 'guest');
    expect(await host.do('drops')).toEqual({ metadata: 7, unreadable: 0 });
    expect(await read()).toMatchObject({ framesOut: 1, framesIn: 1, paths: { peer: { started: 1, answered: 1 } } });
  });

  it('bounds an unanswered flood: drops the oldest, and counts them', async () => {
    await watchAll({ pendingMax: 256, notedMax: 0 });
    // The kernel keeps a list per processor, so packets that came by another one may outlive the flood
    // (bpf_lru_list.c).
    const [, processor = ''] = /^Cpus_allowed_list:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
    execFileSync('taskset', ['-a', '-c', '-p', processor, String(host.pid)]);
    const flood = Array.from({ length: 2000 }, (_, number) => echo(out, number));
    await host.do('send', 'guest', ...flood);
    await fromPeer(echo(back, 0, 'reply'), echo(back, 1999, 'reply'));
    const { peer } = (await read()).paths;
    expect(peer).toMatchObject({ answered: 1, failed: 0, repeated: 0 });
    expect(peer.started).toBe(2000);
    expect(peer.unanswered).toBe(1999);
  });

  it('a flood of one guest does not evict the packets of another', async () => {
    await open({ pendingMax: 4096, notedMax: 8 });
    await host.do('watch');
    await host.do('watchOther', 'uplink');
    // The peer plays a second guest: it asks, then the flood comes, then it is answered.
    await fromPeer(echo(back, 1));
    const frames = 8000;
    for (let number = 2; number < frames; number += 1000)
      await host.do('send', 'guest', ...Array.from({ length: 1000 }, (_, at) => echo(out, number + at)));
    await host.do('peerIsKnown');
    await host.do('send', 'guest', echo(out, 1, 'reply'));
    await expect.poll(async () => (await host.do<TapLatency>('readOther', 'uplink')).paths.peer.answered).toBe(1);
    const { peer } = (await read()).paths;
    expect(peer.started + peer.skipped).toBe(frames);
    expect(peer.skipped).toBeGreaterThan(frames / 2);
    expect(peer).toMatchObject({ answered: 0, failed: 0, repeated: 0 });
  });

  it('lets every packet of a guest pass, and counts it', async () => {
    const valid = [echo(out, 1), udp(out, 2), fragment(out), tcp(out, { sequence: 5, acknowledge: 9, bytes: 40 })].map(
      (hex) => Buffer.from(hex, 'hex'),
    );
    const damaged = fc
      .record({ which: fc.nat(valid.length - 1), at: fc.nat(60), byte: fc.nat(255), bytes: fc.nat(90) })
      .map(({ which, at, byte, bytes }) => {
        const frame = Buffer.from(valid[which] ?? []);
        if (at < frame.length) frame[at] = byte;
        return frame.subarray(0, Math.max(14, bytes));
      });
    const any = fc.oneof(damaged, fc.uint8Array({ minLength: 14, maxLength: 1500 }));
    const frames = fc.sample(any, 3000);
    const hex = frames.map((frame) => Buffer.from(frame).toString('hex'));
    const seen = await host.do<TapLatency & { verdicts: number[] }>('verdicts', settings({}), hex);
    expect(seen).toMatchObject({ ingress: 'xdp-generic', verdicts: [2], framesOut: 3000 });
    expect(seen.unreadable).toBeGreaterThan(100);
    // Most packets are repeats.
    expect(seen.paths.peer.started).toBeGreaterThan(10);
  });

  it('the end of its process removes all programs', async () => {
    await host.do('fds');
    const observer = host.beside();
    await observer.do('open', settings({}));
    expect(await observer.do('watch')).toBe('xdp-native');
    await observer.do('watchUplink');
    expect(await host.do('readOf')).not.toBeNull();
    expect(host.ip('link', 'show', 'nv-guest')).toMatchObject([{ xdp: expect.anything() }]);
    await observer.kill();
    await expect.poll(() => host.do('readOf')).toBeNull();
    expect(host.ip<object>('link', 'show', 'nv-guest')[0]).not.toHaveProperty('xdp');
    await open();
    expect(await host.do('watch')).toBe('xdp-native');
  });

  it('unwatch: stops counting and keeps the counts; close: leaves no descriptor', async () => {
    await open();
    await host.do('close');
    const before = await host.do('fds');
    await open();
    await host.do('watch');
    await host.do('watchUplink');
    await host.do('send', 'guest', echo({ from: GUEST, to: HOST }, 1));
    await host.do('receive', 'guest');
    await host.do('unwatch');
    await host.do('unwatch');
    await host.do('send', 'guest', echo({ from: GUEST, to: HOST }, 2));
    await host.do('receive', 'guest');
    expect(await read()).toMatchObject({ framesOut: 1, framesIn: 1 });
    expect(await host.do('readOf')).toBeNull();
    await host.do('close');
    expect(await host.do('fds')).toBe(before);
  });

  it('keeps the counts when its TAP is removed', async () => {
    await watchAll();
    await host.do('send', 'guest', echo({ from: GUEST, to: HOST }, 1));
    await host.do('receive', 'guest');
    await host.do('remove');
    expect(await read()).toMatchObject({ framesOut: 1, framesIn: 1 });
    await host.do('unwatch');
    expect(await read()).toMatchObject({ framesOut: 1, framesIn: 1 });
  });

  describe('a kernel without TCX (before 6.6)', () => {
    const filters = () => ['ingress', 'egress'].map((way) => host.run('tc', 'filter', 'show', 'dev', 'nv-guest', way));
    const withClsact = () => host.run('tc', 'qdisc', 'show', 'dev', 'nv-guest').includes('clsact');

    it('measures by clsact filters, removes them, and leaves uplinks alone', async () => {
      await open({ withoutTcx: true });
      expect(await host.do('watch')).toBe('xdp-native');
      expect(await host.do('watchUplink')).toBe(false);
      expect(filters()).toEqual(['', expect.stringContaining('nv_in')]);
      for (let number = 0; number < 5; number += 1) {
        await host.do('send', 'guest', echo({ from: GUEST, to: HOST }, number));
        await host.do('receive', 'guest');
      }
      const peer = { started: 5, answered: 5 };
      const seen = { framesOut: 5, framesIn: 5, paths: { peer, forward: { started: 0 } } };
      expect(await read()).toMatchObject(seen);
      expect(await host.refusal('watchOther', 'none')).toMatchObject({ code: 'no_link' });
      await host.do('unwatch');
      expect(withClsact()).toBe(false);
      await host.do('watch');
      expect(withClsact()).toBe(true);
      await host.do('remove');
      await host.do('unwatch');
    });

    it('works beside the metadata drop, and leaves a foreign clsact in place', async () => {
      // The TAP exists.
      await host.do('fds');
      host.run('tc', 'qdisc', 'add', 'dev', 'nv-guest', 'clsact');
      await host.do('guard');
      await open({ withoutTcx: true });
      expect(await host.do('watch')).toBe('clsact');
      await host.do('send', 'guest', echo({ from: GUEST, to: '169.254.169.254' }, 1));
      await host.do('send', 'guest', echo({ from: GUEST, to: HOST }, 2));
      await host.do('receive', 'guest');
      expect(await host.do('drops')).toEqual({ metadata: 1, unreadable: 0 });
      expect(await read()).toMatchObject({ framesOut: 1, paths: { peer: { answered: 1 } } });
      await host.do('unwatch');
      expect(filters()).toEqual(['', '']);
      // A foreign clsact, which the probes did not create.
      expect(withClsact()).toBe(true);
    });
  });

  it('taken, full, no_link: refuses what it cannot watch, and leaves nothing behind', async () => {
    await open({ tapsMax: 2 });
    await host.do('watch');
    const before = await host.do('fds');
    expect(await host.refusal('watch')).toMatchObject({ code: 'taken' });
    expect(await host.refusal('watchOther', 'none')).toMatchObject({ code: 'no_link' });
    await host.do('watchOther', 'uplink');
    expect(await host.refusal('watchOther', 'lo')).toMatchObject({ code: 'full' });
    expect(await host.do('fds')).toBe((before as number) + 2);
    await host.do('unwatch');
    await host.do('guard');
    expect(await host.refusal('watch', 'xdp-generic')).toMatchObject({ code: 'taken' });
  });

  it('no_compiler only without a cached object; no_library; not_permitted without CAP_BPF', async () => {
    const compiler = '/nowhere/clang';
    const sourceDir = join(dir, 'bpf');
    cpSync(BPF, sourceDir, { recursive: true });
    appendFileSync(join(sourceDir, 'log2.h'), '\n');
    const empty = join(dir, 'empty');
    expect(await host.refusal('open', { dir: empty, compiler, sourceDir })).toMatchObject({
      code: 'no_compiler',
      remedy: expect.stringContaining('apt-get install clang'),
    });
    await open({ sourceDir });
    await host.do('close');
    // The object is cached now.
    await open({ compiler, sourceDir });
    await using stack = new AsyncDisposableStack();
    const start = (prefix: readonly string[]) =>
      stack.adopt(new NamespacedProcess(prefix, FIXTURE), (each) => each.kill());
    const hidden = 'for each in /usr/lib/*/libbpf.so.1; do mount --bind /dev/null $each; done';
    const bare = start(['unshare', '-n', '-m', 'sh', '-c', `${hidden}; exec "$@"`, 'sh']);
    expect(await bare.refusal('open', settings({}))).toMatchObject({
      code: 'no_library',
      remedy: expect.stringContaining('libbpf1'),
    });
    const weak = ['unshare', '-n', 'setpriv', '--bounding-set=-bpf,-sys_admin'];
    expect(await start(weak).refusal('open', settings({}))).toMatchObject({
      code: 'not_permitted',
      remedy: expect.stringContaining('CAP_BPF'),
    });
  });
});
