/** The first line of a connection through Firecracker's sockets, cut anywhere: the same answer, and exactly the line. */
import { LINE_BYTES_MAX, lineLength } from '../../src/machine/vmm/firecracker/channel/relay-line.ts';
import { must, target } from './target.ts';

export const firecrackerLine = target(
  'firecracker-line',
  (bytes) => {
    const end = bytes.indexOf(10) + 1;
    const isLine = end > 0 && end <= LINE_BYTES_MAX;
    let decided: number | null | undefined;
    for (let count = 0; count <= bytes.length; count += 1) {
      // The relay looks at no more.
      const found = lineLength(bytes.subarray(0, Math.min(count, LINE_BYTES_MAX)));
      must(decided === undefined || found === decided, `changed at ${count} bytes`);
      decided = found;
    }
    if (isLine) must(decided === end, `took ${decided} bytes instead of ${end}`);
    else must(decided === (bytes.length < LINE_BYTES_MAX ? undefined : null), 'took another line');
  },
  { maxBytes: 200, seeds: ['CONNECT 5000\n{"v":1}', 'OK 1073741824\n', 'x'.repeat(64)] },
);
