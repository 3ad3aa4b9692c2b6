/** Events of our programs in the kernel, whose names hostile processes choose. */
import { EVENT, EVENT_BYTES, readEvent } from '../../src/machine/observe/events.ts';
import { must, target } from './target.ts';

const event = (kind: number): Buffer => {
  const bytes = Buffer.alloc(EVENT_BYTES);
  bytes.writeUInt32LE(kind, EVENT.kind);
  bytes.write('python3', EVENT.comm);
  return bytes;
};

export const bpfEvents = target(
  'bpf-events',
  (bytes) => {
    const read = readEvent(bytes);
    const kind = bytes.length < EVENT_BYTES ? 0 : bytes.readUInt32LE(EVENT.kind);
    must((read !== undefined) === (kind >= 1 && kind <= 5), `kind ${kind}`);
    if (read === undefined) return;
    must(/^[ -~]{0,16}$/.test(read.comm), 'an unprintable name');
    if (read.kind === 'exit') must((read.exitCode === null) !== (read.signal === null), 'ended in two ways');
    for (const value of Object.values(read))
      if (typeof value === 'number') must(Number.isInteger(value), `${value} is not whole`);
  },
  { maxBytes: 2 * EVENT_BYTES, seeds: [1, 2, 3, 4, 5].map(event) },
);
