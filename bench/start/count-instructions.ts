/** Counts a guest's instructions in software emulation, with a QEMU plugin (`fixtures/count-instructions.c`). */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Launch } from '../../src/machine/vmm/launch.ts';

const FIXTURE = join(import.meta.dirname, 'fixtures/count-instructions.c');
const COMPILE_MS_MAX = 60_000;

/** Stages of a boot, in order. */
export const STAGES = ['firmware', 'kernel', 'init', 'agent'] as const;
export type Stage = (typeof STAGES)[number];

export interface StageCount {
  /** Instructions of programs; for the firmware, all. */
  readonly user: number;
  /** Instructions of the kernel, also on behalf of programs. */
  readonly kernel: number;
}

const WORD = 8;
/** Two counters, two at the beginning of each stage, and the current stage. */
const FILE_BYTES = WORD * (2 + 2 * STAGES.length + 1);

export class InstructionCounter {
  readonly #plugin: string;
  readonly #file: string;

  private constructor(dir: string) {
    this.#plugin = join(dir, 'count-instructions.so');
    this.#file = join(dir, 'counts');
  }

  /** @param dir for the plugin and its file; must exist */
  static async make(dir: string): Promise<InstructionCounter> {
    const counter = new InstructionCounter(dir);
    const args = ['-O2', '-shared', '-fPIC', '-fvisibility=hidden', '-o', counter.#plugin, FIXTURE];
    await promisify(execFile)('gcc', args, { timeout: COMPILE_MS_MAX });
    return counter;
  }

  /** Loads the plugin into each QEMU, one at a time. The counts restart with each. */
  readonly around =
    (launch: Launch): Launch =>
    async (plan) => {
      await writeFile(this.#file, Buffer.alloc(FILE_BYTES));
      return await launch({ ...plan, argv: [...plan.argv, '-plugin', `${this.#plugin},counts=${this.#file}`] });
    };

  /** Instructions of each stage so far. @throws if the guest has not reached the last one */
  async read(): Promise<Record<Stage, StageCount>> {
    return parseCounts(await readFile(this.#file));
  }
}

/** @throws if the last stage has not begun */
export function parseCounts(bytes: Buffer): Record<Stage, StageCount> {
  const word = (index: number): number => Number(bytes.readBigUInt64LE(index * WORD));
  const current = word(2 + 2 * STAGES.length);
  if (current !== STAGES.length - 1) throw new Error(`the boot ended in stage ${STAGES[current]}`);
  const begin = (stage: number): StageCount =>
    stage === STAGES.length
      ? { user: word(0), kernel: word(1) }
      : { user: word(2 + 2 * stage), kernel: word(3 + 2 * stage) };
  const entries = STAGES.map((name, stage) => {
    const [from, to] = [begin(stage), begin(stage + 1)];
    return [name, { user: to.user - from.user, kernel: to.kernel - from.kernel }] as const;
  });
  return Object.fromEntries(entries) as Record<Stage, StageCount>;
}
