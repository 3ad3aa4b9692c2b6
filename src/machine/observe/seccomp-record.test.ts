import { describe, expect, it } from 'vitest';
import { AUDIT_SECCOMP, parseSeccompRecord } from './seccomp-record.ts';

const datagram = (text: string, type = AUDIT_SECCOMP): Uint8Array => {
  const bytes = Buffer.alloc(16 + text.length);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt16LE(type, 4);
  bytes.write(text, 16, 'latin1');
  return bytes;
};
// As Linux 6.18 wrote them.
const record = (comm: string, code: string): string =>
  'audit(1795673206.954:3434): auid=4294967295 uid=0 gid=0 ses=4294967295 pid=2023 ' +
  `comm=${comm} exe="/tmp/t" sig=31 arch=c000003e syscall=110 compat=0 ip=0x7fd3903d54f7 code=${code}`;

describe('parseSeccompRecord', () => {
  it.each([
    ['0x80000000', 'refused'],
    ['0x0', 'refused'],
    ['0x30000', 'refused'],
    ['0x7ffc0000', 'logged'],
    ['0x7ffc0005', 'logged'],
  ])('parses code %s as %s', (code, action) => {
    expect(parseSeccompRecord(datagram(record('"t"', code)))).toEqual({
      atMs: 1_795_673_206_954,
      pid: 2023,
      syscall: 110,
      arch: 0xc000_003e,
      address: '0x7fd3903d54f7',
      action,
    });
  });

  it('is not deceived by a process named like a record', () => {
    // The kernel writes names with such characters in hexadecimal; this one has none of them.
    const seen = parseSeccompRecord(datagram(record('"pid=1"', '0x80000000')));
    expect(seen).toMatchObject({ pid: 2023, syscall: 110 });
    const hostile = record('"a" sig=0 arch=0 syscall=1 compat=0 ip=0x1 code=0x1', '0x80000000');
    expect(parseSeccompRecord(datagram(hostile))).toMatchObject({ syscall: 110 });
  });

  it('ignores other lines', () => {
    expect(parseSeccompRecord(datagram(record('"t"', '0x0'), 1300))).toBeUndefined();
    expect(parseSeccompRecord(datagram(record('"t"', 'zero')))).toBeUndefined();
    expect(parseSeccompRecord(datagram(`${record('"t"', '0x0')} more=1`))).toBeUndefined();
    expect(parseSeccompRecord(new Uint8Array(3))).toBeUndefined();
    expect(parseSeccompRecord(datagram('x'.repeat(9_000)))).toBeUndefined();
    const whole = datagram(record('"t"', '0x0'));
    for (let bytes = 0; bytes < whole.length; bytes += 1)
      expect(() => parseSeccompRecord(whole.subarray(0, bytes))).not.toThrow();
  });
});
