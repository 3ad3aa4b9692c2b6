/**
 * `run --sync`: brings the changes of the working directory back after a review.
 *
 *     guest ──► staging directory ──► list, diff, question ──► --project
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Content } from '../../../artifacts/transfer/content.ts';
import { CopyTarget } from '../../../artifacts/transfer/copy-target.ts';
import type { SentProject } from '../../../artifacts/transfer/project.ts';
import { applyChanges, type Change, type Review, reviewChanges } from '../../../artifacts/transfer/review.ts';
import { DIFF_BYTES_MAX, isText, textDiff } from '../../../artifacts/transfer/text-diff.ts';
import { describeError, remedyOf } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import { plain, plainLines } from '../../../base/text/plain.ts';
import type { Guest } from '../../../machine/guest/link.ts';
import type { Cli } from '../../cli.ts';
import { failureText, UsageError } from '../../failure.ts';
import { confirm, hasQuestions } from '../../output/confirm.ts';
import { bytes as inUnits } from '../../output/table.ts';
import { resultOptions } from '../../transfer/copies.ts';

/** `sync` in `-o json`. */
export interface SyncReport {
  /** Whether changes were written. */
  readonly applied: boolean;
  readonly changes: readonly {
    readonly kind: Change['kind'];
    readonly path: string;
    /** Of the file in the guest; null: no file. */
    readonly bytes: number | null;
    /** Why the file of this machine was kept; null: no conflict, no failure. */
    readonly kept: string | null;
  }[];
  /** Paths of the guest that cannot come back. */
  readonly refused: readonly { readonly path: string; readonly reason: string }[];
  readonly error: string | null;
}

export interface SyncOptions {
  readonly user: string | undefined;
  /** Write without a question. */
  readonly yes: boolean;
  /** Paths of the directory that other options have copied there. */
  skip(path: string): boolean;
}

/** Files whose difference is shown, and their lines together; the list is always complete. */
const DIFFS_MAX = 200;
const LINES_MAX = 2_000;
/** Text files that are too different for a diff: finding that out takes half a second each. */
const FAILED_DIFFS_MAX = 20;
const EMPTY = Buffer.alloc(0);

/** Reports for people on stderr, unless `-o json` is given. Never rejects: a failure is in the report. */
export async function syncBack(
  cli: Cli,
  guest: Guest,
  project: SentProject,
  { user, yes, skip }: SyncOptions,
): Promise<SyncReport> {
  const say = (text: string): void => {
    if (!cli.json && !cli.isOutputClosed) cli.stderr.write(`${text}\n`);
  };
  let staging: string | null = null;
  try {
    cli.cancelled.throwIfAborted();
    staging = await mkdtemp(join(tmpdir(), 'neurovisor-sync-'));
    const options = { ...resultOptions(cli, user), skip };
    const review = await reviewChanges(guest, project, staging, options);
    cli.progress.close();
    const { changes } = review;
    say(await reviewText(project, review, cli.cancelled));
    const open = changes.filter(({ conflict }) => conflict === null);
    const isApplied = open.length > 0 && (await isWanted(cli, project, open.length, yes, say));
    const applied = isApplied ? await applyChanges(project, review) : [];
    const kept = new Map(applied.map((one) => [one.path, one.kept]));
    for (const { path, conflict } of changes) {
      const reason = kept.get(path) ?? null;
      if (conflict === null && reason !== null) say(`neurovisor: kept ${plain(path)}: ${plain(reason)}`);
    }
    return {
      applied: isApplied,
      changes: changes.map(({ kind, path, after, conflict }) => ({
        kind,
        path,
        bytes: after?.type === 'file' ? after.bytes : null,
        kept: conflict ?? kept.get(path) ?? null,
      })),
      refused: review.refused,
      error: null,
    };
  } catch (error) {
    cli.progress.close();
    const why = cli.cancelled.aborted ? 'interrupted' : describeError(error);
    say(failureText(new UsageError(`--sync: ${why}; nothing was changed`, remedyOf(error))));
    return { applied: false, changes: [], refused: [], error: why };
  } finally {
    if (staging !== null) await rm(staging, { recursive: true, force: true });
  }
}

/** Whether everything came back, or was declined. */
export const isSynced = ({ changes, refused, error }: SyncReport): boolean =>
  error === null && refused.length === 0 && changes.every(({ kept }) => kept === null);

async function isWanted(
  cli: Cli,
  { from }: SentProject,
  count: number,
  yes: boolean,
  say: (text: string) => void,
): Promise<boolean> {
  if (yes) return true;
  if (!hasQuestions(cli)) {
    say(`neurovisor: nothing was changed in ${plain(from)}; to write the changes, add --yes`);
    return false;
  }
  const what = count === 1 ? '1 change' : `${count} changes`;
  return await confirm(cli, `Write ${what} to ${plain(from)}? [y/N] `);
}

/** The list of the changes with their sizes, then the differences of text files. */
export async function reviewText(
  { from }: Pick<SentProject, 'from'>,
  { changes, refused }: Review,
  signal?: AbortSignal,
): Promise<string> {
  if (changes.length === 0 && refused.length === 0) {
    return `neurovisor: no changes in ${plain(from)}`;
  }
  const lines = [`neurovisor: changes of the script in ${plain(from)}:`];
  for (const { kind, path, before, after, conflict } of changes) {
    const isDirectory = (after ?? before)?.type === 'directory';
    const name = `${plain(path)}${isDirectory ? '/' : ''}`;
    const head = `  ${conflict === null ? kind.padEnd(9) : 'conflict '} ${name}`;
    lines.push(conflict === null ? `${head}${sizes(before, after)}` : `${head}: ${plain(conflict)}`);
  }
  for (const { path, reason } of refused) {
    lines.push(`  refused   ${plain(path)}: ${plain(reason)}`);
  }
  return [...lines, ...(await diffLines(from, changes, signal))].join('\n');
}

function sizes(before: Content | null, after: Content | null): string {
  const size = (content: Content | null): string | null => (content?.type === 'file' ? inUnits(content.bytes) : null);
  if (after?.type === 'symlink') return ` -> ${plain(after.target)}`;
  const [from, to] = [size(before), size(after)];
  const mode = modes(before, after);
  if (from !== null && to !== null) return `  ${from} -> ${to}${mode}`;
  return from === null && to === null ? '' : `  ${to ?? from}${mode}`;
}

/** Permissions, where they change or let a new file run. */
function modes(before: Content | null, after: Content | null): string {
  if (after?.type !== 'file') return '';
  const to = after.mode.toString(8);
  if (before?.type !== 'file') return (after.mode & 0o111) === 0 ? '' : `  mode ${to}`;
  return before.mode === after.mode ? '' : `  mode ${before.mode.toString(8)} -> ${to}`;
}

async function diffLines(from: string, changes: readonly Change[], signal?: AbortSignal): Promise<readonly string[]> {
  const here = new CopyTarget(from);
  const lines: string[] = [];
  let shown = 0;
  let failed = 0;
  let hidden = 0;
  for (const { path, before, after, staged, conflict } of changes) {
    if (conflict !== null || (before?.type !== 'file' && after?.type !== 'file')) continue;
    if (staged === null && after !== null) continue;
    signal?.throwIfAborted();
    if (shown >= DIFFS_MAX || failed >= FAILED_DIFFS_MAX || lines.length >= LINES_MAX) {
      hidden += 1;
      continue;
    }
    const old = before?.type === 'file' ? await readHere(here, path) : null;
    const isSmall = after?.type === 'file' && after.bytes <= DIFF_BYTES_MAX;
    const content = isSmall && staged !== null ? await readFile(staged) : null;
    if ((before?.type === 'file' && old === null) || (after?.type === 'file' && content === null)) {
      continue;
    }
    const diff = textDiff(path, old, content);
    if (diff === null) {
      if (isText(old ?? EMPTY) && isText(content ?? EMPTY)) failed += 1;
      continue;
    }
    shown += 1;
    lines.push('', ...plainLines(diff.trimEnd()).split('\n'));
  }
  if (lines.length > LINES_MAX) lines.splice(LINES_MAX, lines.length, `… (cut after ${LINES_MAX} lines)`);
  if (hidden > 0) lines.push(`… (${hidden} more files are not shown)`);
  return lines;
}

async function readHere(here: CopyTarget, path: string): Promise<Buffer | null> {
  try {
    return await here.readFile(path, DIFF_BYTES_MAX);
  } catch (error) {
    ignore(error, 'the file changed during the review; it is checked again before it is written');
    return null;
  }
}
