/**
 * The egress suite against an endpoint that speaks E2B's API: what its sandboxes reach, and whether that is
 * what their policy says (io).
 *
 *     runner ── E2B's client ──► endpoint ──► sandbox: probe.py ──?──► canary (a machine of ours)
 *        └───────────────────── what has arrived? ────────────────────────┘
 *
 * Four sandboxes, one after another: one with allowed names, one that may reach anything (a control), one
 * that may reach nothing, and one for which no policy is named.
 */
import { randomBytes } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { isIPv4 } from 'node:net';
import { get } from '../forged-requests.ts';
import { type Proof, SEEN_CHARACTERS_MAX, type Tried } from '../proof.ts';
import { ProofError } from '../prove.ts';
import type { CanaryArrival } from './arrivals.ts';
import { CANARY_CONTENT } from './canary.ts';
import { askArrivals, canaryControls } from './canary-client.ts';
import { NOBODY } from './canary-zone.ts';
import {
  allowedNames,
  type Case,
  closedCases,
  confinedCases,
  metadataCases,
  nameOf,
  privateCases,
  type Target,
  type Tracer,
  tracer,
} from './cases.ts';
import { aloneCases, type PublicNames } from './cases-alone.ts';
import {
  closedBut,
  type Endpoint,
  type EndpointOptions,
  type NetworkPolicy,
  openEndpoint,
  type RemoteSandbox,
} from './client.ts';
import { narrowing } from './narrowing.ts';
import { type Probe, type ProbeOutcome, probeCommand, readOutcomes } from './probe.ts';
import { type Evidence, firstLine, judge, notTried, plain, summaryOf } from './verdict.ts';

export interface SuiteOptions extends EndpointOptions {
  /** Address or name of a machine where `neurovisor prove canary` runs. */
  readonly canary?: string;
  /** Undefined: the canary's name. */
  readonly zone?: string;
  /** Without a canary. */
  readonly names?: PublicNames;
  /** How long silence must last to be called silence (default 5). */
  readonly silenceSeconds?: number;
  /** A sandbox that could not be ended: it ends by itself, later. */
  readonly onLeft?: (sandboxId: string, error: unknown) => void;
}

const SILENCE_SECONDS = 5;

/** @throws ProofError: it could not be tried; AbortError. No sandbox is left either way. */
export async function proveEndpoint(options: SuiteOptions, signal: AbortSignal): Promise<Proof> {
  const endpoint = await openEndpoint(options);
  await using run = new SuiteRun(endpoint, options, signal);
  if (options.canary !== undefined) await withCanary(run, await targetOf(options));
  else await alone(run, options.names);
  const tried = run.tried.map((row) => ({ ...row, seen: row.seen.slice(0, SEEN_CHARACTERS_MAX) }));
  return { name: 'egress', holds: tried.every(({ ok }) => ok), tried };
}

/** Sandboxes of one run, and what was seen in them. */
class SuiteRun implements AsyncDisposable {
  readonly tried: Tried[] = [];
  readonly #endpoint: Endpoint;
  readonly #options: SuiteOptions;
  readonly #signal: AbortSignal;
  /** What still runs in a sandbox must not keep us here. */
  readonly #ending = new AbortController();
  readonly #sandboxes = new Set<RemoteSandbox>();

  constructor(endpoint: Endpoint, options: SuiteOptions, signal: AbortSignal) {
    this.#endpoint = endpoint;
    this.#options = options;
    this.#signal = signal;
  }

  get silenceSeconds(): number {
    return this.#options.silenceSeconds ?? SILENCE_SECONDS;
  }

  async create(policy: NetworkPolicy | undefined): Promise<RemoteSandbox> {
    this.#signal.throwIfAborted();
    // Not given up half-way: nobody would know its id.
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
    const cause = new Error(`it says "${plain(stdout)}"`);
    throw new ProofError('endpoint_failed', 'read what the probes saw', { cause });
  }

  async unlessAborted<T>(work: Promise<T>): Promise<T> {
    const aborted = Promise.withResolvers<never>();
    const abort = (): void => aborted.reject(this.#signal.reason);
    if (this.#signal.aborted) abort();
    this.#signal.addEventListener('abort', abort, { once: true });
    try {
      return await Promise.race([work, aborted.promise]);
    } finally {
      this.#signal.removeEventListener('abort', abort);
    }
  }

  control(
    what: string,
    content: string,
    outcome: ProbeOutcome | undefined,
    arrived = true,
  ): boolean {
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

type Common = Omit<Evidence, 'outcome'>;

async function withCanary(run: SuiteRun, target: Target): Promise<void> {
  const next = tracer(target.run);
  run.tried.push(...(await run.unlessAborted(canaryControls(target, next))));
  const common = await confined(run, target, next);
  await open(run, target, next);
  await closed(run, target, next, common);
}

async function confined(run: SuiteRun, target: Target, next: Tracer): Promise<Common> {
  const sandbox = await run.create(closedBut(allowedNames(target)));
  const allowed = nameOf(target, 'allowed');
  const [http, tls, hasWorked] = await controlled(
    run,
    target,
    next,
    sandbox,
    allowed,
    'the sandbox',
  );
  const walls = await run.probe(sandbox, wallProbes(nameOf(target, 'flip')));
  const before = await run.unlessAborted(askArrivals(target));
  const hearsQuestions = before.some(
    ({ protocol, text }) => protocol === 'dns' && text === allowed,
  );
  if (!http && !tls && !hasWorked)
    throw new ProofError('no_control', `reach ${allowed}, which the policy allows`, {
      remedy: `See that ${allowed} leads to the canary (${target.address}) and that the endpoint allows names.`,
    });
  const isHeard = hearsQuestions ? 'it is' : 'it is not: cases of names have weaker evidence';
  run.tried.push({
    what: `control: the canary is asked for the names of ${target.zone}`,
    ...{ expected: 'it is', seen: isHeard, ok: hearsQuestions },
  });
  const cases = confinedCases(target, next);
  const outcomes = await run.probe(
    sandbox,
    cases.map(({ probe }) => probe),
  );
  const common = {
    arrivals: await run.unlessAborted(askArrivals(target)),
    ...{ hearsQuestions, wall: wallOf(walls), allowed: [allowed] },
  };
  run.judge(cases, outcomes, common);
  run.tried.push(...(await narrowing(run, sandbox, target, next)));
  await run.kill(sandbox);
  return common;
}

/** @returns whether HTTP, TLS, and the name alone came to what they should */
async function controlled(
  run: SuiteRun,
  target: Target,
  next: Tracer,
  sandbox: RemoteSandbox,
  name: string,
  who: string,
): Promise<readonly [boolean, boolean, boolean]> {
  const [http, tls] = [next(), next()];
  const [named, byHttp, byTls] = await run.probe(sandbox, [
    { kind: 'name', name },
    { kind: 'tcp', host: name, port: 80, text: get(name, `/${http}`) },
    { kind: 'tls', host: name, port: 443, servername: name, text: get(name, `/${tls}`) },
  ]);
  const arrivals = await run.unlessAborted(askArrivals(target));
  const has = (trace: string): boolean => arrivals.some(({ text }) => text.includes(trace));
  const label = name.split('-', 1)[0];
  return [
    run.control(`${who} reaches the name "${label}" by HTTP`, CANARY_CONTENT, byHttp, has(http)),
    run.control(`${who} reaches the name "${label}" by TLS`, CANARY_CONTENT, byTls, has(tls)),
    run.control(`${who} is told where the name "${label}" leads`, target.address, named),
  ];
}

/** The same program, and no policy in its way. */
async function open(run: SuiteRun, target: Target, next: Tracer): Promise<void> {
  let sandbox: RemoteSandbox;
  try {
    sandbox = await run.create({ allowInternetAccess: true });
  } catch (error) {
    if (!(error instanceof ProofError)) throw error;
    run.tried.push(notTried('control: a sandbox that may reach anything', 'it is refused'));
    return;
  }
  const name = nameOf(target, 'other');
  await controlled(run, target, next, sandbox, name, 'a sandbox that may reach anything');
  await run.kill(sandbox);
}

async function closed(run: SuiteRun, target: Target, next: Tracer, common: Common): Promise<void> {
  const policies = [
    ['no internet access', { allowInternetAccess: false }],
    ['no policy is named', undefined],
  ] as const;
  for (const [who, policy] of policies) {
    const sandbox = await run.create(policy);
    const cases = closedCases(target, next, who);
    const outcomes = await run.probe(
      sandbox,
      cases.map(({ probe }) => probe),
    );
    const arrivals: readonly CanaryArrival[] = await run.unlessAborted(askArrivals(target));
    run.judge(cases, outcomes, { ...common, arrivals, allowed: [] });
    await run.kill(sandbox);
  }
}

/** What only the sandbox's own word tells. */
async function alone(run: SuiteRun, names: PublicNames | undefined): Promise<void> {
  if (names === undefined)
    throw new ProofError('no_control', 'tell what is blocked from what is not there', {
      remedy:
        'Name a canary (--canary), or two public web sites: one to allow (--allow-name), one not (--deny-name).',
    });
  const { address } = await resolve(names.denied);
  const sandbox = await run.create(closedBut([names.allowed]));
  const [byHttp, byTls, ...walls] = await run.probe(sandbox, [
    { kind: 'tcp', host: names.allowed, port: 80, text: get(names.allowed) },
    {
      ...{ kind: 'tls', host: names.allowed, port: 443, servername: names.allowed },
      text: get(names.allowed),
    },
    ...wallProbes(names.denied),
  ]);
  const works = [
    run.control(`the sandbox reaches ${names.allowed} by HTTP`, 'HTTP/1.', byHttp),
    run.control(`the sandbox reaches ${names.allowed} by TLS`, 'HTTP/1.', byTls),
  ];
  if (!works.includes(true))
    throw new ProofError('no_control', `reach ${names.allowed}, which the policy allows`);
  const cases = [...aloneCases(names, address), ...metadataCases(), ...privateCases()];
  const outcomes = await run.probe(
    sandbox,
    cases.map(({ probe }) => probe),
  );
  const common = { arrivals: undefined, hearsQuestions: false, wall: wallOf(walls), allowed: [] };
  run.judge(cases, outcomes, common);
  const needs = [
    'forged Host and SNI',
    'smuggling',
    'redirects',
    'rebinding',
    'what is added to requests',
  ];
  const why = 'only a canary could tell (--canary)';
  run.tried.push(...needs.map((what) => notTried(what, why)));
  await run.kill(sandbox);
}

/** Where nobody can be: an answer from there is the wall's. And the first question for a name that flips. */
function wallProbes(name: string): readonly Probe[] {
  return [
    { kind: 'tcp', host: NOBODY, port: 80, text: get(NOBODY) },
    { kind: 'tcp', host: NOBODY, port: 8080, text: get(NOBODY) },
    { kind: 'name', name },
  ];
}

function wallOf(outcomes: readonly ProbeOutcome[]): ReadonlySet<string> {
  const [web, other] = outcomes;
  const texts = [web, other].flatMap((one) => (one?.outcome === 'answer' ? [one.text] : []));
  // Who says yes to everything has said nothing.
  return new Set(texts.map(firstLine).filter((line) => !/^HTTP\/1\.[01] [123]/.test(line)));
}

async function targetOf({ canary = '', zone }: SuiteOptions): Promise<Target> {
  const run = randomBytes(10).toString('hex');
  if (isIPv4(canary) && zone === undefined) {
    const remedy = 'Name it by --zone, or name the canary by it instead of by its address.';
    throw new ProofError('canary_failed', 'find names that lead to the canary', { remedy });
  }
  const { address } = await resolve(canary);
  return { run, address, zone: (zone ?? canary).toLowerCase() };
}

async function resolve(name: string): Promise<{ address: string }> {
  try {
    return await lookup(name, { family: 4 });
  } catch (cause) {
    const remedy = 'It has to have an IPv4 address that is known here.';
    throw new ProofError('canary_failed', `find ${name}`, { cause, remedy });
  }
}
