/** Guests whose root tries to write to the golden image. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import type { Guest } from '../../src/machine/guest/guest.ts';
import { ProofError } from '../errors.ts';
import type { Notes } from '../proof.ts';

const PROGRAM = new URL('./image-attacks.py', import.meta.url);
const OUTPUT_BYTES_MAX = 256 * 1024;

const attackSchema = z.object({
  /** Way of writing; `control: …` for a file of its own. */
  what: z.string(),
  /** Way of opening. */
  how: z.string(),
  /** `WRITTEN`, `refused`, or a fault of the proof itself. */
  seen: z.string(),
});
export type Attack = z.infer<typeof attackSchema>;

/** Performs all attacks as the guest's root. @throws ProofError `no_world` if the program fails */
export async function attackImage(guest: Guest): Promise<Attack[]> {
  const code = await readFile(PROGRAM, 'utf8');
  const program = await guest.python({ script: { code }, user: 'root', stdin: false });
  const [output, errors, { exitCode }] = await Promise.all([
    textOf(program.stdout),
    textOf(program.stderr),
    program.exit,
  ]);
  if (exitCode !== 0) {
    const cause = new Error(errors.slice(-1000));
    throw new ProofError('no_world', 'the attacks could not be made', { cause });
  }
  return output
    .trimEnd()
    .split('\n')
    .map((line) => attackSchema.parse(JSON.parse(line)));
}

async function textOf(stream: AsyncIterable<Buffer>): Promise<string> {
  let text = '';
  for await (const bytes of stream) text = (text + bytes.toString()).slice(0, OUTPUT_BYTES_MAX);
  return text;
}

/** Notes each way of writing, over all ways of opening and all guests, which make the same tries. */
export function noteAttacks(notes: Notes, guests: number, attacks: readonly Attack[]): void {
  for (const [what, tries] of Map.groupBy(attacks, (attack) => attack.what)) {
    const isControl = what.startsWith('control: ');
    const expected = isControl ? 'WRITTEN' : 'refused';
    const wrong = tries.find(({ seen }) => seen !== expected);
    const each = tries.length / guests;
    const by = each === 1 ? 'guest root' : `guest root, ${each} ways`;
    const seen = wrong === undefined ? `${expected} ${tries.length} times` : describe(wrong);
    const isComplete = Number.isInteger(each);
    notes.note(isControl ? what : `${by}: ${what}`, `${expected} always`, seen, wrong === undefined && isComplete);
  }
}

const describe = ({ how, seen }: Attack): string => `${seen} (${how})`;
