/** Forwards the answer to a request, in the way that the request was sent (io). */
import type { Log } from '../../../base/log.ts';
import { MessageUsage } from '../dialect/anthropic/message-usage.ts';
import type { Operation } from '../dialect/dialect.ts';
import type { Dispatched } from '../dispatched.ts';
import type { Reply } from '../reply.ts';
import type { UpstreamAnswer } from '../tape/tape.ts';
import type { UpstreamTarget } from '../upstream/address.ts';
import { AnswerCounter, DocumentUsage, NO_TOKENS, StreamUsage } from '../usage.ts';
import { isEventStream, type RelayContext, relayDocument, relayError, relayStream } from './relay.ts';
import { relayMessage, relayMessageStream } from './relay-messages.ts';
import { translateDocument, translateStream } from './relay-translated.ts';

/** The server has no path to count tokens, or not the model. */
const NO_COUNT: readonly (number | undefined)[] = [404, 405, 501];

/** @throws BridgeError `upstream_died`, `upstream_protocol`, `upstream_failed`, or the signal's reason */
export async function relayAnswer(
  response: UpstreamAnswer,
  reply: Reply,
  dispatched: Dispatched,
  relay: RelayContext,
): Promise<void> {
  if (isEventStream(response)) await relayEvents(response, reply, dispatched, relay);
  else await relayWhole(response, reply, dispatched, relay);
}

async function relayEvents(
  response: UpstreamAnswer,
  reply: Reply,
  dispatched: Dispatched,
  relay: RelayContext,
): Promise<void> {
  const { operation, inspection, translated, api } = dispatched;
  // The log keeps no transcripts, whatever their form.
  const notes = operation.audio === undefined ? dispatched.notes : undefined;
  const messages = api === 'anthropic' ? new MessageUsage(notes) : undefined;
  const chunks = new StreamUsage(inspection.hideUsage, notes);
  const usage = messages ?? chunks;
  dispatched.counts = () => usage.counts(inspection.promptTokensEstimate);
  dispatched.complete = () => translated?.writer.done ?? usage.done;
  if (translated !== undefined) await translateStream(response, reply, usage, translated, relay);
  else if (messages !== undefined) await relayMessageStream(response, reply, messages, relay);
  else await relayStream(response, reply, chunks, relay);
  dispatched.outcome = usage.failed ? 'upstream-error' : 'ok';
}

async function relayWhole(
  response: UpstreamAnswer,
  reply: Reply,
  dispatched: Dispatched,
  relay: RelayContext,
): Promise<void> {
  const { operation, inspection, translated, api, notes } = dispatched;
  const { generates } = operation;
  const estimate = inspection.promptTokensEstimate;
  if (translated !== undefined && generates) {
    const usage = new AnswerCounter(notes);
    dispatched.counts = () => usage.counts(estimate);
    await translateDocument(response, reply, usage, translated, relay);
  } else if (translated === undefined && api === 'anthropic') {
    const usage = new MessageUsage(notes);
    // A token count uses no tokens.
    dispatched.counts = () => (generates ? usage.counts(estimate) : NO_TOKENS);
    await relayMessage(response, reply, usage, relay);
  } else {
    // Vectors call no tools.
    const usage = new DocumentUsage(generates ? notes : undefined);
    // Audio, or a transcript in another form, may look like usage without being any.
    const isBytes = operation.audio !== undefined && !isJson(response);
    if (!isBytes) dispatched.counts = () => usage.counts(estimate, generates);
    if (translated !== undefined) await translateDocument(response, reply, usage, translated, relay);
    else await relayDocument(response, reply, usage, relay, isBytes);
  }
  dispatched.outcome = 'ok';
}

/** Forwards an unsuccessful answer, or the estimate in place of a token count. */
export async function relayRefusal(
  response: UpstreamAnswer,
  reply: Reply,
  dispatched: Dispatched,
  { apiKey, limits }: RelayContext,
  log: Log,
  { name: upstream, onDenied }: Pick<UpstreamTarget, 'name' | 'onDenied'>,
): Promise<void> {
  const { statusCode: status } = response;
  const { estimate } = dispatched.inspection;
  dispatched.outcome = 'upstream-error';
  dispatched.counts = () => NO_TOKENS;
  if (estimate !== undefined && NO_COUNT.includes(status)) {
    reply.json(200, estimate);
    return;
  }
  if (status === 401) onDenied?.();
  if (status === 401 || status === 403) {
    const remedy = 'check its key on the host: NEUROVISOR_UPSTREAM_KEY, or `key` in models.toml';
    log.warn('the model server denied a request', { upstream, status, remedy });
  }
  const { operation, translated } = dispatched;
  const form = { translation: translated?.translation, audioPath: audioPathOf(operation) };
  await relayError(response, reply, apiKey, limits, form);
}

const isJson = ({ headers }: UpstreamAnswer): boolean => /^application\/json\b/i.test(headers['content-type'] ?? '');

const audioPathOf = ({ audio, upstreamPath }: Operation): string | undefined =>
  audio === undefined ? undefined : `/v1${upstreamPath}`;
