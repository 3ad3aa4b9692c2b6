/** New sandboxes: from requests, templates and snapshots, and as forks. */
import { describeError } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { orAborted } from '../../base/time-limit.ts';
import { passiveTracer, type Tracer } from '../../base/trace/trace.ts';
import { check, inRange } from '../contract/checks.ts';
import type { CreateRequest, ForkOptions, ForkResult, SandboxInfo } from '../contract/control.ts';
import { BusyError, SandboxError, translateStoreErrors } from '../contract/errors.ts';
import { RANGES } from '../contract/limits.ts';
import { checkRequest, type LifetimePolicy, lifetimePolicyOf, type Provenance } from '../contract/request.ts';
import { requireValues } from '../contract/secrets.ts';
import { withoutIdentity } from '../contract/spec.ts';
import { openGate, requireUncordoned } from '../start/start-gate.ts';
import type { Starter, StarterParts } from '../start/starter.ts';
import type { NamedTemplate } from '../start/template.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { type ForkStart, startForks } from './forks.ts';
import { ManagedSandbox } from './managed.ts';
import type { ManagedParts } from './managed-parts.ts';
import { requireNoVolumes } from './snapshot-row.ts';

export interface CreatorParts extends StarterParts {
  /**
   * What the template of this name is made of, and the request with that.
   * @throws SandboxError `not_found`, `spec_invalid`: the request wants something else
   */
  fromNamedTemplate(name: string, request: CreateRequest): Promise<FromTemplate>;
}

/** Typical time until the next daemon answers. */
const RETRY_STOPPED_MS = 10_000;

export interface FromTemplate {
  readonly request: CreateRequest;
  readonly named: NamedTemplate;
}

export class SandboxCreator {
  readonly #parts: CreatorParts;
  readonly #starter: Starter;
  readonly #managed: ManagedParts<ManagedSandbox>;
  readonly #tracer: Tracer;
  /** Creations and forks under way. */
  readonly #starts = new Set<Promise<unknown>>();
  readonly #closer = new AbortController();
  /** Set once no start is admitted any more. */
  #refusal: SandboxError | undefined;

  constructor(parts: CreatorParts, starter: Starter, managed: ManagedParts<ManagedSandbox>) {
    this.#parts = parts;
    this.#starter = starter;
    this.#managed = managed;
    this.#tracer = parts.tracer ?? passiveTracer();
  }

  async create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    this.#requireNew();
    return await this.#track(this.#createFrom(request, signal));
  }

  async fork(find: () => Promise<ManagedSandbox>, options: ForkOptions): Promise<readonly ForkResult[]> {
    inRange('count', options.count, RANGES.forks);
    const { name, timeoutMs, metadata } = options;
    checkRequest({ name, timeoutMs, metadata });
    check(name === undefined || options.count === 1, 'name', 'only one fork can have it; omit it, or the count');
    this.#requireNew();
    return await this.#track(this.#fork(await find(), options));
  }

  /** Creations and forks under way. */
  get starting(): number {
    return this.#starts.size;
  }

  get isOpen(): boolean {
    return this.#refusal === undefined;
  }

  /** @throws SandboxError `busy`, `cancelled`: the host is shutting down */
  requireOpen(): void {
    if (this.#refusal !== undefined) throw this.#refusal;
  }

  #requireNew(): void {
    this.requireOpen();
    requireUncordoned(this.#parts.gate ?? openGate);
  }

  /** The signal, which then also aborts when the host shuts down. */
  untilClosed(signal?: AbortSignal): AbortSignal {
    return AbortSignal.any([this.#closer.signal, ...(signal === undefined ? [] : [signal])]);
  }

  /** Refuses starts from now on, for a client to retry, and waits for those under way; cancels them once `until` aborts. */
  async drain(until: AbortSignal): Promise<void> {
    this.#refusal ??= new BusyError('the daemon is stopping', RETRY_STOPPED_MS);
    const over = Promise.all([this.#parts.queue.close(this.#refusal), this.#starter.pools.close(), ...this.#starts]);
    try {
      await orAborted(over, until);
    } catch (error) {
      ignore(error, 'starts that take too long end without their sandboxes');
      this.#closer.abort(closing());
      await over;
    }
  }

  /** Cancels all starts, also those of pools, and waits for them. */
  async close(): Promise<void> {
    this.#refusal ??= closing();
    this.#closer.abort(closing());
    await Promise.all([this.#parts.queue.close(), this.#starter.pools.close(), ...this.#starts]);
  }

  async #createFrom(asked: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    const { request, named } = await this.#fromTemplate(asked);
    // For a snapshot the maximum is known only later; without one, `grow` acts as `warn`.
    const canGrow = request.memoryMaxMib !== undefined || request.snapshot !== undefined;
    checkRequest(request, canGrow);
    return await this.#tracer.span('create', {}, async (span) => {
      const info = await this.#create(request, named, this.untilClosed(signal));
      span.set({ 'neurovisor.sandbox.id': info.id, 'neurovisor.sandbox.origin': info.origin });
      this.#tracer.note(info.id, span.context);
      return info;
    });
  }

  async #fromTemplate(
    request: CreateRequest,
  ): Promise<{ readonly request: CreateRequest; readonly named: NamedTemplate | null }> {
    const { template } = request;
    if (template === undefined) return { request, named: null };
    return await this.#parts.fromNamedTemplate(template, request);
  }

  async #create(request: CreateRequest, named: NamedTemplate | null, signal: AbortSignal): Promise<SandboxInfo> {
    const askedAtMs = this.#parts.clock.now();
    const { snapshot } = request;
    await using held = snapshot === undefined ? null : await this.#managed.snapshots.openNamed(snapshot);
    const started =
      held === null
        ? await this.#starter.start(request, signal, named)
        : await held.orDamage(this.#starter.startFromSnapshot(request, held, signal));
    const provenance = {
      origin: started.origin,
      snapshot: held?.row.id ?? null,
      template: request.template ?? null,
      parent: null,
    };
    return await this.#adopt({ ...started, askedAtMs }, lifetimePolicyOf(request), provenance, signal);
  }

  async #fork(parent: ManagedSandbox, options: ForkOptions): Promise<readonly ForkResult[]> {
    // Forks read along.
    requireNoVolumes({ volumes: parent.spec.volumes.filter(({ readOnly }) => readOnly !== true) });
    if (parent.spec.network !== null) requireValues(parent.id, parent.spec.secrets);
    const startOne = (start: ForkStart): Promise<ForkResult> => this.#forkOne(parent, start, options);
    return await startForks(parent, options.count, startOne, this.#closer.signal);
  }

  async #forkOne(
    parent: ManagedSandbox,
    { source, parentReturned, signal }: ForkStart,
    options: ForkOptions,
  ): Promise<ForkResult> {
    const askedAtMs = this.#parts.clock.now();
    const { timeoutMs = parent.policy.timeoutMs, metadata = parent.policy.metadata } = options;
    try {
      const spec = { ...this.#parts.makeSpec({}), ...withoutIdentity(parent.spec) };
      const { annotations } = parent.policy;
      const owner = { annotations, resumes: null, copies: options.count };
      const supervisor = await this.#starter.startFrom(spec, source, owner, signal);
      await parentReturned;
      const policy = { ...parent.policy, name: options.name ?? null, timeoutMs, metadata };
      const provenance = {
        origin: 'fork',
        snapshot: null,
        template: parent.provenance.template,
        parent: parent.id,
      } as const;
      const sandbox = await this.#adopt({ supervisor, askedAtMs }, policy, provenance, signal);
      return { ok: true, sandbox };
    } catch (error) {
      const code = error instanceof SandboxError ? error.code : 'start_failed';
      return { ok: false, code, message: describeError(error) };
    }
  }

  /** Stops the VM instead if the request was cancelled meanwhile. */
  async #adopt(
    { supervisor, askedAtMs }: { supervisor: Supervisor; askedAtMs: number },
    policy: LifetimePolicy,
    provenance: Omit<Provenance, 'createdAtMs'>,
    signal: AbortSignal,
  ): Promise<SandboxInfo> {
    if (signal.aborted) {
      await supervisor.stop();
      this.#parts.gate?.abandoned(supervisor.spec.id);
      throw new SandboxError('cancelled', 'starting the sandbox was cancelled');
    }
    const { clock, gate } = this.#parts;
    // What the request itself named was judged before; a default, or that of a fork's original, was not.
    const most = gate?.timeoutMaxMs(policy.annotations) ?? null;
    const timeoutMs = most === null ? policy.timeoutMs : Math.min(policy.timeoutMs ?? most, most);
    const sandbox = await ManagedSandbox.started(this.#managed, {
      supervisor,
      policy: { ...policy, timeoutMs },
      readyMs: clock.now() - askedAtMs,
      provenance: { ...provenance, createdAtMs: Math.round(clock.wall()) },
    });
    return sandbox.info();
  }

  /** Lets `close` wait for the work. */
  async #track<T>(work: Promise<T>): Promise<T> {
    const settled = work.catch((error: unknown) => ignore(error, 'reported to the caller'));
    this.#starts.add(settled);
    try {
      return await translateStoreErrors(work);
    } finally {
      this.#starts.delete(settled);
    }
  }
}

function closing(): SandboxError {
  return new SandboxError('cancelled', 'the host is shutting down');
}
