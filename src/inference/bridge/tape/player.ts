/** Answers requests from a cassette, in the order of recording, without a model server. */
import { accepted, type Checked, refused } from '../../../base/http/refusal.ts';
import type { UpstreamTarget } from '../upstream/address.ts';
import type { Cassette, TapedAnswer } from './cassette.ts';
import { describeNearest } from './difference.ts';
import { normalRequest, requestKey, type TapedRequest } from './normal-form.ts';
import { PlayedAnswer } from './played-answer.ts';
import { answerIdOf } from './stable-answer.ts';
import type { PortTape, Tape, Track } from './tape.ts';

export interface MissingAnswer {
  readonly sandboxId: string;
  readonly dialect: string;
  readonly operation: string;
  readonly model: string | null;
  readonly difference: string;
}

const MISSING_KEPT_MAX = 100;

export class Player implements Tape {
  readonly #requests: readonly TapedRequest[];
  readonly #answers = new Map<string, TapedAnswer[]>();
  readonly #missing: MissingAnswer[] = [];
  #missingCount = 0;
  #playedCount = 0;

  /** Replaces the model server; nothing listens there. */
  readonly target: UpstreamTarget;

  constructor({ defaultModel, exchanges }: Cassette) {
    const used = exchanges.map(({ request, answer }) => ('model' in answer ? request.model : null));
    const models = [...new Set([defaultModel, ...used])].filter((name) => name !== null);
    this.target = { name: 'The cassette', socketPath: '/dev/null/none', models };
    this.#requests = exchanges.map(({ request }) => request);
    for (const { request, answer } of exchanges) {
      const key = requestKey(request);
      const answers = this.#answers.get(key) ?? [];
      answers.push(answer);
      this.#answers.set(key, answers);
    }
  }

  /** The first requests without an answer. */
  get missing(): readonly MissingAnswer[] {
    return this.#missing;
  }

  get missingCount(): number {
    return this.#missingCount;
  }

  get playedCount(): number {
    return this.#playedCount;
  }

  open(sandboxId: string): PortTape {
    const counts = new Map<string, number>();
    return {
      begin: (request) => {
        const normal = normalRequest(request);
        const key = requestKey(normal);
        const count = counts.get(key) ?? 0;
        const answers = this.#answers.get(key) ?? [];
        const answer = answers[count];
        if (answer === undefined) return this.#miss(sandboxId, normal, answers.length);
        counts.set(key, count + 1);
        this.#playedCount += 1;
        return track(answer, answerIdOf(key, count));
      },
    };
  }

  #miss(sandboxId: string, asked: TapedRequest, known: number): Checked<Track> {
    const times = known === 1 ? 'one answer, which was' : `${known} answers, which were all`;
    const difference = known > 0 ? `It has ${times} played already.` : describeNearest(this.#requests, asked);
    const { dialect, operation, model } = asked;
    this.#missingCount += 1;
    if (this.#missing.length < MISSING_KEPT_MAX) {
      this.#missing.push({ sandboxId, dialect, operation, model, difference });
    }
    return refused(
      400,
      'not_in_cassette',
      `The cassette has no answer to this request. ${difference} Record it again.`,
    );
  }
}

function track(answer: TapedAnswer, answerId: string): Checked<Track> {
  if ('refusal' in answer) {
    const { param, ...refusal } = answer.refusal;
    const more = param === undefined ? {} : { param };
    return refused(refusal.status, refusal.code, refusal.message, more);
  }
  return accepted({
    model: answer.model,
    api: answer.api ?? 'openai',
    answerId,
    play: () => playedAnswer(answer),
    keep: (played) => played,
    refuse: () => undefined,
  });
}

function playedAnswer(answer: Exclude<TapedAnswer, { refusal: unknown }>): PlayedAnswer {
  const { status, cut: isCut = false } = answer;
  if ('events' in answer) {
    const chunks = eventTexts(answer.events);
    return new PlayedAnswer({ status, contentType: 'text/event-stream', chunks, isCut });
  }
  const { body } = answer;
  const isText = typeof body === 'string';
  const contentType = isText ? 'text/plain' : 'application/json';
  const chunks = [isText ? body : JSON.stringify(body)].values();
  return new PlayedAnswer({ status, contentType, chunks, isCut });
}

function* eventTexts(events: readonly (object | string)[]): Generator<string> {
  for (const event of events) {
    yield `${typeof event === 'string' ? event : `data: ${JSON.stringify(event)}`}\n\n`;
  }
}
