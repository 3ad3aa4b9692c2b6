/** The first bytes of a TLS client, damaged and cut anywhere: one verdict, however they arrive. */
import fc from 'fast-check';
import { parseHostName } from '../../src/egress/net/addresses/host-name.ts';
import { ClientHelloReader, HELLO_WIRE_BYTES_MAX } from '../../src/egress/net/tls/client-hello.ts';
import { helloMessage, records } from '../support/client-hello.ts';
import { must, structured } from './target.ts';

const shape = fc
  .record({
    serverName: fc.option(
      fc.oneof(fc.constantFrom('a.example', 'B.Example', '1.2.3.4'), fc.string({ maxLength: 20 })),
      { nil: undefined },
    ),
    protocols: fc.option(fc.array(fc.stringMatching(/^[a-z0-9/.]{1,8}$/), { minLength: 1, maxLength: 3 }), {
      nil: undefined,
    }),
    hasEch: fc.boolean(),
    extensions: fc.array(
      fc.tuple(fc.oneof(fc.constantFrom(0, 16, 0xfe0d), fc.nat(0xffff)), fc.uint8Array({ maxLength: 30 })),
      { maxLength: 3 },
    ),
  })
  .map(({ serverName, protocols, ...rest }) => ({
    ...rest,
    ...(serverName === undefined ? {} : { serverName }),
    ...(protocols === undefined ? {} : { protocols }),
  }));

export const clientHello = structured(
  'client-hello',
  fc.record({
    shape,
    fragmentBytes: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constant(0x4000)),
    damage: fc.array(fc.tuple(fc.nat(600), fc.nat(255)), { maxLength: 2 }),
    trailing: fc.uint8Array({ maxLength: 20 }),
    cuts: fc.array(fc.nat(1200), { maxLength: 12 }),
  }),
  ({ shape: given, fragmentBytes, damage, trailing, cuts }) => {
    const wire = Buffer.concat([records(helloMessage(given), fragmentBytes), trailing]);
    for (const [at, value] of damage) if (at < wire.length) wire[at] = value;
    const whole = new ClientHelloReader();
    const verdict = whole.push(wire);
    const places = [...new Set(cuts.filter((at) => at < wire.length))].sort((a, b) => a - b);
    const inPieces = new ClientHelloReader();
    let start = 0;
    for (const end of [...places, wire.length]) {
      inPieces.push(wire.subarray(start, end));
      start = end;
    }
    must(JSON.stringify(inPieces.state) === JSON.stringify(verdict), 'cut matters');
    must(whole.wireBytes <= Math.min(wire.length, HELLO_WIRE_BYTES_MAX), 'took too much');
    if (verdict.kind !== 'hello') return;
    must(inPieces.wireBytes === whole.wireBytes, 'ends elsewhere');
    const again = new ClientHelloReader();
    again.push(wire.subarray(0, whole.wireBytes - 1));
    must(again.state.kind === 'more', 'decided before the end');
    const { serverName, hasEch } = verdict.hello;
    must(serverName === undefined || parseHostName(serverName) === serverName, `name ${serverName}`);
    if (damage.length === 0) {
      must(serverName === given.serverName?.toLowerCase() || given.serverName === undefined, 'another name');
      must(!given.hasEch || hasEch, 'a hidden hello');
    }
  },
);
