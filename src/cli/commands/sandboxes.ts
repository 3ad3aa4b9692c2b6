/** `neurovisor ls`, `rm`, `pause`, `resume`: list and change sandboxes of the daemon. */
import { systemClock } from '../../base/clock.ts';
import type { ControlPlane, PauseTarget, SandboxInfo, SandboxStatus } from '../../sandbox/contract/control.ts';
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
  readonly label: readonly string[];
}

/** With `-a`, includes ended sandboxes that the daemon remembers, with the cause. */
export async function list(cli: Cli, control: ControlPlane, flags: ListFlags): Promise<number> {
  const metadata = parsePairs(flags.label, '--label');
  const shown = await control.list({
    ...(Object.keys(metadata).length === 0 ? {} : { metadata }),
    ...(flags.all === true ? { status: STATUSES } : {}),
  });
  if (cli.json) {
    cli.printJson(shown);
    return 0;
  }
  cli.stdout.write(`${sandboxTable(shown, systemClock.wall())}\n`);
  if (shown.length === 0 && flags.label.length === 0) {
    cli.stderr.write('no sandboxes; create one with: neurovisor create\n');
  }
  return 0;
}

const STATUSES: readonly SandboxStatus[] = ['starting', 'running', 'saving', 'paused', 'resuming', 'ending', 'ended'];

/** @param now milliseconds since 1970 */
export function sandboxTable(list: readonly SandboxInfo[], now: number): string {
  const heads = ['id', 'status', 'age', 'ends in', 'cpus', 'memory', 'origin', 'image', 'labels'];
  const rows = list.map((one) => [
    one.id,
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

/** @param texts IDs or prefixes; none: only with `--all` */
export async function remove(
  cli: Cli,
  control: ControlPlane,
  texts: readonly string[],
  flags: { readonly all?: boolean },
): Promise<number> {
  checkRemove(texts, flags);
  const ids =
    flags.all === true
      ? (await control.list()).map(({ id }) => id)
      : await Promise.all(texts.map((text) => sandboxId(control, text)));
  return await forEach(cli, ids, async (id) => ({ sandbox: await removeOne(control, id) }));
}

/** @throws UsageError */
export function checkRemove(texts: readonly string[], { all }: { readonly all?: boolean }): void {
  const remedy = 'use neurovisor rm ID …, or neurovisor rm --all';
  if (all !== true && texts.length === 0) {
    throw new UsageError('missing sandbox ID', remedy);
  }
  if (all === true && texts.length > 0) {
    throw new UsageError('--all and sandbox IDs are mutually exclusive', remedy);
  }
}

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
