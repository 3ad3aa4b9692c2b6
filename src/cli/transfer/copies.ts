/** Copies of commands: their options, and errors of the command line. */
import { realpath } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { CopyError, type TransferOptions } from '../../artifacts/transfer/transfer.ts';
import type { Guest } from '../../machine/guest/link.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';

export const transferOptions = (cli: Cli, user: string | undefined): TransferOptions => ({
  user,
  signal: cli.cancelled,
  onProgress: cli.progress.report,
});

/** As `transferOptions`, when a script's own output may be in the same file: progress is for a terminal only. */
export const resultOptions = (cli: Cli, user: string | undefined): TransferOptions => ({
  ...transferOptions(cli, user),
  onProgress: cli.stderr.isTTY ? cli.progress.report : undefined,
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
  /** Of a project: what it includes, by path below it. Omitted: everything is included. */
  readonly contents?: ReadonlyMap<string, unknown>;
}

/** `--copy PATH[:TARGET]`: as `cp PATH ID:TARGET`. */
export async function copyForRun(cli: Cli, guest: Guest, spec: string, user: string | undefined): Promise<Copied> {
  const { source, target } = parseCopy(spec);
  // Loaded only here: most runs copy nothing.
  const { copyIn } = await import('../../artifacts/transfer/copy-in.ts');
  const copy = () => copyIn(guest, source, target, resultOptions(cli, user));
  const to = await asUsageErrors(copy);
  return { from: await realpath(source), to };
}

/** `--out PATH[:HOST]` */
export interface Out {
  /** As it was given. */
  readonly spec: string;
  /** Path in the guest. */
  readonly path: string;
  /** Path on this machine, as the target of `cp`. */
  readonly host: string;
}

/** The first colon ends PATH. @throws UsageError: no name for the copy, or two copies with one */
export function parseOuts(specs: readonly string[]): readonly Out[] {
  const outs = specs.map((spec) => {
    const at = spec.indexOf(':');
    const path = at < 0 ? spec : spec.slice(0, at);
    const host = at < 0 ? '' : spec.slice(at + 1);
    if (path === '') throw new UsageError(`--out ${spec}: empty path`, 'use --out PATH[:HOST]');
    if (host === '' && /(^|\/)(\.\.?|~)?\/*$/.test(path)) {
      throw new UsageError(
        `--out ${spec}: no name for the copy on this machine`,
        `use for example --out ${path}:results`,
      );
    }
    // An existing directory of that name is filled, as `cp ID:PATH .` does.
    return { spec, path, host: host || '.' };
  });
  const seen = new Set<string>();
  for (const { spec, path, host } of outs) {
    const target = resolve(host, host === '.' || host.endsWith('/') ? basename(path) : '');
    if (seen.has(target)) {
      throw new UsageError(`--out ${spec}: another --out is copied to ${target}, too`, 'name HOST');
    }
    seen.add(target);
  }
  return outs;
}

/** Checked before a sandbox starts. @throws UsageError */
export async function requireCopies(specs: readonly string[]): Promise<void> {
  if (specs.length === 0) return;
  const { requireSource } = await import('../../artifacts/transfer/tree-here.ts');
  for (const spec of specs) await asUsageErrors(() => requireSource(parseCopy(spec).source));
}

function parseCopy(spec: string): { readonly source: string; readonly target: string } {
  const at = spec.lastIndexOf(':');
  const source = at > 0 ? spec.slice(0, at) : spec;
  return { source, target: (at > 0 && spec.slice(at + 1)) || '~' };
}
