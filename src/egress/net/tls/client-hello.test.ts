import { describe, expect, it } from 'vitest';
import { helloMessage, records, serverNameData, sized } from '../../../../test/support/client-hello.ts';
import { ClientHelloReader, HELLO_BYTES_MAX, HELLO_WIRE_BYTES_MAX } from './client-hello.ts';
import { SecondHello, ServerHelloStart } from './hello-retry.ts';

function read(...chunks: Uint8Array[]) {
  const reader = new ClientHelloReader();
  for (const chunk of chunks) reader.push(chunk);
  return reader.state;
}
const refused = (reason: string) => ({ kind: 'refused', reason });
const HELLO = helloMessage({ serverName: 'Api.Example.com', protocols: ['h2', 'http/1.1'] });
const READ = { kind: 'hello', hello: { serverName: 'api.example.com', protocols: ['h2', 'http/1.1'], hasEch: false } };

describe('ClientHelloReader', () => {
  it('reads name and protocols from any split into records and pieces', () => {
    for (const size of [1, 2, 5, 100, 0x4000]) {
      const wire = records(HELLO, size);
      expect(read(wire)).toEqual(READ);
      expect(read(...[...wire].map((byte) => Uint8Array.of(byte)))).toEqual(READ);
    }
  });
  it('waits for every byte, and reports where the hello ends', () => {
    const wire = records(HELLO, 50);
    expect(read(wire.subarray(0, -1))).toEqual({ kind: 'more' });
    const reader = new ClientHelloReader();
    reader.push(Buffer.concat([wire, Buffer.from('more')]));
    expect(reader.state).toEqual(READ);
    expect(reader.wireBytes).toBe(wire.length);
  });
  it('reads a hello without a name, and one without extensions', () => {
    expect(read(records(helloMessage({})))).toMatchObject({ hello: { serverName: undefined } });
    const body = Buffer.concat([
      Buffer.from('0303', 'hex'),
      Buffer.alloc(32),
      sized(1, Buffer.alloc(0)),
      sized(2, Buffer.from('1301', 'hex')),
      sized(1, Buffer.of(0)),
    ]);
    const message = Buffer.concat([Buffer.of(1), sized(3, body)]);
    expect(read(records(message))).toMatchObject({ hello: { serverName: undefined } });
  });
  it('detects an encrypted hello, and its predecessor', () => {
    expect(read(records(helloMessage({ hasEch: true })))).toMatchObject({ hello: { hasEch: true } });
    const esni = helloMessage({ extensions: [[0xffce, Buffer.alloc(8)]] });
    expect(read(records(esni))).toMatchObject({ hello: { hasEch: true } });
  });
  it('refuses non-TLS data at the first byte that shows it', () => {
    expect(read(Buffer.from('G'))).toEqual(refused('not_tls'));
    expect(read(Buffer.of(22, 2))).toEqual(refused('not_tls'));
    expect(read(Buffer.of(0x80, 0x2e, 1))).toEqual(refused('not_tls'));
  });
  it('refuses another record type or message inside, an empty fragment, and a second message', () => {
    const cut = records(HELLO, 60);
    const first = cut.subarray(0, 65);
    expect(read(first, Buffer.of(20, 3, 3, 0, 1, 1))).toEqual(refused('out_of_order'));
    expect(read(first, Buffer.of(22, 3, 3, 0, 0))).toEqual(refused('out_of_order'));
    expect(read(records(Buffer.of(2, 0, 0, 1, 0)))).toEqual(refused('out_of_order'));
    expect(read(records(Buffer.concat([HELLO, Buffer.of(1)])))).toEqual(refused('out_of_order'));
    expect(read(records(Buffer.concat([HELLO, HELLO])))).toEqual(refused('out_of_order'));
  });
  it('is bounded, whatever lengths are declared', () => {
    expect(read(Buffer.of(22, 3, 1, 0x40, 1))).toEqual(refused('too_long'));
    expect(read(records(Buffer.of(1, 0, 0x40, 0)))).toEqual(refused('too_long'));
    const large = helloMessage({ extensions: [[21, Buffer.alloc(HELLO_BYTES_MAX - 200)]] });
    expect(read(records(large)).kind).toBe('hello');
    const tiny = records(large, 1);
    expect(tiny.length).toBeGreaterThan(HELLO_WIRE_BYTES_MAX);
    expect(read(tiny)).toEqual(refused('too_long'));
  });
  it('refuses duplicates', () => {
    const twice = helloMessage({ serverName: 'a.example', extensions: [[0, serverNameData('b.example')]] });
    expect(read(records(twice))).toEqual(refused('duplicate'));
    const both = helloMessage({ extensions: [[0, serverNameData('a.example', 'b.example')]] });
    expect(read(records(both))).toEqual(refused('duplicate'));
  });
  it.each(['169.254.169.254', '2852039166', 'a.example.', '', 'a\0.example', 'é.example', '*.example'])(
    'refuses the name %j',
    (serverName) => {
      expect(read(records(helloMessage({ serverName })))).toEqual(refused('server_name'));
    },
  );
  it('refuses lengths that do not fit', () => {
    for (const data of ['', '0000', '0003', '00030000', '000400000161ff', '0005010002612e'])
      expect(read(records(helloMessage({ extensions: [[0, Buffer.from(data, 'hex')]] }))).kind, data).toBe('refused');
    for (const data of ['', '0000', '000100', '000302', '00020161ff'])
      expect(read(records(helloMessage({ extensions: [[16, Buffer.from(data, 'hex')]] }))), data).toEqual(
        refused('malformed'),
      );
  });
});

describe('hello retry', () => {
  const RETRY_RANDOM = 'cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c';
  const serverHello = (random: string): Buffer =>
    records(Buffer.from(`020000480303${random}${'00'.repeat(38)}`, 'hex'));

  it('ServerHelloStart: finds a retry by the server’s random, however the input is cut', () => {
    const other = '11'.repeat(32);
    expect(new ServerHelloStart().push(serverHello(RETRY_RANDOM))).toBe('retry');
    expect(new ServerHelloStart().push(serverHello(other))).toBe('other');
    expect(new ServerHelloStart().push(Buffer.of(21, 3, 3))).toBe('other');
    const start = new ServerHelloStart();
    const states = [...serverHello(RETRY_RANDOM)].map((byte) => start.push(Uint8Array.of(byte)));
    expect(states.slice(0, 43)).toEqual([...Array(42).fill('more'), 'retry']);
  });

  const first = { serverName: 'a.example', protocols: [], hasEch: false };
  const hello = (serverName: string) => records(helloMessage({ serverName }), 70);
  const ccs = Buffer.of(20, 3, 3, 0, 1, 1);
  it.each([1, 7, 1000])('compares the second hello with the first, in pieces of %d', (size) => {
    const run = (bytes: Buffer) => {
      const second = new SecondHello(first);
      let state = second.push(new Uint8Array());
      for (let at = 0; at < bytes.length && state.kind === 'more'; at += size)
        state = second.push(bytes.subarray(at, at + size));
      return state;
    };
    const early = records(Buffer.alloc(300, 22), 100, 23);
    expect(run(Buffer.concat([ccs, hello('a.example')]))).toEqual({ kind: 'same' });
    expect(run(Buffer.concat([early, ccs, hello('a.example')]))).toEqual({ kind: 'same' });
    expect(run(Buffer.concat([ccs, hello('b.example')]))).toEqual(refused('changed'));
    const ech = records(helloMessage({ serverName: 'a.example', hasEch: true }));
    expect(run(Buffer.concat([ccs, ech]))).toEqual(refused('changed'));
    expect(run(Buffer.of(21, 3, 3, 0, 2, 1, 0))).toEqual(refused('out_of_order'));
    expect(run(records(Buffer.alloc(70_000), 0x4000, 23))).toEqual(refused('too_long'));
  });
});
