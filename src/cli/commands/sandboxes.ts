/** `neurovisor ls`, `rm`, `pause`, `resume`: list and change sandboxes of the daemon. */
import { systemClock } from '../../base/clock.ts';
import type {
  ControlPlane,
  PauseTarget,
  SandboxFilter,
  SandboxInfo,
  SandboxStatus,
} from '../../sandbox/contract/control.ts';
import { shownImage } from '../../sandbox/contract/environment.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { parsePairs } from '../flags/options.ts';
import { sandboxId } from '../flags/pick.ts';
import { memoryText, statusText } from '../output/sandbox-rows.ts';
import { coarse, table } from '../output/table.ts';
import { forEach } from './many.ts';

export interface ListFlags {
  readonly all?: boolean;
  readonly quiet?: boolean;
  readonly label: readonly string[];
  readonly status?: readonly string[];
}

/** With `-a`, includes ended sandboxes that the daemon remembers, with the cause. */
export async function list(cli: Cli, control: ControlPlane, flags: ListFlags): Promise<number> {
  const filter = sandboxFilter(flags);
  const shown = await control.list(filter);
  if (cli.json) {
    cli.printJson(flags.quiet === true ? shown.map(({ id }) => id) : shown);
    return 0;
  }
  if (flags.quiet === true) {
    for (const { id } of shown) cli.stdout.write(`${id}\n`);
    return 0;
  }
  cli.stdout.write(`${sandboxTable(shown, systemClock.wall())}\n`);
  if (shown.length === 0 && filter.metadata === undefined && flags.status === undefined) {
    cli.stderr.write('no sandboxes; create one with: neurovisor create\n');
  }
  return 0;
}

const STATUSES: readonly SandboxStatus[] = ['starting', 'running', 'saving', 'paused', 'resuming', 'ending', 'ended'];

/** @throws UsageError */
export function sandboxFilter({ all, label, status }: Omit<ListFlags, 'quiet'>): SandboxFilter {
  const wrong = status?.find((name) => !(STATUSES as readonly string[]).includes(name));
  if (wrong !== undefined) throw new UsageError(`unknown status "${wrong}"`, `use one of: ${STATUSES.join(', ')}`);
  const statuses = STATUSES.filter((name) => status?.includes(name) ?? all === true);
  const metadata = parsePairs(label, '--label');
  return {
    ...(Object.keys(metadata).length === 0 ? {} : { metadata }),
    ...(statuses.length === 0 ? {} : { status: statuses }),
  };
}

/** @param now milliseconds since 1970 */
export function sandboxTable(list: readonly SandboxInfo[], now: number): string {
  const heads = ['id', 'name', 'status', 'age', 'ends in', 'cpus', 'memory', 'origin', 'image', 'labels'];
  const rows = list.map((one) => [
    one.id,
    one.name ?? '-',
    statusText(one),
    coarse(now - one.createdAtMs),
    endsIn(one, now),
    `${one.cpus}`,
    memoryText(one),
    one.origin,
    shownImage(one.image?.name ?? '-'),
    Object.entries(one.metadata)
      .map(([key, value]) => `${key}=${value}`)
      .join(' '),
  ]);
  return table(heads, rows);
}

function endsIn({ endsAtMs, onTimeout }: SandboxInfo, now: number): string {
  if (endsAtMs === null) return '-';
  return `${coarse(endsAtMs - now)}${onTimeout === 'kill' ? '' : ' (pause)'}`;
}

export interface RemoveFlags {
  readonly all?: boolean;
  readonly label: readonly string[];
}

/** @param texts IDs or prefixes; none with `--all` and labels */
export async function remove(
  cli: Cli,
  control: ControlPlane,
  texts: readonly string[],
  flags: RemoveFlags,
): Promise<number> {
  checkRemove(texts, flags);
  if (texts.length > 0) {
    return await removeAll(cli, control, await Promise.all(texts.map((text) => sandboxId(control, text))));
  }
  const found = await control.list(sandboxFilter({ label: flags.label }));
  if (!cli.json) cli.stderr.write(`${found.length} ${found.length === 1 ? 'sandbox' : 'sandboxes'} to remove\n`);
  return await removeAll(
    cli,
    control,
    found.map(({ id }) => id),
  );
}

/** @throws UsageError */
export function checkRemove(texts: readonly string[], { all, label }: RemoveFlags): void {
  const remedy = 'use neurovisor rm ID …, neurovisor rm --label KEY=VALUE, or neurovisor rm --all';
  parsePairs(label, '--label');
  if (all !== true && label.length === 0 && texts.length === 0) throw new UsageError('missing sandbox ID', remedy);
  if (all === true && texts.length > 0) {
    throw new UsageError('--all and sandbox IDs are mutually exclusive', remedy);
  }
  if (label.length > 0 && (all === true || texts.length > 0)) {
    throw new UsageError('--label excludes sandbox IDs and --all', remedy);
  }
}

const removeAll = (cli: Cli, control: ControlPlane, ids: readonly string[]): Promise<number> =>
  forEach(cli, ids, async (id) => ({ sandbox: await removeOne(control, id) }));

async function removeOne(control: ControlPlane, id: string): Promise<SandboxInfo> {
  try {
    return await control.remove(id);
  } catch (error) {
    if (!(error instanceof SandboxError) || error.code !== 'gone') throw error;
    const remedy = 'it is already removed; neurovisor ls -a shows how each sandbox ended';
    throw new SandboxError('gone', error.message, { cause: error.cause, remedy });
  }
}

export async function pause(
  cli: Cli,
  control: ControlPlane,
  texts: readonly string[],
  flags: { readonly to?: PauseTarget },
): Promise<number> {
  const ids = await Promise.all(texts.map((text) => sandboxId(control, text)));
  const { to = 'disk' } = flags;
  return await forEach(cli, ids, async (id) => ({ sandbox: await control.pause(id, to) }));
}

export async function resume(
  cli: Cli,
  control: ControlPlane,
  texts: readonly string[],
  { reboot }: { readonly reboot?: boolean },
): Promise<number> {
  const ids = await Promise.all(texts.map((text) => sandboxId(control, text)));
  const options = { signal: cli.cancelled, ...(reboot === undefined ? {} : { reboot }) };
  return await forEach(cli, ids, async (id) => ({ sandbox: await control.resume(id, options) }));
}
