/**
 * Decides which names a sandbox may look up, and which answers it gets. Pure; `server.ts` moves the bytes.
 *
 *     question ─► limits ─► name allowed? ─► ask ─► follow aliases ─► addresses allowed? ─► pin ─► reply
 *                   │            │ no                    │ too many        │ none left
 *                REFUSED     NXDOMAIN, without       SERVFAIL          NXDOMAIN
 *                            a query
 *
 * No upstream sees a name that is not allowed, so names can't carry data out. No guest gets an address that is not
 * allowed, so names can't lead inside (rebinding).
 */
import type { Clock } from '../../../base/clock.ts';
import { FairShare, type FairShareLimits } from '../../../base/fairness/fair-share.ts';
import { type BucketLimit, TokenBucket } from '../../../base/token-bucket.ts';
import { parseHostName } from '../addresses/host-name.ts';
import { PIN_MARGIN_SECONDS, type Pin, type Pins, pinSeconds } from '../policy/pins.ts';
import type { NamePolicy, Verdict } from '../policy/verdict.ts';
import { DNS_CODE, DNS_TYPE, type DnsAnswer, type DnsQuestion, type DnsRecord, type DnsReply } from './message.ts';

export const ALIASES_MAX = 8;
/** Questions to upstreams per question of a guest; more than one only if an upstream does not follow aliases. */
export const ASKS_MAX = 4;
const ADDRESSES_PER_ANSWER_MAX = 32;

/**
 * Questions of all sandboxes that wait for an upstream; each takes a socket. A sandbox always has its guaranteed ones,
 * whatever others do.
 */
export const QUESTION_SHARES: FairShareLimits = { sumMax: 1024, ownMax: 32, guaranteed: 4, places: 128 };

interface NameLimits {
  readonly queries: BucketLimit;
  /** Questions of the sandbox that may wait for an upstream. */
  readonly inFlightMax: number;
}

const NAME_LIMITS: NameLimits = { queries: { size: 100, refillPerSecond: 20 }, inFlightMax: QUESTION_SHARES.ownMax };

type NameOutcome =
  | 'answered'
  /** No such record, or an unsupported type. */
  | 'empty'
  | 'name_refused'
  | 'address_refused'
  | 'query_limit'
  | 'pin_limit'
  | 'upstream_failed'
  | 'malformed';

export interface NameEvent {
  readonly name: string;
  readonly type: number;
  readonly outcome: NameOutcome;
  readonly why: string;
}

export interface SandboxNamesOptions {
  readonly policy: NamePolicy;
  readonly pins: Pins;
  readonly clock: Clock;
  readonly limits?: NameLimits;
  readonly sandboxId?: string;
  /** Shared with other sandboxes. Default: its own. */
  readonly questions?: FairShare;
  /** True if the sandbox has IPv6. Otherwise AAAA is empty and goes to no upstream. */
  readonly hasIpv6?: boolean;
  readonly onEvent?: (event: NameEvent) => void;
}

type Begun =
  | { readonly kind: 'reply'; readonly reply: DnsReply }
  | { readonly kind: 'ask'; readonly resolution: Resolution };

export type Step =
  | { readonly kind: 'ask'; readonly question: DnsQuestion }
  /** `pins` must be in the packet filter before the guest sees the reply. */
  | { readonly kind: 'done'; readonly reply: DnsReply; readonly pins: readonly Pin[] };

export class SandboxNames {
  readonly pins: Pins;
  #policy: NamePolicy;
  readonly #clock: Clock;
  readonly #limits: NameLimits;
  readonly #bucket: TokenBucket;
  readonly #hasIpv6: boolean;
  readonly #onEvent: (event: NameEvent) => void;
  readonly #counts = new Map<NameOutcome, number>();
  readonly #sandboxId: string;
  readonly #questions: FairShare;

  constructor(options: SandboxNamesOptions) {
    this.pins = options.pins;
    this.#policy = options.policy;
    this.#clock = options.clock;
    this.#limits = options.limits ?? NAME_LIMITS;
    this.#bucket = new TokenBucket(this.#limits.queries, options.clock.now());
    this.#sandboxId = options.sandboxId ?? '';
    this.#questions = options.questions ?? new FairShare(QUESTION_SHARES);
    this.#hasIpv6 = options.hasIpv6 ?? false;
    this.#onEvent = options.onEvent ?? (() => undefined);
  }

  get policy(): NamePolicy {
    return this.#policy;
  }

  get inFlight(): number {
    return this.#questions.heldBy(this.#sandboxId);
  }

  counts(): ReadonlyMap<NameOutcome, number> {
    return this.#counts;
  }

  /** Applies to questions in flight too. Removes pins of names that the policy does not allow. */
  setPolicy(policy: NamePolicy): void {
    this.#policy = policy;
    this.pins.retain((name) => policy.allowsName(name).allowed);
  }

  /** A result with `ask` must be ended by `take` or `fail` of its resolution. */
  begin(question: DnsQuestion): Begun {
    const nowMs = this.#clock.now();
    const { name, type } = question;
    const reply = (code: DnsReply['code'], outcome: NameOutcome, why: string): Begun => {
      this.note({ name, type, outcome, why });
      return { kind: 'reply', reply: { code } };
    };
    if (!this.#bucket.tryOpen(nowMs)) return reply(DNS_CODE.refused, 'query_limit', 'too many queries');
    this.#bucket.spend(1);
    const verdict = judgeName(this.#policy, name);
    if (!verdict.allowed) return reply(DNS_CODE.noName, 'name_refused', verdict.why);
    const isZoneTransferOrAny = type >= DNS_TYPE.IXFR && type <= DNS_TYPE.ANY;
    if (isZoneTransferOrAny) return reply(DNS_CODE.notImplemented, 'empty', 'a query type for zones, not for names');
    const isAsked = type === DNS_TYPE.A || type === DNS_TYPE.CNAME || (type === DNS_TYPE.AAAA && this.#hasIpv6);
    // Includes HTTPS and SVCB, which would bring keys for Encrypted ClientHello, and other ports and addresses.
    if (!isAsked) return reply(DNS_CODE.ok, 'empty', 'only addresses and aliases are answered');
    const hold = this.#questions.take(this.#sandboxId, 1, this.#limits.inFlightMax);
    if (hold === undefined) return reply(DNS_CODE.refused, 'query_limit', 'too many queries at once');
    return { kind: 'ask', resolution: new Resolution(this, question, hold.release) };
  }

  note(event: NameEvent): void {
    this.#counts.set(event.outcome, (this.#counts.get(event.outcome) ?? 0) + 1);
    this.#onEvent(event);
  }
}

/** One question of a guest while upstreams answer it. */
class Resolution {
  readonly #names: SandboxNames;
  readonly #question: DnsQuestion;
  readonly #release: () => void;
  #current: string;
  #aliases = 0;
  #asks = 1;
  #ttlSeconds = Number.POSITIVE_INFINITY;
  #isDone = false;

  constructor(names: SandboxNames, question: DnsQuestion, release: () => void) {
    this.#names = names;
    this.#question = question;
    this.#release = release;
    this.#current = question.name;
  }

  get ask(): DnsQuestion {
    return { name: this.#current, type: this.#question.type };
  }

  /** @param answer to `ask`, checked by `isAnswerTo` */
  take(answer: DnsAnswer): Step {
    if (answer.code === DNS_CODE.noName && answer.records.length === 0)
      return this.#end(DNS_CODE.noName, 'empty', 'no such name');
    if (answer.code !== DNS_CODE.ok && answer.code !== DNS_CODE.noName)
      return this.fail(`the upstream answered with code ${answer.code}`);
    if (this.#question.type === DNS_TYPE.CNAME) return this.#alias(answer);
    const asked = this.#current;
    if (!this.#follow(answer)) return this.fail('too many aliases');
    const wanted = this.#question.type === DNS_TYPE.A ? 'A' : 'AAAA';
    const found = answer.records.flatMap((record) =>
      record.type === wanted && record.name === this.#current ? [record] : [],
    );
    if (found.length > 0) return this.#addresses(found);
    if (this.#current === asked || answer.code === DNS_CODE.noName)
      return this.#end(answer.code, 'empty', 'no such record');
    if (this.#asks >= ASKS_MAX) return this.fail('too many questions to upstreams');
    const alias = this.#names.policy.allowsName(this.#current);
    if (alias.isDenied === true) return this.#end(DNS_CODE.noName, 'name_refused', alias.why);
    this.#asks += 1;
    return { kind: 'ask', question: this.ask };
  }

  /** Call if no upstream gave a usable answer. */
  fail(why: string): Step {
    return this.#end(DNS_CODE.serverFailure, 'upstream_failed', why);
  }

  /** Follows the aliases of an answer. Returns false if there are too many, e.g. in a circle. */
  #follow(answer: DnsAnswer): boolean {
    for (;;) {
      const alias = answer.records.find((record) => record.type === 'CNAME' && record.name === this.#current);
      if (alias?.type !== 'CNAME') return true;
      this.#aliases += 1;
      if (this.#aliases > ALIASES_MAX) return false;
      this.#current = alias.target;
      this.#ttlSeconds = Math.min(this.#ttlSeconds, alias.ttlSeconds);
    }
  }

  #alias(answer: DnsAnswer): Step {
    const alias = answer.records.find((record) => record.type === 'CNAME' && record.name === this.#current);
    if (alias === undefined) return this.#end(DNS_CODE.ok, 'empty', 'no such record');
    const ttlSeconds = answerTtl(alias.ttlSeconds);
    return this.#end(DNS_CODE.ok, 'answered', '', [{ ...alias, ttlSeconds }]);
  }

  #addresses(found: readonly Extract<DnsRecord, { address: string }>[]): Step {
    const { name } = this.#question;
    const { policy } = this.#names;
    // Judged again: the policy may have changed, and an alias must not bypass a rule.
    const verdict = judgeName(policy, name);
    if (!verdict.allowed) return this.#end(DNS_CODE.noName, 'name_refused', verdict.why);
    if (this.#current !== name) {
      const target = policy.allowsName(this.#current);
      if (target.isDenied === true) return this.#end(DNS_CODE.noName, 'name_refused', target.why);
    }
    let refusal = '';
    const kept = new Map<string, Extract<DnsRecord, { address: string }>>();
    for (const record of found) {
      const judged = policy.allowsAddress(record.address);
      if (!judged.allowed) refusal = judged.why;
      else if (kept.size < ADDRESSES_PER_ANSWER_MAX) kept.set(record.address, record);
    }
    if (kept.size === 0) return this.#end(DNS_CODE.noName, 'address_refused', refusal);
    const ttl = Math.min(this.#ttlSeconds, ...[...kept.values()].map((each) => each.ttlSeconds));
    const pinned = this.#names.pins.pin(name, [...kept.keys()], ttl);
    if (!pinned.ok) return this.#end(DNS_CODE.refused, 'pin_limit', pinned.reason);
    const ttlSeconds = answerTtl(ttl);
    const records = [...kept.values()].map((record) => ({ ...record, name, ttlSeconds }));
    return this.#end(DNS_CODE.ok, 'answered', refusal, records, pinned.pins);
  }

  #end(
    code: DnsReply['code'],
    outcome: NameOutcome,
    why: string,
    records: readonly DnsRecord[] = [],
    pins: readonly Pin[] = [],
  ): Step {
    if (!this.#isDone) {
      this.#isDone = true;
      this.#release();
      this.#names.note({ ...this.#question, outcome, why });
    }
    return { kind: 'done', reply: { code, records }, pins };
  }
}

/**
 * True if this answers the question: by id, question and, over UDP where anyone can send, the random case of the
 * letters.
 */
export function isAnswerTo(
  answer: DnsAnswer,
  asked: { readonly id: number; readonly spelled: string; readonly type: number },
  transport: 'udp' | 'tcp',
): boolean {
  if (answer.id !== asked.id || answer.question.type !== asked.type) return false;
  return transport === 'udp' ? answer.spelled === asked.spelled : answer.question.name === asked.spelled.toLowerCase();
}

/** Writes each letter in a random case ("0x20"): about 10 more bits for a forger to guess. */
export function spellAtRandom(name: string, isUpper: () => boolean): string {
  return name.replace(/[a-z]/g, (letter) => (isUpper() ? letter.toUpperCase() : letter));
}

/** The guest's TTL, so that its cache expires before the pin does. */
function answerTtl(ttlSeconds: number): number {
  return Math.min(ttlSeconds, pinSeconds(ttlSeconds) - PIN_MARGIN_SECONDS);
}

function judgeName(policy: NamePolicy, name: string): Verdict {
  if (parseHostName(name) === undefined)
    return { allowed: false, isDenied: true, why: 'not a host name, or readable as an address' };
  return policy.allowsName(name);
}
