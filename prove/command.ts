/** `neurovisor prove`: tries to break the isolation of sandboxes. */
import { styleText } from 'node:util';
import type { ProveFlags } from '../src/cli/beside.ts';
import type { Cli } from '../src/cli/cli.ts';
import { UsageError } from '../src/cli/failure.ts';
import { table } from '../src/cli/output/table.ts';
import type { Guest } from '../src/machine/guest/link.ts';
import type { Proof } from './proof.ts';
import { PROOF_NAMES, type ProofName, prove as proveHere, USUAL_PROOFS } from './prove.ts';

/** @param words names of proofs; if empty, all but load. @returns 1 if one does not hold */
export async function prove(cli: Cli, words: readonly string[], flags: ProveFlags): Promise<number> {
  const names = words.length === 0 ? USUAL_PROOFS : [...new Set(words.map(proofName))];
  const { config, log, cancelled: signal } = cli;
  const { for: loadMs, guests } = flags;
  const copy = async (guest: Guest, source: string, target: string): Promise<void> => {
    const { copyOut } = await import('../src/artifacts/transfer/copy-out.ts');
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

export function description(): string {
  const what = [
    'Try to break the isolation of sandboxes, and print what held. Each attempt is paired with a control that must succeed.',
    'Exit status: 0 everything holds, 1 something does not hold, 2 usage error, or the endpoint could not be tested.',
    'metadata, egress: build a host, an internet and guests in network namespaces, and let the guests try to get out, by webhooks, too.',
    'secrets: let guests use a secret at its host, and try to read its value or to use it at another host.',
    'xdp: send packets with known counts and delays, and check that `net latency` reports them.',
    'seccomp, caps, cgroup: let jailed VMMs do what a compromised VMM would do.',
    'image: let guest root, in over a hundred ways, and its VMM try to change the golden image; with --guests in many guests.',
    'io: let a guest and a program in a group exceed their disk limits.',
    'files: let guest root answer `cp` and directory listings instead of the agent.',
    'neighbors: let a sandbox flood what all share, guess prompts of others, and take over its VMM.',
    'engine: let the built-in model server do what a compromised one would do.',
    'tenants: let a tenant ask a daemon for what only its operator may allow, and another user prepare its directory.',
    'floods: let a tenant and a stranger flood the interfaces of a daemon with heavy requests, while another tenant measures.',
    'oom: exhaust memory, and end sandboxes in several ways.',
    'load (only if named): run, pause and save a sandbox under load, and count refused system calls of its VMM.',
    'With --vmm firecracker: seccomp, caps, cgroup and image test Firecracker.',
  ].join('\n\n');
  return `${what}\n\nProofs: ${PROOF_NAMES.join(', ')}`;
}

function proofName(word: string): ProofName {
  const name = PROOF_NAMES.find((known) => known === word);
  if (name !== undefined) return name;
  throw new UsageError(`unknown proof "${word}"`, `use one of: ${PROOF_NAMES.join(', ')}`);
}

export function describeProof({ name, holds, tried }: Proof): string {
  const rows = tried.map(({ what, expected, seen, ok }) => [
    ok ? { style: 'green' as const, text: 'ok' } : { style: 'red' as const, text: 'NOT' },
    what,
    ok ? seen : `${seen} (expected ${expected})`,
  ]);
  const verdict = holds ? styleText('green', 'holds') : styleText('red', 'does not hold');
  const good = tried.filter(({ ok }) => ok).length;
  return `${table(['', 'tried', 'seen'], rows)}\n${name} ${verdict}: ${good} of ${tried.length} attempts as expected`;
}
