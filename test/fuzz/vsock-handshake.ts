/** A client's first bytes, cut anywhere: the same answer, no byte beyond the line touched. */
import fc from 'fast-check';
import { parseConnectLine } from '../../src/machine/vsock/handshake.ts';
import { CONNECT_LINE_BYTES_MAX } from '../../src/machine/vsock/limits.ts';
import { must, structured } from './target.ts';

const text = (value: string): Uint8Array => new Uint8Array(Buffer.from(value, 'latin1'));
const lines = fc.oneof(
  fc.nat({ max: 0xffffffff }).map((port) => text(`CONNECT ${port}\n`)),
  fc.string({ maxLength: 80 }).map((rest) => text(`CONNECT ${rest}\n`)),
  fc.uint8Array({ maxLength: 100 }),
  fc.constantFrom('CONNECT 1\r\n', 'connect 1\n', 'CONNECT  1\n', 'CONNECT 01\n', '\n').map(text),
);

export const vsockHandshake = structured(
  'vsock-handshake',
  fc.record({ line: lines, payload: fc.uint8Array({ maxLength: 80 }) }),
  ({ line, payload }) => {
    const all = new Uint8Array([...line, ...payload]);
    const peek = (length: number) => parseConnectLine(all.subarray(0, Math.min(length, CONNECT_LINE_BYTES_MAX)));
    const whole = peek(all.length);
    let decided: ReturnType<typeof parseConnectLine> | undefined;
    for (let length = 0; length <= all.length; length += 1) {
      const parsed = peek(length);
      if (decided !== undefined) must(JSON.stringify(parsed) === JSON.stringify(decided), `changed at ${length} bytes`);
      else if (parsed.kind !== 'incomplete') decided = parsed;
    }
    must(JSON.stringify(decided ?? { kind: 'incomplete' }) === JSON.stringify(whole), 'cut matters');
    if (whole.kind !== 'connect') return;
    const said = Buffer.from(all.subarray(0, whole.lineBytes)).toString('latin1');
    must(said === `CONNECT ${whole.port}\n`, `took ${JSON.stringify(said)} for a line`);
  },
);
