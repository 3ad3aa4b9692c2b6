/** `neurovisor prove`: sees that sandboxes are kept from what they should be, by trying. */
import { styleText } from 'node:util';
import type { Proof } from '../../prove/proof.ts';
import { PROOF_NAMES, type ProofName, prove } from '../../prove/prove.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { table } from '../table.ts';

/** @param words of `PROOF_NAMES`; none: all. @returns 1 when one does not hold */
export async function proveThem(cli: Cli, words: readonly string[]): Promise<number> {
  const names = words.length === 0 ? PROOF_NAMES : [...new Set(words.map(proofName))];
  const { config, log, cancelled: signal } = cli;
  const proofs = await prove(names, { config, log, signal }, (proof) => {
    if (!cli.json) cli.stdout.write(`${describeProof(proof)}\n\n`);
  });
  if (cli.json) cli.printJson(proofs);
  return proofs.every(({ holds }) => holds) ? 0 : 1;
}

function proofName(word: string): ProofName {
  const name = PROOF_NAMES.find((known) => known === word);
  if (name !== undefined) return name;
  throw new UsageError(`there is no proof "${word}"`, `choose of ${PROOF_NAMES.join(', ')}`);
}

function describeProof({ name, holds, tried }: Proof): string {
  const rows = tried.map(({ what, expected, seen, ok }) => [
    ok ? styleText('green', 'ok') : styleText('red', 'NOT'),
    what,
    ok ? seen : `${seen} (expected ${expected})`,
  ]);
  const verdict = holds ? styleText('green', 'holds') : styleText('red', 'does not hold');
  const good = tried.filter(({ ok }) => ok).length;
  return `${table(['', 'tried', 'seen'], rows)}\n${name} ${verdict}: ${good} of ${tried.length} tries as expected`;
}
