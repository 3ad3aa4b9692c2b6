/** The warm pools of a host, one per template. */
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import { timeLimit, wait } from '../../base/time-limit.ts';
import type { PoolInfo, PoolLimits, SandboxInfo } from '../contract/control.ts';
import type { CloneSource } from '../contract/parts.ts';
import type { TemplateSpec } from '../contract/spec.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { Handover } from './start-queue.ts';
import { type PoolMember, WarmPool } from './warm-pool.ts';

export interface OpenTemplate {
  readonly key: string;
  readonly spec: TemplateSpec;
  /** The guest's warm list: `spec`'s, plus the modules of its packages. A clone with another list imports anew. */
  readonly warm: readonly string[];
  /** False if the image can't run scripts. */
  readonly hasPython: boolean;
  readonly source: CloneSource;
}

export interface Started {
  readonly supervisor: Supervisor;
  readonly origin: SandboxInfo['origin'];
  /** False for a pool member that has yet to be bound to the request. */
  readonly isBound: boolean;
}

interface Member extends PoolMember, Started {}

interface Pool {
  template: OpenTemplate;
  readonly handover: Handover<Started>;
  readonly warm: WarmPool<Member>;
  /** The template's name when the pool was last set. */
  name: string | null;
  /** Time of the last claim that found a member. */
  claimedAtMs: number;
}

export interface PoolsOptions {
  readonly clock: Clock;
  readonly log: Log;
  start(template: OpenTemplate, signal: AbortSignal): Promise<Supervisor>;
  /** Runs `work` when a start of that size does not delay a request. */
  turn(template: OpenTemplate, signal: AbortSignal, work: (signal: AbortSignal) => Promise<void>): Promise<void>;
}

/**
 * Members rehearse what a claim and a first script need: in software emulation, code is several times slower on its
 * first run.
 */
const FIRST_SCRIPT = 'print(1)';
const REHEARSALS = 2;
/** On a small host, an immediate refill would delay the claimer's first operation. */
export const REFILL_DELAY_MS = 200;
const FIRST_SCRIPT_MS_MAX = 30_000;

export class Pools {
  readonly #options: PoolsOptions;
  readonly #pools = new Map<string, Pool>();
  /** Removed pools whose last members are still ending. */
  readonly #leaving = new Set<Promise<void>>();

  constructor(options: PoolsOptions) {
    this.#options = options;
  }

  /** @param fits returns false for a member that no request can use any more; it ends */
  claim(key: string, fits: (member: Started) => boolean): Started | undefined {
    const pool = this.#pools.get(key);
    const claimed = pool?.warm.claim(fits);
    if (pool !== undefined && claimed !== undefined) pool.claimedAtMs = this.#options.clock.now();
    return claimed;
  }

  /** For a rebuilt template: the files that a pool of its key started from no longer exist. */
  renew(template: OpenTemplate): void {
    const pool = this.#pools.get(template.key);
    if (pool !== undefined) pool.template = template;
  }

  /** Hands new members to waiting requests. */
  handover(key: string): Handover<Started> | undefined {
    return this.#pools.get(key)?.handover;
  }

  /**
   * Limits of 0 remove the pool.
   * @param name the template's name; a pool of that name with another key belongs to an older template, and ends
   */
  async set(template: OpenTemplate, limits: PoolLimits, name: string | null): Promise<PoolInfo> {
    await this.#endBefore(template.key, name);
    this.renew(template);
    const known = this.#pools.get(template.key);
    if (known !== undefined) known.warm.setLimits(limits);
    const pool = known ?? this.#make(template, limits);
    if (name !== null) pool.name = name;
    this.#pools.set(template.key, pool);
    const info = infoOf(pool);
    if (limits.max > 0) return info;
    this.#pools.delete(template.key);
    await this.#end(pool);
    return { ...info, target: 0, ready: 0, starting: 0 };
  }

  readyMembers(): number {
    return this.list().reduce((sum, { ready }) => sum + ready, 0);
  }

  /** Ends one member of the largest pool; resolves when it has ended. The pool makes another once memory allows it. */
  async endMember(): Promise<void> {
    const pools = [...this.#pools.values()].map(({ warm }) => warm);
    const [fullest] = pools.toSorted((a, b) => b.stats().ready - a.stats().ready);
    await fullest?.endMember();
  }

  list(): readonly PoolInfo[] {
    return [...this.#pools.values()].map(infoOf);
  }

  async close(): Promise<void> {
    const ending = [...this.#pools.values()].map((pool) => this.#end(pool));
    this.#pools.clear();
    await Promise.all([...ending, ...this.#leaving]);
  }

  async #endBefore(key: string, name: string | null): Promise<void> {
    if (name === null) return;
    for (const [other, pool] of this.#pools) {
      if (other === key || pool.name !== name) continue;
      this.#pools.delete(other);
      await this.#end(pool);
    }
  }

  async #end({ warm }: Pool): Promise<void> {
    const ending = warm.close();
    this.#leaving.add(ending);
    await ending;
    this.#leaving.delete(ending);
  }

  #make(template: OpenTemplate, limits: PoolLimits): Pool {
    const { clock, log, start, turn } = this.#options;
    const handover = new Handover<Started>();
    const warm = new WarmPool<Member>({
      make: async (signal) => {
        const { template: current } = pool;
        const supervisor = await start(current, signal);
        using limit = timeLimit(clock, FIRST_SCRIPT_MS_MAX, signal);
        return await memberOf(supervisor, current, limit.signal);
      },
      turn: async (signal, work) => {
        await wait(clock, pool.claimedAtMs + REFILL_DELAY_MS - clock.now(), signal);
        await turn(template, signal, work);
      },
      offer: (member) => handover.offer(member),
      limits,
      clock,
      log,
    });
    const claimedAtMs = Number.NEGATIVE_INFINITY;
    const pool: Pool = { template, handover, warm, name: null, claimedAtMs };
    return pool;
  }
}

async function memberOf(supervisor: Supervisor, { hasPython }: OpenTemplate, signal: AbortSignal): Promise<Member> {
  try {
    const guest = supervisor.guest();
    for (let n = 0; n < REHEARSALS; n += 1) {
      await guest.update({}, signal);
      // The next update is the last one: the claim's.
      guest.expectUpdate();
      if (!hasPython) continue;
      const script = { code: FIRST_SCRIPT };
      const process = await guest.python({ script, stdin: false }, signal);
      process.stdout.resume();
      process.stderr.resume();
      await process.exit;
    }
  } catch (error) {
    await supervisor.stop();
    throw error;
  }
  return {
    id: supervisor.spec.id,
    supervisor,
    origin: 'pool',
    isBound: false,
    ended: supervisor.ended,
    isAlive: () => supervisor.isAlive(),
    check: async () => {
      const guest = supervisor.guest();
      await guest.update({});
      guest.expectUpdate();
    },
    discard: () => supervisor.stop(),
  };
}

function infoOf({ template, warm, name }: Pool): PoolInfo {
  const { handedOver: _, ...stats } = warm.stats();
  return { template: template.key, name, spec: template.spec, ...stats };
}
