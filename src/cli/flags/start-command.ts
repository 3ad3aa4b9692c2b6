/** `--start`, `--ready`, `--ready-timeout`: the program of a template, and what tells that it is ready. */
import { plain } from '../../base/text/plain.ts';
import type { ImageConfig } from '../../sandbox/contract/schema/contents.ts';
import type { StartCommand } from '../../sandbox/contract/schema/request.ts';
import { UsageError } from '../failure.ts';
import * as ranges from './ranges.ts';

export interface StartFlags {
  /** Name of the template. */
  readonly name?: string;
  /** Command whose program runs in every clone, and the command that tells when it is ready. */
  readonly start?: string;
  readonly ready?: string;
  readonly readyTimeout?: string;
}

/** A start command whose ready command may be the health check of its image. */
export interface AskedStart extends Omit<StartCommand, 'ready'> {
  readonly ready: string | null;
}

/** In software emulation, a server takes seconds. */
const READY_TIMEOUT_MS = 120_000;
const REMEDY =
  'add a command that exits with 0 once the program is ready, for example --ready "bash -c \': </dev/tcp/localhost/8000\'"';

/**
 * @param hasImage whether there is an image, which may have a health check
 * @throws UsageError
 */
export function readStart(flags: StartFlags, hasImage: boolean): AskedStart | undefined {
  const { start: command, ready = null, readyTimeout, name } = flags;
  if (command === undefined) {
    const alone = ready === null ? readyTimeout && '--ready-timeout' : '--ready';
    if (alone === undefined) return undefined;
    throw new UsageError(`${alone} needs --start`, 'add the command whose program becomes ready');
  }
  if (ready === null && !hasImage) throw new UsageError('--start needs --ready', REMEDY);
  if (name === undefined) {
    throw new UsageError('--start needs --name', 'only a name leads to a template with a program');
  }
  const readyTimeoutMs = readyTimeout === undefined ? READY_TIMEOUT_MS : ranges.readyTimeout(readyTimeout);
  return { command, ready, readyTimeoutMs };
}

/**
 * The start command with the health check of the image, unless `--ready` replaces it. Of the check only the command is
 * used: `--ready-timeout` stands for its interval, timeout and retries.
 * @param what that has the check, for people
 * @throws UsageError: it has none
 */
export function withHealthcheck(
  { ready, ...start }: AskedStart,
  { healthcheck }: Pick<ImageConfig, 'healthcheck'>,
  what: string,
): StartCommand {
  const command = ready ?? commandOf(healthcheck);
  if (command !== null) return { ...start, ready: command };
  const why = healthcheck?.kind === 'none' ? 'turns its health check off' : 'has no health check';
  throw new UsageError(`--start needs --ready: ${plain(what)} ${why}`, REMEDY);
}

/** For `sh -c`; null: no check. */
function commandOf(check: ImageConfig['healthcheck']): string | null {
  if (check === null || check.kind === 'none' || check.command.length === 0) return null;
  return check.kind === 'shell' ? check.command.join(' ') : check.command.map(quoted).join(' ');
}

/** One word of a shell's command line. */
const quoted = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;
