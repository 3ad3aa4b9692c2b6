/**
 * Questions to the resolvers of the host (io). Each goes out of a socket of its own, so from a random port,
 * connected, so that only the upstream can answer; with a random id and randomly spelled.
 */
import { createSocket } from 'node:dgram';
import { connect, isIPv6 } from 'node:net';
import type { Clock } from '../../base/clock.ts';
import { isAnswerTo, spellAtRandom } from './answers.ts';
import {
  ANSWER_BYTES_MAX,
  type DnsAnswer,
  type DnsQuestion,
  encodeQuery,
  parseAnswer,
} from './message.ts';

export interface DnsUpstream {
  readonly address: string;
  readonly port: number;
}

interface UpstreamSettings {
  /** Asked in turn. */
  readonly upstreams: readonly DnsUpstream[];
  readonly clock: Clock;
  /** An integer in [0, below). From a source that can't be guessed: `randomInt` of node:crypto. */
  readonly random: (below: number) => number;
  /** For one attempt. */
  readonly timeoutMs: number;
  /** Rounds through all upstreams. */
  readonly rounds: number;
}

/** Datagrams on our own socket that are no answer to what was asked; more: the attempt is given up. */
const STRAY_MAX = 16;

interface Asked {
  readonly id: number;
  readonly spelled: string;
  readonly type: number;
  readonly bytes: Uint8Array;
}

/** @returns undefined where no upstream gave an answer. Never rejects, and ends at `signal`. */
export async function askUpstreams(
  settings: UpstreamSettings,
  question: DnsQuestion,
  signal: AbortSignal,
): Promise<DnsAnswer | undefined> {
  for (let round = 0; round < settings.rounds; round += 1) {
    for (const upstream of settings.upstreams) {
      if (signal.aborted) return undefined;
      const asked = compose(settings, question);
      let answer = await askByUdp(settings, upstream, asked, signal);
      if (answer === 'doubtful' || answer?.isTruncated === true)
        answer = await askByTcp(settings, upstream, asked, signal);
      // A server that fails may have a neighbor that does not.
      const isFailure = answer !== undefined && answer.code !== 0 && answer.code !== 3;
      const isLast = round + 1 === settings.rounds && upstream === settings.upstreams.at(-1);
      if (answer !== undefined && !answer.isTruncated && (!isFailure || isLast)) return answer;
    }
  }
  return undefined;
}

function compose(settings: UpstreamSettings, { name, type }: DnsQuestion): Asked {
  const id = settings.random(0x1_0000);
  const spelled = spellAtRandom(name, () => settings.random(2) === 1);
  return { id, spelled, type, bytes: encodeQuery(id, spelled, type) };
}

/** `doubtful`: right but for its spelling. The upstream respells names, or somebody forges; by TCP nobody can. */
function askByUdp(
  settings: UpstreamSettings,
  upstream: DnsUpstream,
  asked: Asked,
  signal: AbortSignal,
): Promise<DnsAnswer | 'doubtful' | undefined> {
  const socket = createSocket(isIPv6(upstream.address) ? 'udp6' : 'udp4');
  let isClosed = false;
  return attempt<DnsAnswer | 'doubtful'>(
    settings,
    signal,
    () => {
      isClosed = true;
      socket.close();
    },
    (end) => {
      let strays = 0;
      socket.on('error', () => end(undefined));
      socket.on('message', (bytes) => {
        const parsed = parseAnswer(bytes);
        strays += 1;
        if (parsed.ok && isAnswerTo(parsed.value, asked, 'udp')) end(parsed.value);
        else if (parsed.ok && isAnswerTo(parsed.value, asked, 'tcp')) end('doubtful');
        else if (strays >= STRAY_MAX) end(undefined);
      });
      // Called with an error too, e.g. that there is no route; Node's types do not know of it.
      socket.connect(upstream.port, upstream.address, (error?: Error) => {
        if (error) end(undefined);
        else if (!isClosed) socket.send(asked.bytes);
      });
    },
  );
}

function askByTcp(
  settings: UpstreamSettings,
  upstream: DnsUpstream,
  asked: Asked,
  signal: AbortSignal,
): Promise<DnsAnswer | undefined> {
  const socket = connect({ host: upstream.address, port: upstream.port });
  return attempt<DnsAnswer>(
    settings,
    signal,
    () => socket.destroy(),
    (end) => {
      let received = Buffer.alloc(0);
      const length = Buffer.alloc(2);
      length.writeUInt16BE(asked.bytes.length);
      socket.on('connect', () => socket.write(Buffer.concat([length, asked.bytes])));
      socket.on('error', () => end(undefined));
      socket.on('end', () => end(undefined));
      socket.on('data', (bytes) => {
        received = Buffer.concat([received, bytes]);
        const size = received.length < 2 ? 0 : received.readUInt16BE();
        if (size > ANSWER_BYTES_MAX) return end(undefined);
        if (received.length < 2 || received.length < 2 + size) return undefined;
        const parsed = parseAnswer(received.subarray(2, 2 + size));
        return end(parsed.ok && isAnswerTo(parsed.value, asked, 'tcp') ? parsed.value : undefined);
      });
    },
  );
}

/** One exchange: whatever ends it first, its socket is closed once. */
function attempt<T>(
  settings: UpstreamSettings,
  signal: AbortSignal,
  close: () => void,
  start: (end: (answer: T | undefined) => void) => void,
): Promise<T | undefined> {
  return new Promise((resolve) => {
    let isEnded = false;
    const end = (answer: T | undefined): void => {
      if (isEnded) return;
      isEnded = true;
      cancel();
      signal.removeEventListener('abort', onAbort);
      close();
      resolve(answer);
    };
    const onAbort = (): void => end(undefined);
    const cancel = settings.clock.after(settings.timeoutMs, onAbort);
    signal.addEventListener('abort', onAbort, { once: true });
    start(end);
  });
}
