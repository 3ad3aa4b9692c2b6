/** Calls made under seccomp programs by the kernel itself (`test/fixtures/seccomp-victim.c`). */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Action } from '../../src/machine/jail/seccomp/profile.ts';

const SOURCE = join(import.meta.dirname, '../fixtures/seccomp-victim.c');

export interface VictimCall {
  /** 32: by int 0x80, as a 32-bit program would. */
  readonly abi?: 32 | 64;
  readonly number: number;
  readonly args?: readonly bigint[];
}

export class Victim implements Disposable {
  readonly #directory = mkdtempSync(join(tmpdir(), 'nv-victim-'));
  readonly #program = join(this.#directory, 'victim');

  constructor() {
    execFileSync('gcc', ['-O2', '-Wall', '-static', '-o', this.#program, SOURCE]);
  }

  /** @returns the outcome of each call, in order: the lines of the fixture */
  run(cases: readonly { readonly program: Uint8Array; readonly calls: readonly VictimCall[] }[]): string[] {
    const input = cases.flatMap(({ program, calls }) => [
      `program ${Buffer.from(program).toString('hex')}`,
      ...calls.map(({ abi = 64, number, args = [] }) => {
        const six = Array.from({ length: 6 }, (_, index) => args[index] ?? 0n);
        return ['call', abi, ...[BigInt(number), ...six].map((each) => each.toString(16))].join(' ');
      }),
    ]);
    const output = execFileSync(this.#program, {
      input: `${input.join('\n')}\n`,
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
    });
    return output.trim().split('\n');
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true });
  }
}

const ENOSYS = 38;
const SIGSYS = 31;

/**
 * The outcome that the victim reports for a call under this action.
 * @param returned the result of the call when it is made
 */
export function outcomeOf(action: Action, number: number, returned: number): string {
  if (action === 'allow' || action === 'log') return `returned ${returned}`;
  if (action === 'trap') return `trapped ${number} c000003e 0`;
  if (action === 'kill_thread') return 'thread died';
  if (action === 'kill_process') return `process died ${SIGSYS}`;
  // No tracer is attached to the victim.
  if ('trace' in action) return `returned -${ENOSYS}`;
  return `returned ${action.errno === 0 ? 0 : -action.errno}`;
}
