/**
 * Sits between the bridge and its model servers while recording or playing. An exchange asks the tape before it chooses
 * a model, and reads its answer through it. All dialects pass here.
 *
 *     exchange ── begin ──► Recorder ──► model server       the answer passes, and is kept
 *                      └──► Player                          the answer comes from the cassette
 */
import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import { accepted, type Checked, type Refusal, refused } from '../../../base/http/refusal.ts';
import type { Dialect, Inspection, Operation } from '../dialect/dialect.ts';
import { parseObject } from '../json-body.ts';
import type { UpstreamApi } from '../upstream/address.ts';
import type { TapedRequest } from './normal-form.ts';

/** An answer from a model server or a cassette. */
export interface UpstreamAnswer extends Readable {
  readonly statusCode?: number | undefined;
  readonly headers: IncomingHttpHeaders;
  /** False if it broke off. */
  readonly complete: boolean;
}

export interface Tape {
  /** Opens the tape for one port; each port plays from the beginning. */
  open(sandboxId: string): PortTape;
}

export interface PortTape {
  /** Refused if the request has no recorded answer, or a refusal was recorded. */
  begin(request: TapedRequest): Checked<Track>;
}

export interface Track {
  /** The upstream's name for the model that is played; `null` if the bridge chooses one. */
  readonly model: string | null;
  readonly api: UpstreamApi;
  /** Hexadecimal; equal when it is recorded and when it is played. */
  readonly answerId: string;
  /** The recorded answer; `null` if the model server must be asked. */
  play(): UpstreamAnswer | null;
  /** Records the answer that the guest gets. @returns the answer, to be read instead */
  keep(answer: UpstreamAnswer, from: AnsweredBy): UpstreamAnswer;
  /** Records that the bridge has refused the request, since it has no such model. */
  refuse(refusal: Refusal): void;
}

export interface AnsweredBy {
  readonly model: string;
  readonly api: UpstreamApi;
  /** The host's key, which no cassette may get. */
  readonly apiKey: string | undefined;
}

/** Not for a request that reaches no upstream. @param tape undefined to pass the request @param body already checked */
export function beginTrack(
  tape: PortTape | undefined,
  { name: dialect }: Dialect,
  { name: operation, audio }: Operation,
  { model, stream, idle }: Inspection,
  body: Buffer,
): Checked<Track | undefined> {
  if (tape === undefined || idle !== undefined) return accepted(undefined);
  if (audio !== undefined) {
    const message =
      'Audio is neither recorded nor played: a cassette has text only. Run without --record and --replay.';
    return refused(400, 'audio_not_recorded', message);
  }
  const value = parseObject(body.toString('utf8')) ?? {};
  return tape.begin({ dialect, operation, model: model ?? null, stream, body: value });
}
