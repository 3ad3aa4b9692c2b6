/** One run of the suite: its sandboxes and the rows of its result (I/O). */

import { ProofError } from '../../prove/errors.ts';
import type { Tried } from '../../prove/proof.ts';
import { orAborted } from '../../src/base/time-limit.ts';
import type { Case } from './case.ts';
import type { Endpoint, NetworkPolicy, RemoteSandbox } from './client.ts';
import { type Probe, type ProbeOutcome, probeCommand, readOutcomes } from './probe.ts';
import { type Evidence, judge, plain, summaryOf } from './verdict.ts';

export interface SuiteRunOptions {
  /** Seconds without an answer that count as silence. Default 5. */
  readonly silenceSeconds?: number;
  /** Called for a sandbox that could not be ended; its own timeout ends it later. */
  readonly onLeft?: (sandboxId: string, error: unknown) => void;
}

const SILENCE_SECONDS = 5;

/** The evidence that all cases of one sandbox share. */
export type Common = Omit<Evidence, 'outcome'>;

/** Ends its sandboxes on disposal. */
export class SuiteRun implements AsyncDisposable {
  readonly tried: Tried[] = [];
  readonly #endpoint: Endpoint;
  readonly #options: SuiteRunOptions;
  readonly #signal: AbortSignal;
  /** Aborts commands that still run in sandboxes. */
  readonly #ending = new AbortController();
  readonly #sandboxes = new Set<RemoteSandbox>();

  constructor(endpoint: Endpoint, options: SuiteRunOptions, signal: AbortSignal) {
    this.#endpoint = endpoint;
    this.#options = options;
    this.#signal = signal;
  }

  get silenceSeconds(): number {
    return this.#options.silenceSeconds ?? SILENCE_SECONDS;
  }

  async create(policy: NetworkPolicy | undefined): Promise<RemoteSandbox> {
    this.#signal.throwIfAborted();
    // Not aborted half-way: without its id the sandbox could not be ended.
    const sandbox = await this.#endpoint.create(policy);
    this.#sandboxes.add(sandbox);
    this.#signal.throwIfAborted();
    return sandbox;
  }

  async kill(sandbox: RemoteSandbox): Promise<void> {
    this.#sandboxes.delete(sandbox);
    try {
      await sandbox.kill();
    } catch (error) {
      this.#options.onLeft?.(sandbox.id, error);
    }
  }

  async probe(sandbox: RemoteSandbox, probes: readonly Probe[]): Promise<readonly ProbeOutcome[]> {
    const command = probeCommand(probes, this.silenceSeconds);
    const stdout = await this.unlessAborted(sandbox.run(command, this.#ending.signal));
    const outcomes = readOutcomes(stdout, probes.length);
    if (outcomes !== undefined) return outcomes;
    const cause = new Error(`invalid output "${plain(stdout)}"`);
    throw new ProofError('endpoint_failed', 'could not read the results of the probes', { cause });
  }

  unlessAborted<T>(work: Promise<T>): Promise<T> {
    return orAborted(work, this.#signal);
  }

  control(what: string, content: string, outcome: ProbeOutcome | undefined, arrived = true): boolean {
    const isAnswer = outcome?.outcome === 'answer' && outcome.text.includes(content);
    const ok = isAnswer && arrived;
    const failure = outcome === undefined ? 'nothing' : summaryOf(outcome);
    const seen = ok ? `"${content}"` : isAnswer ? 'an answer, but nothing arrived' : failure;
    this.tried.push({ what: `control: ${what}`, expected: `"${content}"`, seen, ok });
    return ok;
  }

  judge(cases: readonly Case[], outcomes: readonly ProbeOutcome[], common: Common): void {
    for (const [index, each] of cases.entries()) {
      const outcome = outcomes[index];
      if (outcome !== undefined) this.tried.push(judge(each, { ...common, outcome }));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#sandboxes].map((sandbox) => this.kill(sandbox)));
    this.#ending.abort();
  }
}
