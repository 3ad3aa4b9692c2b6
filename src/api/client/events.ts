/**
 * The events of one sandbox. A broken stream reconnects after the last sequence number, so no event is repeated, and
 * none is lost that the daemon still has. It waits for the next daemon, which goes on with higher numbers.
 */
import type { IncomingMessage } from 'node:http';
import { sleep } from '../../base/clock.ts';
import { CodedError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { EventsOptions } from '../../sandbox/contract/control.ts';
import type { TimedEvent } from '../../sandbox/contract/events.ts';
import { timedEvent } from './answers.ts';
import { answerInvalid } from './errors.ts';
import { serverSent } from './server-sent.ts';

const LIMITS = { lineCharactersMax: 64 * 1024, retryMs: 1000, retriesMax: 30 } as const;

/**
 * @param wait between two tries
 * @throws ClientError, SandboxError if the request is refused, or if no daemon has come half a minute after a loss
 */
export async function* readEvents(
  open: (query: URLSearchParams, signal: AbortSignal) => Promise<IncomingMessage>,
  options: EventsOptions,
  wait: (signal: AbortSignal) => Promise<void> = (signal) => sleep(LIMITS.retryMs, signal),
): AsyncGenerator<TimedEvent, void, undefined> {
  const { follow = true, signal = new AbortController().signal } = options;
  let { after = 0 } = options;
  let retries: number = LIMITS.retriesMax;
  for (;;) {
    const query = new URLSearchParams({ after: `${after}`, follow: `${follow}` });
    try {
      const stream = await open(query, signal);
      retries = 0;
      for await (const event of parse(stream)) {
        after = event.seq;
        yield event;
        if (event.type === 'end') return;
      }
      if (!follow) return;
    } catch (error) {
      if (signal.aborted) return;
      // The daemon answered with an error; only a lost connection, and a daemon that restarts, are retried.
      const isRestart = errorCode(error) === 'daemon_unreachable' && retries < LIMITS.retriesMax;
      if (error instanceof CodedError && error.code !== 'daemon_lost' && !isRestart) throw error;
      retries += 1;
      ignore(error, 'the stream reconnects');
    }
    try {
      await wait(signal);
    } catch (error) {
      return ignore(error, 'the reader has left');
    }
  }
}

async function* parse(stream: IncomingMessage): AsyncGenerator<TimedEvent, void, undefined> {
  for await (const { data } of serverSent(stream, LIMITS.lineCharactersMax)) {
    const read = timedEvent.read(JSON.parse(data));
    if (read === null) throw answerInvalid('malformed event');
    yield read.value;
  }
}
