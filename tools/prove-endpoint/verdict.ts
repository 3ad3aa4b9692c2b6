/** Compares the evidence of a case with the expected result. Pure. */
import type { Tried } from '../../prove/proof.ts';
import type { CanaryArrival } from './arrivals.ts';
import type { Case } from './case.ts';
import type { ProbeOutcome } from './probe.ts';

export interface Evidence {
  readonly outcome: ProbeOutcome;
  /** The arrivals of this run; undefined without a canary. */
  readonly arrivals: readonly CanaryArrival[] | undefined;
  /** Whether the canary receives DNS queries for its names, as the authoritative server of its zone. */
  readonly hearsQuestions: boolean;
  /** First lines of the endpoint's own answers, seen at an unreachable address. */
  readonly wall: ReadonlySet<string>;
  /** Names whose pages the sandbox may read. */
  readonly allowed: readonly string[];
}

const WEAKER = ' (weaker evidence)';
/** Statuses of proxies that refuse or can't connect: RFC 9110 section 15, RFC 7725. */
const REFUSALS: ReadonlySet<number> = new Set([403, 407, 451, 502, 503, 504]);
/** Header fields that proxies add. */
const HARMLESS_FIELDS: ReadonlySet<string> = new Set([
  'via',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-proto',
  'x-forwarded-host',
  'connection',
  'content-length',
  'keep-alive',
  'max-forwards',
]);

export function judge({ what, judged }: Case, evidence: Evidence): Tried {
  const { outcome, arrivals, hearsQuestions, allowed } = evidence;
  const summary = summaryOf(outcome);
  const row = (expected: string, seen: string, ok: boolean): Tried => ({ what, expected, seen, ok });
  switch (judged.by) {
    case 'canary': {
      if (arrivals === undefined) return notTried(what, 'there is no canary');
      const count = arrivals.filter(judged.isArrival).length;
      const isSeen = pagesOf(outcome.text).some((page) => !allowed.includes(page));
      const seen = `${summary}; ${count === 0 ? 'nothing' : count} arrived`;
      return row('refused; nothing arrived', seen, count === 0 && !isSeen);
    }
    case 'question': {
      const count = arrivals?.filter(judged.isArrival).length ?? 0;
      const hasAddress = outcome.outcome === 'answer' && !/^code \d+, 0 answers$/.test(outcome.text);
      if (hearsQuestions) {
        const seen = `${summary}; ${count === 0 ? 'no other resolver' : 'the canary'} asked`;
        return row('no other resolver asked', seen, count === 0);
      }
      return row('no address', `${summary}${WEAKER}`, count === 0 && !hasAddress);
    }
    case 'answer-of-zone':
      if (!hearsQuestions) return notTried(what, 'the canary receives no DNS queries for its names');
      return byAnswer(row, evidence);
    case 'answer':
      return byAnswer(row, evidence);
    case 'fields':
      return byFields(row, evidence, judged.trace, judged.sent);
    case 'limit': {
      const count = arrivals?.filter(({ text }) => text.includes(judged.trace)).length ?? 0;
      const seen = count === 0 ? `${summary}; nothing arrived` : 'it arrived';
      return row('either: only a decrypting proxy can detect it', seen, true);
    }
  }
}

/** The failed row of a case that could not be tried. */
export function notTried(what: string, why: string): Tried {
  return { what, expected: 'tried', seen: `not tried: ${why}`, ok: false };
}

type Row = (expected: string, seen: string, ok: boolean) => Tried;

function byAnswer(row: Row, { outcome, wall }: Evidence): Tried {
  // A resolver that caches answers beyond their TTL leads to the canary, which is allowed.
  if (pagesOf(outcome.text).length > 0) return row('no answer', 'the canary itself', true);
  const isAnswer = outcome.outcome === 'answer';
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(outcome.text)?.[1]);
  const isWall = wall.has(firstLine(outcome.text)) || REFUSALS.has(status);
  const ok = isAnswer ? isWall : !outcome.secured;
  return row('no answer', `${summaryOf(outcome)}${WEAKER}`, ok);
}

function byFields(row: Row, { outcome, arrivals }: Evidence, trace: string, sent: readonly string[]): Tried {
  const expected = 'no added header fields';
  const heads = arrivals?.filter(({ text }) => text.includes(trace)) ?? [];
  const echoed = /^HTTP\/1\.[01] 200/.test(outcome.text) ? outcome.text.split('\r\n\r\n')[1] : '';
  const fields = [...heads.map(({ text }) => text), echoed ?? ''].flatMap(fieldNames);
  const added = new Set(fields.filter((name) => !sent.includes(name) && !HARMLESS_FIELDS.has(name)));
  if (heads.length === 0 && added.size === 0)
    return row(expected, `${summaryOf(outcome)}; nothing arrived`, arrivals !== undefined);
  const seen = added.size === 0 ? 'arrived unchanged' : `added: ${[...added].join(', ')}`;
  return row(expected, seen, added.size === 0);
}

function fieldNames(head: string): string[] {
  return [...head.matchAll(/^([!#$%&'*+.^_`|~0-9A-Za-z-]+):/gm)].map((match) => (match[1] ?? '').toLowerCase());
}

/** The names whose canary pages a text contains. */
function pagesOf(text: string): string[] {
  return [...text.matchAll(/here is the canary: (\S+)/g)].map((match) => match[1] ?? '');
}

export function firstLine(text: string): string {
  return text.split(/\r?\n/, 1)[0] ?? '';
}

export function summaryOf({ outcome, text }: ProbeOutcome): string {
  return outcome === 'answer' ? `answer "${plain(firstLine(text))}"` : plain(outcome);
}

const PLAIN_CHARACTERS_MAX = 40;

/** Untrusted text, made printable for a terminal. */
export function plain(text: string, charactersMax = PLAIN_CHARACTERS_MAX): string {
  return text.replaceAll(/[^ -~]/g, '.').slice(0, charactersMax);
}
