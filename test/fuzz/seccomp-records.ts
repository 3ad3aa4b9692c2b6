/** The kernel's audit records, with names that a hostile process chose: the fields are the kernel's, or it is none. */
import { AUDIT_SECCOMP, parseSeccompRecord } from '../../src/machine/observe/seccomp-record.ts';
import { must, target } from './target.ts';

const record = (text: string, type: number = AUDIT_SECCOMP): Buffer => {
  const head = Buffer.alloc(16);
  head.writeUInt32LE(16 + text.length, 0);
  head.writeUInt16LE(type, 4);
  return Buffer.concat([head, Buffer.from(text, 'latin1')]);
};
const START = 'audit(1700000000.123:45): auid=0 uid=0 gid=0 ses=1 subj=unconfined pid=77 comm=';
const END = ' exe="/usr/bin/qemu" sig=31 arch=c000003e syscall=41 compat=0 ip=0x7f00 code=0x80000000';

export const seccompRecords = target(
  'seccomp-records',
  (bytes) => {
    const read = parseSeccompRecord(bytes);
    if (read !== undefined) {
      for (const number of [read.atMs, read.pid, read.syscall, read.arch])
        must(Number.isFinite(number) && number >= 0, `a field is ${number}`);
      must(/^0x[0-9a-f]+$/.test(read.address), 'no address');
    }
    // A name of the process, as the kernel writes it: quoted, or in hexadecimal digits.
    const name = bytes.subarray(0, 15);
    const isPlain = name.every((byte) => byte > 0x20 && byte < 0x7f && byte !== 0x22);
    const written = isPlain ? `"${name.toString('latin1')}"` : name.toString('hex').toUpperCase();
    const honest = parseSeccompRecord(record(START + written + END));
    must(honest?.pid === 77 && honest.syscall === 41, 'a name changes the record');
    must(honest.address === '0x7f00' && honest.action === 'refused', 'a name changes the record');
  },
  { maxBytes: 600, seeds: [record(`${START}"x"${END}`), record('x', 1300), '" pid=1 comm="'] },
);
