/** Fetches the arrivals of a run from a canary, and checks that the canary records unfiltered traffic (I/O). */
import { request } from 'node:http';
import { connect as connectTls } from 'node:tls';
import { askName, datagram, exchange } from '../../prove/caller.ts';
import { ProofError } from '../../prove/errors.ts';
import { get } from '../../prove/forged-requests.ts';
import type { Tried } from '../../prove/proof.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';
import { DNS_TYPE } from '../../src/egress/net/dns/message.ts';
import { arrivalsSchema, type CanaryArrival } from './arrivals.ts';
import { ARRIVALS_PATH, CANARY_PORTS } from './canary.ts';
import { nameOf, type Target, type Tracer } from './cases.ts';

const TIMEOUT_MS = 10_000;
const ANSWER_BYTES_MAX = 16 * MIB;

/** @throws ProofError `canary_failed` */
export async function askArrivals({ address, run }: Target): Promise<readonly CanaryArrival[]> {
  try {
    return arrivalsSchema.parse(JSON.parse(await download(address, `${ARRIVALS_PATH}${run}`)));
  } catch (cause) {
    const remedy = `Run there, as root: ./neurovisor prove-endpoint canary --listen ADDRESS --zone ZONE; and let this machine connect to its port 80.`;
    throw new ProofError('canary_failed', `could not ask the canary at ${address}`, { cause, remedy });
  }
}

function download(host: string, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({ host, path, port: 80, timeout: TIMEOUT_MS, agent: false }, (answer) => {
      let text = '';
      answer.on('data', (bytes: Buffer) => {
        text += bytes.toString('latin1');
        if (text.length > ANSWER_BYTES_MAX) asked.destroy(new Error('answer too long'));
      });
      answer.on('end', () => resolve(text));
      answer.on('error', reject);
    });
    asked.on('timeout', () => asked.destroy(new Error('timeout')));
    asked.on('error', reject);
    asked.end();
  });
}

/** Positive controls: each port of the canary, from the runner. Without them "nothing arrived" proves nothing. */
export async function canaryControls(target: Target, next: Tracer): Promise<readonly Tried[]> {
  const { address, run } = target;
  const other = nameOf(target, 'other');
  const traces: { what: string; trace: string }[] = [];
  const trace = (what: string): string => {
    const mark = next();
    traces.push({ what, trace: mark });
    return mark;
  };
  const name = (transport: 'udp' | 'tcp') =>
    askName({
      server: address,
      type: DNS_TYPE.A,
      transport,
      name: `${trace(`DNS by ${transport.toUpperCase()}`)}.${other}`,
    });
  const [web, alternative] = CANARY_PORTS.http;
  await Promise.all([
    exchange({ host: address, port: web, text: get(other, `/${trace('HTTP')}`) }),
    exchange({ host: address, port: alternative, text: get(other, `/${trace('HTTP on port 8080')}`) }),
    name('udp'),
    name('tcp'),
    ...CANARY_PORTS.udp.map((port) => datagram({ host: address, port, bytes: Buffer.from(trace(`UDP port ${port}`)) })),
    ...CANARY_PORTS.tls.map((port) => {
      const mark = trace(`TLS on port ${port}`);
      return exchangeTls(address, port, `tls.${other}`, get(other, `/${mark}`));
    }),
  ]);
  const arrivals = await askArrivals({ ...target, run });
  return traces.map(({ what, trace: mark }) => {
    const ok = arrivals.some(({ text }) => text.includes(mark));
    const seen = ok ? 'it arrives' : 'nothing arrived';
    return { what: `control: ${what}, from here to the canary`, expected: 'it arrives', seen, ok };
  });
}

function exchangeTls(host: string, port: number, servername: string, text: string): Promise<void> {
  return new Promise((resolve) => {
    // The certificate is self-signed, and nothing confidential is sent.
    const socket = connectTls({ host, port, servername, rejectUnauthorized: false });
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy());
    socket.on('error', (error) => ignore(error, 'a failed control: nothing arrives'));
    socket.once('close', () => resolve());
    socket.resume();
    socket.end(text);
  });
}
