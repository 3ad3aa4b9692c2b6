/** The role of a guest: plugs a card into the inherited TAP and tries to reach servers. */
import { createSocket } from 'node:dgram';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { assert } from '../src/base/assert.ts';
import { writeBytes } from '../src/sys/fd.ts';
import { act } from './actor.ts';
import {
  askName,
  type ConnectionTry,
  datagram,
  exchange,
  exchangeHttps,
  exchangeTls,
  type NameTry,
  setSilence,
  silenceTimer,
} from './caller.ts';
import { CABLE_FD, type CardSpec, plugCard } from './card.ts';
import { type UdpFrame, udpFrame } from './frames.ts';
import { PSK } from './map.ts';
import { FLOODS, type FloodTargets } from './neighbor-floods.ts';
import { type ProbePlan, probe } from './neighbor-probe.ts';

const received: string[] = [];
let held: TLSSocket | undefined;
let flood: { readonly stop: () => void; readonly ended: Promise<unknown> } | undefined;
const flooded = new Map<string, number>();

act({
  plug: (spec: CardSpec) => {
    plugCard(spec);
  },
  silence: ({ ms }: { ms: number }) => setSilence(ms),
  exchange: (each: ConnectionTry) => exchange(each),
  exchangeTls: (each: ConnectionTry & { servername?: string }) => exchangeTls(each),
  exchangeHttps: (each: ConnectionTry & { servername?: string; ca: string }) => exchangeHttps(each),
  datagram: (each: { host: string; port: number; text: string }) =>
    datagram({ ...each, bytes: Buffer.from(each.text) }),
  askName: (each: NameTry) => askName(each),
  /** Bypasses the guest's kernel. */
  frame: (each: UdpFrame) => writeBytes(CABLE_FD, udpFrame(each)),
  listen: ({ port }: { port: number }) =>
    new Promise<void>((resolve) => {
      const socket = createSocket('udp4');
      socket.on('message', (bytes) => received.push(bytes.toString()));
      socket.bind(port, () => resolve());
    }),
  received: () => received,
  probe: (plan: ProbePlan) => probe(plan),
  flood: ({ kind, ...targets }: FloodTargets & { kind: string }) => {
    const run = FLOODS[kind];
    assert(run !== undefined && flood === undefined, 'one known flood at a time');
    flooded.clear();
    const aborter = new AbortController();
    const count = (outcome: string): void => {
      flooded.set(outcome, (flooded.get(outcome) ?? 0) + 1);
    };
    const ended = run(targets, count, aborter.signal);
    flood = { stop: () => aborter.abort(), ended };
  },
  /** Counts of the flood so far, by outcome. */
  flooded: () => Object.fromEntries(flooded),
  endFlood: async () => {
    flood?.stop();
    await flood?.ended;
    flood = undefined;
    return Object.fromEntries(flooded);
  },
  /** A lasting TLS connection: `hold` opens it, `poke` sends a byte and waits for its echo. */
  hold: ({ host, port, servername }: { host: string; port: number; servername: string }) =>
    new Promise<string>((resolve) => {
      const version = 'TLSv1.2' as const;
      held = connectTls({
        host,
        port,
        servername,
        minVersion: version,
        maxVersion: version,
        ciphers: 'PSK',
        pskCallback: () => ({ psk: Buffer.from(PSK), identity: 'proof' }),
        checkServerIdentity: () => undefined,
      });
      held.once('data', () => resolve('answer'));
      held.once('error', (error) => resolve(String(Reflect.get(error, 'code'))));
    }),
  poke: () => {
    const socket = held;
    assert(socket !== undefined, 'a connection is held');
    return new Promise<string>((resolve) => {
      const timer = silenceTimer(() => end('silence'));
      const end = (outcome: string): void => {
        clearTimeout(timer);
        resolve(outcome);
      };
      socket.removeAllListeners('data');
      socket.on('error', (error) => end(String(Reflect.get(error, 'code'))));
      socket.once('close', () => end('closed'));
      socket.once('data', () => end('answer'));
      if (socket.destroyed) end('closed');
      else socket.write('x');
    });
  },
});
