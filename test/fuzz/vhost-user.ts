/**
 * A hostile VMM: any messages, any descriptors, cut anywhere. No exception, every descriptor closed or
 * handed on exactly once, and the same answers as when it comes whole.
 */
import fc from 'fast-check';
import { MEMORY_REGIONS_MAX } from '../../src/machine/vsock/limits.ts';
import {
  MESSAGE_HEADER_BYTES,
  REQUEST,
  VhostUserSession,
  type VhostUserTarget,
} from '../../src/machine/vsock/vhost-user.ts';
import { must, structured } from './target.ts';

const u32 = fc.oneof(fc.nat({ max: 3 }), fc.nat({ max: 0x200 }), fc.nat({ max: 0xffffffff }));
const u64 = fc.oneof(
  fc.nat({ max: 0x100000 }).map(BigInt),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(1n << 30n, (1n << 32n) | (1n << 30n)),
);
const words = (count: number) => fc.array(u32, { minLength: count, maxLength: count });
const payload = fc.oneof(
  words(2).map((values) => new Uint8Array(new Uint32Array(values).buffer)),
  fc
    .array(u64, { minLength: 1, maxLength: 1 + 4 * 3 })
    .map((values) => new Uint8Array(new BigUint64Array(values).buffer)),
  fc
    .record({ count: fc.nat({ max: 4 }), fields: fc.array(u64, { minLength: 0, maxLength: 16 }) })
    .map(({ count, fields }) => new Uint8Array(new BigUint64Array([BigInt(count), ...fields]).buffer)),
  fc.uint8Array({ maxLength: 64 }),
);
const message = fc.record({
  request: fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom(...Object.values(REQUEST)) },
    { weight: 1, arbitrary: u32 },
  ),
  flags: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(1, 9) }, { weight: 1, arbitrary: u32 }),
  payload,
  fds: fc.oneof(
    { weight: 9, arbitrary: fc.nat({ max: 3 }) },
    { weight: 1, arbitrary: fc.nat({ max: MEMORY_REGIONS_MAX + 5 }) },
  ),
  claim: fc.option(u32, { freq: 20 }),
});

export const vhostUser = structured(
  'vhost-user',
  fc.record({
    messages: fc.array(message, { minLength: 1, maxLength: 12 }),
    cuts: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 8 }),
  }),
  ({ messages, cuts }) => {
    const whole = play(messages, [Number.POSITIVE_INFINITY]);
    const cut = play(messages, cuts);
    must(whole === cut, `cut matters:\n${whole}\n${cut}`);
  },
);

function play(messages: readonly Message[], cuts: readonly number[]): string {
  const log: string[] = [];
  const open = new Set<number>();
  let lastFd = 100;
  const session = new VhostUserSession(recorder(log, open), 42);
  let turn = 0;
  for (const each of messages) {
    const bytes = encode(each);
    const fds = Array.from({ length: each.fds }, () => {
      lastFd += 1;
      open.add(lastFd);
      return lastFd;
    });
    let carried = fds;
    for (let at = 0; at < bytes.length; ) {
      const size = Math.min(session.wantedBytes, cuts[turn % cuts.length] ?? 1, bytes.length - at);
      turn += 1;
      must(size > 0, 'asks for nothing');
      const outcome = session.receive(bytes.subarray(at, at + size), carried);
      carried = [];
      at += size;
      if (!outcome.ok) {
        log.push(`problem ${outcome.problem}`);
        session.close();
        must(open.size === 0, `descriptors left open: ${[...open]}`);
        return log.join('\n');
      }
      if (outcome.reply !== undefined) log.push(`reply ${Buffer.from(outcome.reply).toString('hex')}`);
    }
  }
  session.close();
  must(open.size === 0, `descriptors left open: ${[...open]}`);
  return log.join('\n');
}

interface Message {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: number;
  readonly claim: number | null;
}

function encode(each: Message): Uint8Array {
  const bytes = new Uint8Array(MESSAGE_HEADER_BYTES + each.payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, each.request, true);
  view.setUint32(4, each.flags, true);
  view.setUint32(8, each.claim ?? each.payload.length, true);
  bytes.set(each.payload, MESSAGE_HEADER_BYTES);
  return bytes;
}

/** Takes what a device takes; a descriptor that is taken or closed twice is an error. */
function recorder(log: string[], open: Set<number>): VhostUserTarget {
  const take = (fd: number): void => {
    if (fd >= 0) must(open.delete(fd), `descriptor ${fd} given away twice`);
  };
  return {
    setMemory(regions) {
      for (const { fd } of regions) must(open.has(fd), 'memory of a closed descriptor');
      log.push(`memory ${JSON.stringify(regions)}`);
      return regions.length > 3 ? 'too much' : undefined;
    },
    startRing(index, ring, base, usesEventIndex, kickFd) {
      take(kickFd);
      log.push(`start ${index} ${JSON.stringify(ring)} ${base} ${usesEventIndex}`);
      return ring.size === 0 ? 'size' : undefined;
    },
    stopRing(index) {
      log.push(`stop ${index}`);
      return 17;
    },
    enableRing: (index, isEnabled) => void log.push(`enable ${index} ${isEnabled}`),
    setCall(index, fd) {
      take(fd);
      log.push(`call ${index} ${fd >= 0}`);
    },
    reset: () => void log.push('reset'),
    isEventFd: (fd) => fd % 7 !== 0,
    closeFd: take,
    discard: (fds) => fds.forEach(take),
  };
}
