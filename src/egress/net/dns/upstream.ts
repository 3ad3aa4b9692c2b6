/**
 * Asks the host's resolvers (io). Each question has a random id, random letter case, and its own connected socket: a
 * random port on which only the upstream can answer.
 */
import { createSocket } from 'node:dgram';
import { connect, isIPv6 } from 'node:net';
import type { Clock } from '../../../base/clock.ts';
import { isAnswerTo, spellAtRandom } from './answers.ts';
import { ANSWER_BYTES_MAX, type DnsAnswer, type DnsQuestion, encodeQuery, parseAnswer } from './message.ts';
import { TcpMessages, tcpMessage } from './tcp-messages.ts';

export interface DnsUpstream {
  readonly address: string;
  readonly port: number;
}

interface UpstreamSettings {
  readonly upstreams: readonly DnsUpstream[];
  readonly clock: Clock;
  /** An unpredictable integer in [0, below), as from `randomInt` of node:crypto. */
  readonly random: (below: number) => number;
  readonly timeoutMs: number;
  /** Rounds through all upstreams. */
  readonly rounds: number;
}

/** Wrong answers on a socket after which an attempt fails. */
const STRAY_MAX = 16;

interface Asked {
  readonly id: number;
  readonly spelled: string;
  readonly type: number;
  readonly bytes: Uint8Array;
}

/** @returns undefined if no upstream answered. Never rejects; ends on `signal`. */
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
      // The next server may succeed.
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

/**
 * `doubtful`: correct except for the case of its letters. The upstream may have changed it, or the answer is forged,
 * which is impossible over TCP.
 */
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
      // Also called with an error, such as a missing route, which Node's types omit.
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
      const messages = new TcpMessages(ANSWER_BYTES_MAX);
      socket.on('connect', () => socket.write(tcpMessage(asked.bytes)));
      socket.on('error', () => end(undefined));
      socket.on('end', () => end(undefined));
      socket.on('data', (bytes) => {
        messages.push(bytes);
        const message = messages.next();
        if (message === undefined) return undefined;
        if (message === 'too_long') return end(undefined);
        const parsed = parseAnswer(message);
        return end(parsed.ok && isAnswerTo(parsed.value, asked, 'tcp') ? parsed.value : undefined);
      });
    },
  );
}

/** Runs one exchange, and closes its socket exactly once. */
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
