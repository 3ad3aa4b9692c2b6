import { describe, expect, it } from 'vitest';
import { isTrustedOwner, listeningUids } from './listener-owner.ts';

const HEADER = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid';
const line = (local: string, state: string, uid: number): string =>
  `   0: ${local} 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000  ${uid}        0 1213 1 0 100`;

describe('listeningUids', () => {
  it.each([
    ['127.0.0.1', '0100007F:2CAA', '0A', [65534]],
    ['any IPv4 address', '00000000:2CAA', '0A', [65534]],
    ['any IPv6 address', `${'0'.repeat(32)}:2CAA`, '0A', [65534]],
    ['a mapped address', '0000000000000000FFFF00000100007F:2CAA', '0A', [65534]],
    ['another port', '0100007F:2CAB', '0A', []],
    ['another address', '0200A8C0:2CAA', '0A', []],
    ['a connection', '0100007F:2CAA', '01', []],
  ])('%s', (_, local, state, expected) => {
    expect(listeningUids(`${HEADER}\n${line(local, state, 65534)}\n`, 11434)).toEqual(expected);
  });
});

describe('isTrustedOwner', () => {
  it.each([
    ['root', [0], true],
    ['our own user', [process.getuid?.() ?? 0], true],
    ['another user', [65534], false],
    ['root beside another user', [0, 65534], false],
    ['no known user', [], false],
  ])('%s', (_, uids, expected) => {
    expect(isTrustedOwner(uids)).toBe(expected);
  });
});
