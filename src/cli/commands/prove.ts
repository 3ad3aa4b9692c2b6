/** `neurovisor prove`: tries to break the isolation of sandboxes. */
import { isIPv4 } from 'node:net';
import { styleText } from 'node:util';
import { describeError } from '../../base/errors.ts';
import type { Guest } from '../../guest/link.ts';
import { ProofError } from '../../prove/errors.ts';
import type { Proof } from '../../prove/proof.ts';
import {
  PROOF_NAMES,
  type ProofName,
  prove as proveHere,
  USUAL_PROOFS,
} from '../../prove/prove.ts';
import type { Cli } from '../cli.ts';
import { failureJson, failureText, UsageError } from '../failure.ts';
import { table } from '../output/table.ts';

export interface ProveFlags {
  /** True: the endpoint of E2B's variables. */
  readonly endpoint?: string | true;
  readonly domain?: string;
  readonly template?: string;
  readonly canary?: string;
  readonly zone?: string;
  readonly allowName?: string;
  readonly denyName?: string;
  readonly resolver?: string;
  readonly listen?: string;
  readonly address?: string;
  /** Milliseconds. */
  readonly for?: number;
  readonly guests?: number;
}

const RESOLVER = '8.8.8.8';
const EXIT_NOT_TRIED = 2;

/** @param words names of proofs, none: all but load; or `canary`. @returns 1 if one does not hold */
export async function prove(
  cli: Cli,
  words: readonly string[],
  flags: ProveFlags,
): Promise<number> {
  if (words.includes('canary')) return await runCanary(cli, flags);
  if (flags.endpoint !== undefined) return await proveThere(cli, words, flags);
  const names = words.length === 0 ? USUAL_PROOFS : [...new Set(words.map(proofName))];
  const { config, log, cancelled: signal } = cli;
  const { for: loadMs, guests } = flags;
  const copy = async (guest: Guest, source: string, target: string): Promise<void> => {
    const { copyOut } = await import('../../transfer/copy-out.ts');
    await copyOut(guest, source, target, { signal: cli.cancelled });
  };
  const more = {
    copyOut: copy,
    ...(loadMs === undefined ? {} : { loadMs }),
    ...(guests === undefined ? {} : { guests }),
  };
  const proofs = await proveHere(names, { config, log, signal, ...more }, (proof) => {
    if (!cli.json) cli.stdout.write(`${describeProof(proof)}\n\n`);
  });
  if (cli.json) cli.printJson(proofs);
  return proofs.every(({ holds }) => holds) ? 0 : 1;
}

async function proveThere(cli: Cli, words: readonly string[], flags: ProveFlags): Promise<number> {
  if (words.length !== 1 || words[0] !== 'egress')
    throw new UsageError(
      '--endpoint supports only the egress proof',
      'use neurovisor prove egress --endpoint …',
    );
  const { endpoint, allowName: allowed, denyName: denied, resolver = RESOLVER } = flags;
  const names =
    allowed === undefined || denied === undefined ? {} : { names: { allowed, denied, resolver } };
  const { domain, template, canary, zone } = flags;
  const given = Object.entries({ domain, template, canary, zone }).filter(
    ([, value]) => value !== undefined,
  );
  const url = typeof endpoint === 'string' ? { url: endpoint } : {};
  const { proveEndpoint } = await import('../../prove/endpoint/prove-endpoint.ts');
  try {
    const onLeft = (id: string, error: unknown): void =>
      cli.log.warn('could not remove a sandbox; it expires in ten minutes', {
        sandbox: id,
        error: describeError(error),
      });
    const options = { env: cli.env, onLeft, ...url, ...names, ...Object.fromEntries(given) };
    const proof = await proveEndpoint(options, cli.cancelled);
    if (cli.json) cli.printJson([proof]);
    else cli.stdout.write(`${describeProof(proof)}\n`);
    return proof.holds ? 0 : 1;
  } catch (error) {
    if (!(error instanceof ProofError)) throw error;
    if (cli.json) cli.printJson(failureJson(error));
    else cli.stderr.write(`${failureText(error)}\n`);
    return EXIT_NOT_TRIED;
  }
}

async function runCanary(cli: Cli, flags: ProveFlags): Promise<number> {
  const { listen = '0.0.0.0', zone, address = listen } = flags;
  if (zone === undefined)
    throw new UsageError(
      'prove canary needs --zone',
      'for example neurovisor prove canary --zone canary.example.org …',
    );
  if (!isIPv4(listen) || !isIPv4(address) || address === '0.0.0.0')
    throw new UsageError(
      'prove canary needs an IPv4 address for its names',
      'for example neurovisor prove canary --address 203.0.113.5 …',
    );
  const { startCanary } = await import('../../prove/endpoint/canary.ts');
  await using _canary = await startCanary({ listen, address, zone: zone.toLowerCase() });
  cli.stderr.write(`neurovisor: canary listening on ${listen}; press Ctrl-C to stop\n`);
  const ended = Promise.withResolvers<void>();
  if (cli.cancelled.aborted) ended.resolve();
  cli.cancelled.addEventListener('abort', () => ended.resolve(), { once: true });
  await ended.promise;
  return cli.signalStatus ?? 0;
}

function proofName(word: string): ProofName {
  const name = PROOF_NAMES.find((known) => known === word);
  if (name !== undefined) return name;
  throw new UsageError(`unknown proof "${word}"`, `use one of: ${PROOF_NAMES.join(', ')}`);
}

function describeProof({ name, holds, tried }: Proof): string {
  const rows = tried.map(({ what, expected, seen, ok }) => [
    ok ? { style: 'green' as const, text: 'ok' } : { style: 'red' as const, text: 'NOT' },
    what,
    ok ? seen : `${seen} (expected ${expected})`,
  ]);
  const verdict = holds ? styleText('green', 'holds') : styleText('red', 'does not hold');
  const good = tried.filter(({ ok }) => ok).length;
  return `${table(['', 'tried', 'seen'], rows)}\n${name} ${verdict}: ${good} of ${tried.length} attempts as expected`;
}
