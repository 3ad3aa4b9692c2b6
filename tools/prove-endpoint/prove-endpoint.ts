/**
 * The egress suite against an endpoint with E2B's API: do its sandboxes reach only what their policy allows? (I/O)
 *
 *     runner ── E2B's client ──► endpoint ──► sandbox: probe.py ──?──► canary (a machine of the runner)
 *        └───────────────────── what arrived? ────────────────────────────┘
 *
 * Four sandboxes, one after another: with allowed names, with full access (a control), without access, and without
 * a policy in the request.
 */
import { randomBytes } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { isIPv4 } from 'node:net';
import { ProofError } from '../../prove/errors.ts';
import { get } from '../../prove/forged-requests.ts';
import { type Proof, SEEN_CHARACTERS_MAX } from '../../prove/proof.ts';
import { CANARY_CONTENT } from './canary.ts';
import { askArrivals, canaryControls } from './canary-client.ts';
import { UNREACHABLE_ADDRESS } from './canary-zone.ts';
import type { Case } from './case.ts';
import { allowedNames, closedCases, confinedCases, nameOf, type Target, type Tracer, tracer } from './cases.ts';
import { aloneCases, aloneClosedCases, type PublicNames } from './cases-alone.ts';
import { metadataCases, privateCases } from './cases-metadata.ts';
import { closedBut, type EndpointOptions, type NetworkPolicy, openEndpoint, type RemoteSandbox } from './client.ts';
import { narrowing } from './narrowing.ts';
import type { Probe, ProbeOutcome } from './probe.ts';
import { type Common, SuiteRun, type SuiteRunOptions } from './suite-run.ts';
import { firstLine, notTried } from './verdict.ts';

interface SuiteOptions extends EndpointOptions, SuiteRunOptions {
  /** Address or name of a machine where `./neurovisor prove-endpoint canary` runs. */
  readonly canary?: string;
  /** Default: the canary's name. */
  readonly zone?: string;
  /** Used without a canary. */
  readonly names?: PublicNames;
}

/** Ends its sandboxes in every case. @throws ProofError if the suite can't run; AbortError */
export async function proveEndpoint(options: SuiteOptions, signal: AbortSignal): Promise<Proof> {
  const endpoint = await openEndpoint(options);
  await using run = new SuiteRun(endpoint, options, signal);
  run.tried.push(NO_SUCH_RULES);
  if (options.canary !== undefined) await withCanary(run, await targetOf(options));
  else await alone(run, options.names);
  const tried = run.tried.map((row) => ({ ...row, seen: row.seen.slice(0, SEEN_CHARACTERS_MAX) }));
  return { name: 'egress', holds: tried.every(({ ok }) => ok), tried };
}

/** Always holds: the API offers no such rules. */
const NO_SUCH_RULES = {
  what: 'rules by method and path, limits of bytes by name',
  expected: 'n/a',
  seen: "n/a: E2B's API has none",
  ok: true,
} as const;

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
  const works = await controlled(run, target, next, sandbox, allowed, 'the sandbox');
  const walls = await run.probe(sandbox, wallProbes(nameOf(target, 'flip')));
  const before = await run.unlessAborted(askArrivals(target));
  const hearsQuestions = before.some(({ protocol, text }) => protocol === 'dns' && text === allowed);
  if (!works)
    throw new ProofError('no_control', `could not reach ${allowed}, which the policy allows`, {
      remedy: `Check that ${allowed} resolves to the canary (${target.address}) and that the endpoint supports rules by name.`,
    });
  const isHeard = hearsQuestions ? 'it is' : 'it is not: cases with names have weaker evidence';
  run.tried.push({
    what: `control: the canary is asked for the names of ${target.zone}`,
    expected: 'it is',
    seen: isHeard,
    ok: hearsQuestions,
  });
  const cases = confinedCases(target, next);
  const outcomes = await run.probe(
    sandbox,
    cases.map(({ probe }) => probe),
  );
  const common = {
    arrivals: await run.unlessAborted(askArrivals(target)),
    hearsQuestions,
    wall: wallOf(walls),
    allowed: [allowed],
  };
  run.judge(cases, outcomes, common);
  run.tried.push(...(await narrowing(run, sandbox, target, next)));
  await run.kill(sandbox);
  return common;
}

/** Positive controls of a sandbox. @returns whether it reached the name by HTTP or TLS */
async function controlled(
  run: SuiteRun,
  target: Target,
  next: Tracer,
  sandbox: RemoteSandbox,
  name: string,
  who: string,
): Promise<boolean> {
  const [http, tls] = [next(), next()];
  const [named, byHttp, byTls] = await run.probe(sandbox, [
    { kind: 'name', name },
    { kind: 'tcp', host: name, port: 80, text: get(name, `/${http}`) },
    { kind: 'tls', host: name, port: 443, servername: name, text: get(name, `/${tls}`) },
  ]);
  const arrivals = await run.unlessAborted(askArrivals(target));
  const has = (trace: string): boolean => arrivals.some(({ text }) => text.includes(trace));
  const label = name.split('-', 1)[0];
  const by = (how: string): string => `${who} reaches the name "${label}" by ${how}`;
  const reached = [
    run.control(by('HTTP'), CANARY_CONTENT, byHttp, has(http)),
    run.control(by('TLS'), CANARY_CONTENT, byTls, has(tls)),
  ];
  run.control(`${who} resolves the name "${label}"`, target.address, named);
  return reached.includes(true);
}

/** Policies that allow nothing. */
const CLOSED = [
  { who: 'no internet access', policy: { allowInternetAccess: false } },
  { who: 'no policy is named', policy: undefined },
] as const;

/** A control: the same probes without a restricting policy. */
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
  for (const { who, policy } of CLOSED) {
    const cases = closedCases(target, next, who);
    const outcomes = await inSandbox(run, policy, cases);
    const arrivals = await run.unlessAborted(askArrivals(target));
    run.judge(cases, outcomes, { ...common, arrivals, allowed: [] });
  }
}

async function inSandbox(
  run: SuiteRun,
  policy: NetworkPolicy | undefined,
  cases: readonly Case[],
): Promise<readonly ProbeOutcome[]> {
  const sandbox = await run.create(policy);
  const outcomes = await run.probe(
    sandbox,
    cases.map(({ probe }) => probe),
  );
  await run.kill(sandbox);
  return outcomes;
}

/** The suite without a canary, with evidence only from inside the sandbox. */
async function alone(run: SuiteRun, names: PublicNames | undefined): Promise<void> {
  if (names === undefined)
    throw new ProofError('no_control', 'could not tell blocked from nonexistent destinations', {
      remedy: 'Name a canary (--canary), or two public web sites: one to allow (--allow-name), one not (--deny-name).',
    });
  const { address } = await resolve(names.denied);
  const sandbox = await run.create(closedBut([names.allowed]));
  const [byHttp, byTls, ...walls] = await run.probe(sandbox, [
    { kind: 'tcp', host: names.allowed, port: 80, text: get(names.allowed) },
    { kind: 'tls', host: names.allowed, port: 443, servername: names.allowed, text: get(names.allowed) },
    ...wallProbes(names.denied),
  ]);
  const works = [
    run.control(`the sandbox reaches ${names.allowed} by HTTP`, 'HTTP/1.', byHttp),
    run.control(`the sandbox reaches ${names.allowed} by TLS`, 'HTTP/1.', byTls),
  ];
  if (!works.includes(true))
    throw new ProofError('no_control', `could not reach ${names.allowed}, which the policy allows`);
  const cases = [...aloneCases(names, address), ...metadataCases(), ...privateCases()];
  const outcomes = await run.probe(
    sandbox,
    cases.map(({ probe }) => probe),
  );
  const common = { arrivals: undefined, hearsQuestions: false, wall: wallOf(walls), allowed: [] };
  run.judge(cases, outcomes, common);
  const needs = ['forged Host and SNI', 'smuggling', 'redirects', 'rebinding', 'header fields added to requests'];
  const why = 'requires a canary (--canary)';
  run.tried.push(...needs.map((what) => notTried(what, why)));
  await run.kill(sandbox);
  for (const { who, policy } of CLOSED) {
    const few = aloneClosedCases(names, address, who);
    run.judge(few, await inSandbox(run, policy, few), common);
  }
}

/** Probes an unreachable address, where any answer is the endpoint's own, and makes the first query for `name`. */
function wallProbes(name: string): readonly Probe[] {
  return [
    { kind: 'tcp', host: UNREACHABLE_ADDRESS, port: 80, text: get(UNREACHABLE_ADDRESS) },
    { kind: 'tcp', host: UNREACHABLE_ADDRESS, port: 8080, text: get(UNREACHABLE_ADDRESS) },
    { kind: 'name', name },
  ];
}

function wallOf(outcomes: readonly ProbeOutcome[]): ReadonlySet<string> {
  const [web, other] = outcomes;
  const texts = [web, other].flatMap((one) => (one?.outcome === 'answer' ? [one.text] : []));
  // A success or redirect can't serve as a refusal.
  return new Set(texts.map(firstLine).filter((line) => !/^HTTP\/1\.[01] [123]/.test(line)));
}

async function targetOf({ canary = '', zone }: SuiteOptions): Promise<Target> {
  const run = randomBytes(10).toString('hex');
  if (isIPv4(canary) && zone === undefined) {
    const remedy = 'Give the zone with --zone, or give --canary as a name instead of an address.';
    throw new ProofError('canary_failed', 'could not find names that lead to the canary', { remedy });
  }
  const { address } = await resolve(canary);
  return { run, address, zone: (zone ?? canary).toLowerCase() };
}

async function resolve(name: string): Promise<{ address: string }> {
  try {
    return await lookup(name, { family: 4 });
  } catch (cause) {
    const remedy = 'Use a name with an IPv4 address that this machine can resolve.';
    throw new ProofError('canary_failed', `could not find ${name}`, { cause, remedy });
  }
}
