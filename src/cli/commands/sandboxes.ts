/** `neurovisor ls`, `rm`, `pause`, `resume`: sandboxes of the daemon as a whole. */
import { systemClock } from '../../base/clock.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/control.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { forEach } from '../many.ts';
import { parsePairs } from '../options.ts';
import { sandboxId } from '../pick.ts';
import { coarse, table } from '../table.ts';

export interface ListFlags {
  readonly all?: boolean;
  readonly label: readonly string[];
}

/** Without `-a` those whose processes are gone are left out: they cost nothing but disk. */
export async function list(cli: Cli, control: ControlPlane, flags: ListFlags): Promise<number> {
  const metadata = parsePairs(flags.label, '--label');
  const all = await control.list(Object.keys(metadata).length === 0 ? {} : { metadata });
  const shown = flags.all === true ? all : all.filter(({ pausedTo }) => pausedTo !== 'disk');
  if (cli.json) {
    cli.printJson(shown);
    return 0;
  }
  cli.stdout.write(`${sandboxTable(shown, systemClock.wall())}\n`);
  if (all.length === 0 && flags.label.length === 0) {
    cli.stderr.write('there is none yet; neurovisor create makes one\n');
  }
  const hidden = all.length - shown.length;
  if (hidden > 0) cli.stderr.write(`${hidden} paused to disk; -a shows them\n`);
  return 0;
}

/** @param now milliseconds since 1970 */
export function sandboxTable(list: readonly SandboxInfo[], now: number): string {
  const heads = ['id', 'status', 'age', 'ends in', 'cpus', 'memory', 'origin', 'labels'];
  const rows = list.map((one) => [
    one.id,
    one.pausedTo === null ? one.status : `${one.status} (${one.pausedTo})`,
    coarse(now - one.createdAtMs),
    endsIn(one, now),
    `${one.cpus}`,
    `${one.memoryMib} MiB`,
    one.origin,
    Object.entries(one.metadata)
      .map(([key, value]) => `${key}=${value}`)
      .join(' '),
  ]);
  return table(heads, rows);
}

function endsIn({ endsAtMs, onTimeout }: SandboxInfo, now: number): string {
  if (endsAtMs === null) return '-';
  return `${coarse(endsAtMs - now)}${onTimeout === 'pause' ? ' (pause)' : ''}`;
}

/** @param texts ids or their beginnings; none: only with `--all` */
export async function remove(
  cli: Cli,
  control: ControlPlane,
  texts: readonly string[],
  flags: { readonly all?: boolean },
): Promise<number> {
  if ((flags.all === true) === texts.length > 0) {
    throw new UsageError('name sandboxes, or all of them', 'neurovisor rm ID …, or rm --all');
  }
  const ids =
    flags.all === true
      ? (await control.list()).map(({ id }) => id)
      : await Promise.all(texts.map((text) => sandboxId(control, text)));
  return await forEach(cli, ids, async (id) => ({ sandbox: await control.remove(id) }));
}

export async function pause(
  cli: Cli,
  control: ControlPlane,
  texts: readonly string[],
  flags: { readonly to?: 'memory' | 'disk' },
): Promise<number> {
  const ids = await Promise.all(texts.map((text) => sandboxId(control, text)));
  const { to = 'disk' } = flags;
  return await forEach(cli, ids, async (id) => ({ sandbox: await control.pause(id, to) }));
}

export async function resume(
  cli: Cli,
  control: ControlPlane,
  texts: readonly string[],
): Promise<number> {
  const ids = await Promise.all(texts.map((text) => sandboxId(control, text)));
  return await forEach(cli, ids, async (id) => ({
    sandbox: await control.resume(id, cli.cancelled),
  }));
}
