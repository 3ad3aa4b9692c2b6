import { describe, expect, it } from 'vitest';
import { MEMORY_REGIONS_MAX } from './limits.ts';
import {
  FEATURES,
  PROTOCOL_FEATURES,
  REQUEST,
  type RegionRequest,
  VhostUserSession,
  type VhostUserTarget,
} from './vhost-user.ts';

const NO_EVENT_FD = 99;

function setUp() {
  const log: unknown[][] = [];
  const closed: number[] = [];
  const target: VhostUserTarget = {
    setMemory(regions: readonly RegionRequest[]) {
      log.push(['memory', regions]);
      return undefined;
    },
    startRing(...values) {
      log.push(['start', ...values]);
      return undefined;
    },
    stopRing(index) {
      log.push(['stop', index]);
      return 77;
    },
    enableRing: (...values) => void log.push(['enable', ...values]),
    setCall: (...values) => void log.push(['call', ...values]),
    isEventFd: (fd) => fd !== NO_EVENT_FD,
    discard: (fds) => void closed.push(...fds),
    reset: () => void log.push(['reset']),
    closeFd: (fd) => void closed.push(fd),
  };
  const session = new VhostUserSession(target, 42);
  const say = (request: number, payload: number[] | Uint8Array = [], fds: number[] = [], flags = 1) => {
    const body = payload instanceof Uint8Array ? payload : new Uint8Array(new Uint32Array(payload).buffer);
    const header = new Uint8Array(new Uint32Array([request, flags, body.length]).buffer);
    const first = session.receive(header, fds);
    return body.length === 0 || !first.ok ? first : session.receive(body, []);
  };
  const u64 = (...values: bigint[]): Uint8Array => new Uint8Array(new BigUint64Array(values).buffer);
  return { session, log, closed, say, u64 };
}

const reply = (outcome: { ok: boolean; reply?: Uint8Array | undefined }): Buffer => {
  expect(outcome.ok).toBe(true);
  return Buffer.from(outcome.reply ?? []);
};

/** The messages of QEMU 7.2, in its order, up to a running device. */
function qemuStart({ say, u64 }: ReturnType<typeof setUp>): void {
  say(REQUEST.getFeatures);
  say(REQUEST.getProtocolFeatures);
  say(REQUEST.setProtocolFeatures, u64(PROTOCOL_FEATURES));
  say(REQUEST.setOwner);
  say(REQUEST.getFeatures);
  for (const index of [0, 1]) say(REQUEST.setVringCall, [index, 0], [20 + index]);
  say(REQUEST.getConfig, [0, 8, 0, 0, 0]);
  say(REQUEST.setFeatures, u64(FEATURES));
  say(REQUEST.setMemTable, u64(1n, 0n, 0x1000_0000n, 0x7f00_0000_0000n, 0n), [30]);
  for (const index of [0, 1]) {
    say(REQUEST.setVringNum, [index, 128]);
    say(REQUEST.setVringBase, [index, 0]);
    say(REQUEST.setVringAddr, u64(BigInt(index), 0x7f00_0000_0000n, 0x7f00_0000_2000n, 0x7f00_0000_1000n, 0n));
    say(REQUEST.setVringKick, [index, 0], [40 + index]);
  }
  for (const index of [0, 1]) say(REQUEST.setVringEnable, [index, 1]);
}

describe('VhostUserSession', () => {
  it('handles QEMU’s messages up to a running device', () => {
    const all = setUp();
    qemuStart(all);
    expect(all.log.map(([what]) => what)).toEqual([
      'reset',
      'call',
      'call',
      'memory',
      'start',
      'start',
      'enable',
      'enable',
    ]);
    expect(all.log[4]).toEqual([
      'start',
      0,
      { size: 128, descriptors: 0x7f00_0000_0000, used: 0x7f00_0000_2000, available: 0x7f00_0000_1000 },
      0,
      true,
      40,
    ]);
    // The mapping outlives its descriptor.
    expect(all.closed).toEqual([30]);
  });

  it('answers with the features it offers', () => {
    const { say } = setUp();
    expect(reply(say(REQUEST.getFeatures)).readBigUInt64LE(12)).toBe(FEATURES);
    expect(reply(say(REQUEST.getProtocolFeatures)).readBigUInt64LE(12)).toBe(PROTOCOL_FEATURES);
    expect(reply(say(REQUEST.getQueueNum)).readBigUInt64LE(12)).toBe(2n);
  });

  it('returns the CID as configuration space, and zeros behind it', () => {
    const { say } = setUp();
    const answer = reply(say(REQUEST.getConfig, [0, 16, 0, 9, 9, 9, 9]));
    expect(answer.readUInt32LE(4)).toBe(5);
    expect(answer.subarray(12).toString('hex')).toBe(`${'000000001000000000000000'}2a${'00'.repeat(15)}`);
    expect(say(REQUEST.getConfig, [250, 16, 0]).ok).toBe(false);
    expect(setUp().say(REQUEST.getConfig, [0xffffffff, 8, 0]).ok).toBe(false);
  });

  it('GET_VRING_BASE stops a ring; the same base continues, another means a new guest', () => {
    const all = setUp();
    qemuStart(all);
    all.log.length = 0;
    expect(reply(all.say(REQUEST.getVringBase, [1, 0])).readUInt32LE(16)).toBe(77);
    all.say(REQUEST.setVringBase, [1, 77]);
    expect(all.log).toEqual([['stop', 1]]);
    all.say(REQUEST.setVringBase, [1, 0]);
    expect(all.log).toEqual([['stop', 1], ['reset']]);
  });

  it('SET_OWNER: a device that is plugged again starts from scratch', () => {
    const all = setUp();
    qemuStart(all);
    all.log.length = 0;
    all.say(REQUEST.setOwner);
    expect(all.log).toEqual([['stop', 0], ['stop', 1], ['reset']]);
    expect(all.say(REQUEST.setVringKick, [0, 0], [50]).ok).toBe(false);
    expect(all.closed).toContain(50);
  });

  it('enables rings by itself for a front end without protocol features', () => {
    const { say, log, u64 } = setUp();
    say(REQUEST.setFeatures, u64(1n << 32n));
    expect(log).toEqual([
      ['enable', 0, true],
      ['enable', 1, true],
    ]);
  });

  it('acknowledges on request', () => {
    const { say, u64 } = setUp();
    expect(say(REQUEST.setOwner, [], [], 9)).toEqual({ ok: true, reply: undefined });
    say(REQUEST.setProtocolFeatures, u64(PROTOCOL_FEATURES));
    expect(reply(say(REQUEST.setOwner, [], [], 9)).readBigUInt64LE(12)).toBe(0n);
  });

  const region = (guest: bigint, size: bigint, user = 0n, offset = 0n) => [guest, size, user, offset];
  it.each<[string, number, bigint[], number]>([
    ['no region', REQUEST.setMemTable, [0n], 0],
    ['more regions than the limit', REQUEST.setMemTable, [BigInt(MEMORY_REGIONS_MAX + 1)], 1],
    ['a table shorter than its count', REQUEST.setMemTable, [2n, ...region(0n, 4096n)], 2],
    ['a region without descriptor', REQUEST.setMemTable, [1n, ...region(0n, 4096n)], 0],
    ['a descriptor too many', REQUEST.setMemTable, [1n, ...region(0n, 4096n)], 2],
    ['an empty region', REQUEST.setMemTable, [1n, ...region(0n, 0n)], 1],
    ['a region beyond 2⁵³', REQUEST.setMemTable, [1n, ...region(2n ** 60n, 4096n)], 1],
    ['a region that wraps round', REQUEST.setMemTable, [1n, ...region(2n ** 64n - 1n, 4096n)], 1],
    ['more memory than the limit', REQUEST.setMemTable, [1n, ...region(0n, 2n ** 41n)], 1],
    ['overlapping regions', REQUEST.setMemTable, [2n, ...region(0n, 8192n), ...region(4096n, 8192n)], 2],
    ['features that were not offered', REQUEST.setFeatures, [1n << 28n], 0],
    ['ring 2', REQUEST.setVringNum, [2n], 0],
    ['a kick for polling', REQUEST.setVringKick, [0x100n], 0],
    ['a kick without descriptor', REQUEST.setVringKick, [0n], 0],
    ['an unknown request', 99, [], 0],
    ['a descriptor with a request that takes none', REQUEST.getFeatures, [], 1],
  ])('ends at %s and closes the descriptors that came with it', (_name, request, words, fdCount) => {
    const { say, u64, closed } = setUp();
    const fds = Array.from({ length: fdCount }, (_, index) => 60 + index);
    expect(say(request, u64(...words), fds).ok).toBe(false);
    expect(closed.toSorted()).toEqual(fds);
  });

  it.each(['setVringKick', 'setVringCall', 'setVringErr'] as const)(
    '%s: ends at a descriptor that is no eventfd',
    (name) => {
      const all = setUp();
      qemuStart(all);
      all.log.length = 0;
      const outcome = all.say(REQUEST[name], [1, 0], [NO_EVENT_FD]);
      expect(outcome).toMatchObject({ problem: expect.stringMatching(/ring 1 that is no eventfd/) });
      expect(all.closed).toContain(NO_EVENT_FD);
      expect(all.log).toEqual([]);
    },
  );

  it('ends at a message that is too long, before its body comes', () => {
    const { say } = setUp();
    expect(say(REQUEST.setMemTable, new Uint8Array(100_000)).ok).toBe(false);
  });

  it('ends at a payload that is too short', () => {
    for (const request of Object.values(REQUEST)) {
      const { say } = setUp();
      const hasPayload = !['getFeatures', 'getProtocolFeatures', 'getQueueNum', 'setOwner', 'resetOwner']
        .map((name) => REQUEST[name as keyof typeof REQUEST])
        .includes(request as never);
      if (hasPayload) expect(say(request, [0]).ok).toBe(false);
    }
  });
});
