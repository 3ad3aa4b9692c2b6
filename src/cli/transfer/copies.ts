/** Copies of commands: their options, and errors of the command line. */
import { realpath } from 'node:fs/promises';
import type { Guest } from '../../guest/link.ts';
import { copyIn } from '../../transfer/copy-in.ts';
import { CopyError, type TransferOptions } from '../../transfer/transfer.ts';
import { requireSource } from '../../transfer/tree-here.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';

export const transferOptions = (cli: Cli, user: string | undefined): TransferOptions => ({
  user,
  signal: cli.cancelled,
  onProgress: cli.progress.report,
});

/** A source that the command line names and that cannot be copied is an invalid argument. */
export async function asUsageErrors<T>(copy: () => Promise<T>): Promise<T> {
  try {
    return await copy();
  } catch (error) {
    if (!(error instanceof CopyError) || error.code !== 'invalid_source') throw error;
    throw new UsageError(error.message, error.remedy);
  }
}

/** A copied file or directory. */
export interface Copied {
  /** Real path on this machine. */
  readonly from: string;
  /** Path in the guest. */
  readonly to: string;
}

/** `--copy PATH[:TARGET]`: as `cp PATH ID:TARGET`. */
export async function copyForRun(
  cli: Cli,
  guest: Guest,
  spec: string,
  user: string | undefined,
): Promise<Copied> {
  const { source, target } = parseCopy(spec);
  const copy = () => copyIn(guest, source, target, transferOptions(cli, user));
  const to = await asUsageErrors(copy);
  return { from: await realpath(source), to };
}

/** Checked before a sandbox starts. @throws UsageError */
export async function requireCopies(specs: readonly string[]): Promise<void> {
  for (const spec of specs) await asUsageErrors(() => requireSource(parseCopy(spec).source));
}

function parseCopy(spec: string): { readonly source: string; readonly target: string } {
  const at = spec.lastIndexOf(':');
  const source = at > 0 ? spec.slice(0, at) : spec;
  return { source, target: (at > 0 && spec.slice(at + 1)) || '~' };
}
