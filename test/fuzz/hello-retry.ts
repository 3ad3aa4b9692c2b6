/** A client's second hello, and a server's answer that asks for one: judged by the whole hello, however it comes. */
import { ClientHelloReader } from '../../src/egress/net/tls/client-hello.ts';
import { SecondHello, ServerHelloStart } from '../../src/egress/net/tls/hello-retry.ts';
import { helloMessage, records } from '../support/client-hello.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

const FIRST = { serverName: 'a.example', protocols: ['h2'], hasEch: false };
const RETRY = Buffer.from(
  '160303007a020000760303cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c',
  'hex',
);
const CHANGE = Buffer.from('140303000101', 'hex');
const EARLY = Buffer.from('1703030004aabbccdd', 'hex');
const hello = (name: string, fragmentBytes?: number): Buffer =>
  records(helloMessage({ serverName: name, protocols: ['h2'] }), fragmentBytes);

export const helloRetry = target(
  'hello-retry',
  (bytes) => {
    const verdict = sameHoweverCut(bytes, (pieces) => {
      const second = new SecondHello(FIRST);
      for (const piece of pieces) {
        const state = second.push(piece);
        if (state.kind !== 'more') return JSON.stringify(state);
      }
      return 'more';
    });
    const server = sameHoweverCut(bytes, (pieces) => {
      const start = new ServerHelloStart();
      for (const piece of pieces) {
        const state = start.push(piece);
        if (state !== 'more') return state;
      }
      return 'more';
    });
    must(server !== 'retry' || bytes.subarray(11, 43).equals(RETRY.subarray(11, 43)), 'no retry');
    if (verdict !== '{"kind":"same"}') return;
    // What a server reads after skipping what is no handshake.
    const reader = new ClientHelloReader();
    const state = reader.push(bytes.subarray(handshakeStart(bytes)));
    must(state.kind === 'hello', 'no hello was taken for one');
    must(state.hello.serverName === FIRST.serverName, `another name: ${state.hello.serverName}`);
    must(!state.hello.hasEch, 'a hidden hello');
  },
  { seeds: [RETRY, hello('a.example'), hello('b.example'), Buffer.concat([CHANGE, EARLY, hello('a.example', 20)])] },
);

function handshakeStart(bytes: Buffer): number {
  let at = 0;
  while (at + 5 <= bytes.length && bytes[at] !== 22) at += 5 + bytes.readUInt16BE(at + 3);
  return at;
}
