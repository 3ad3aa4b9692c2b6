/** `run --out`: copies what the script has written to this machine. */
import { describeError, errorCode, remedyOf } from '../../../base/errors.ts';
import { plain } from '../../../base/text/plain.ts';
import type { Guest } from '../../../machine/guest/link.ts';
import type { Cli } from '../../cli.ts';
import { failureText, UsageError } from '../../failure.ts';
import { bytes as inUnits } from '../../output/table.ts';
import { type Out, resultOptions } from '../../transfer/copies.ts';

/** One `--out` in `-o json`. */
export interface OutReport {
  /** Path in the guest. */
  readonly path: string;
  /** Absolute path on this machine; null: not copied. */
  readonly host: string | null;
  readonly files: number;
  readonly bytes: number;
  readonly error: { readonly code: string; readonly message: string } | null;
}

export interface ResultsOptions {
  readonly user: string | undefined;
  /** Working directory of the script; null: the home. */
  readonly cwd: string | null;
}

/** A failed copy does not stop the others. Reports each for people, unless `-o json` is given. */
export async function copyResults(
  cli: Cli,
  guest: Guest,
  outs: readonly Out[],
  { user, cwd }: ResultsOptions,
): Promise<readonly OutReport[]> {
  const reports: OutReport[] = [];
  for (const { path, host } of outs) {
    const from = inDirectory(cwd, path);
    try {
      cli.cancelled.throwIfAborted();
      const { copyOut } = await import('../../../artifacts/transfer/copy-out.ts');
      const received = await copyOut(guest, from, host, resultOptions(cli, user));
      cli.progress.close();
      const { path: to, files, bytes } = received;
      reports.push({ path, host: to, files, bytes, error: null });
      if (cli.stderr.isTTY && !cli.json) {
        const amount = files === 1 ? inUnits(bytes) : `${files} files, ${inUnits(bytes)}`;
        cli.stderr.write(`neurovisor: copied ${plain(path)} to ${plain(to)} (${amount})\n`);
      }
    } catch (error) {
      cli.progress.close();
      const isInterrupted = cli.cancelled.aborted;
      const failure = isInterrupted ? interrupted(path) : named(path, cwd, error);
      const code = isInterrupted ? 'cancelled' : (errorCode(error) ?? 'internal');
      const { message } = failure;
      reports.push({ path, host: null, files: 0, bytes: 0, error: { code, message } });
      if (!cli.json && !cli.isOutputClosed) cli.stderr.write(`${failureText(failure)}\n`);
    }
  }
  return reports;
}

/** Reports for a guest that is gone. */
export function lostResults(cli: Cli, outs: readonly Out[]): readonly OutReport[] {
  if (outs.length > 0 && !cli.json && !cli.isOutputClosed) {
    cli.stderr.write('neurovisor: --out: nothing was copied, since the sandbox has ended\n');
  }
  return outs.map(({ path }) => {
    const error = { code: 'gone', message: 'the sandbox has ended' };
    return { path, host: null, files: 0, bytes: 0, error };
  });
}

/** A relative path starts where the script did. */
export function inDirectory(cwd: string | null, path: string): string {
  if (cwd === null || path.startsWith('/') || path === '~' || path.startsWith('~/')) return path;
  return `${cwd}/${path}`;
}

const interrupted = (path: string): Error => new Error(`--out ${path}: interrupted`);

function named(path: string, cwd: string | null, error: unknown): Error {
  if (errorCode(error) !== 'not_found') {
    return new UsageError(`--out ${path}: ${describeError(error)}`, remedyOf(error));
  }
  const where = cwd === null || cwd === '~' ? 'the home of the guest user' : cwd;
  return new UsageError(
    `--out ${path}: no such file or directory in the guest`,
    `check that the script writes it; a relative PATH starts at ${where}`,
  );
}
