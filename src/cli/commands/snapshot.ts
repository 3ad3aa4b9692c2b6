/** `neurovisor snapshot` and `fork`: snapshots and copies of sandboxes. */

import { systemClock } from '../../base/clock.ts';
import { plainLines } from '../../base/text/plain.ts';
import type { ControlPlane, SnapshotInfo, SnapshotOptions } from '../../sandbox/contract/control.ts';
import { NAME_FAULT, SNAPSHOT_NAME } from '../../sandbox/contract/limits.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { parsePairs } from '../flags/options.ts';
import { sandboxId, sandboxName, snapshotId } from '../flags/pick.ts';
import * as ranges from '../flags/ranges.ts';
import { bytes, coarse, table } from '../output/table.ts';
import { forEach } from './many.ts';

export async function snapshotCreate(
  cli: Cli,
  control: ControlPlane,
  text: string,
  flags: SnapshotOptions,
): Promise<number> {
  const id = await sandboxId(control, text);
  const { name, diskOnly } = flags;
  const options = { ...(name === undefined ? {} : { name }), ...(diskOnly === undefined ? {} : { diskOnly }) };
  const info = await cli.unlessCancelled(control.snapshot(id, options));
  if (cli.json) cli.printJson(info);
  else {
    cli.stderr.write(`${bytes(info.bytes)} on disk\n`);
    cli.stdout.write(`${info.id}\n`);
  }
  return 0;
}

/** @throws UsageError */
export function checkSnapshotName({ name }: { readonly name?: string }): void {
  if (name === undefined || SNAPSHOT_NAME.test(name)) return;
  throw new UsageError(`--name "${name}": ${NAME_FAULT}`);
}

export async function snapshotList(cli: Cli, control: ControlPlane): Promise<number> {
  const list = await control.snapshots();
  if (cli.json) cli.printJson(list);
  else cli.stdout.write(`${snapshotTable(list, systemClock.wall())}\n`);
  return 0;
}

/** @param now milliseconds since 1970 */
export function snapshotTable(list: readonly SnapshotInfo[], now: number): string {
  const rows = list.map((one) => [
    one.id,
    one.name ?? '-',
    one.sandbox,
    coarse(now - one.createdAtMs),
    `${one.cpus}`,
    one.diskOnly ? 'disk only' : `${one.memoryMib} MiB`,
    bytes(one.bytes),
    one.current ? 'yes' : `no${one.madeBy === null ? '' : ` (${one.madeBy})`}`,
  ]);
  return table(['id', 'name', 'sandbox', 'age', 'cpus', 'memory', 'on disk', 'usable'], rows);
}

export async function snapshotRemove(cli: Cli, control: ControlPlane, texts: readonly string[]): Promise<number> {
  const ids = await Promise.all(texts.map((text) => snapshotId(control, text)));
  return await forEach(cli, ids, async (id) => {
    await control.removeSnapshot(id);
    return {};
  });
}

export interface ForkFlags {
  readonly count?: number;
  readonly name?: string;
  readonly timeout?: string;
  readonly label: readonly string[];
}

/** Prints one line per fork. @returns 1 if one failed */
export async function fork(cli: Cli, control: ControlPlane, text: string, flags: ForkFlags): Promise<number> {
  const labels = parsePairs(flags.label, '--label');
  const timeoutMs = flags.timeout === undefined ? undefined : ranges.timeout(flags.timeout);
  const id = await sandboxId(control, text);
  const forks = control.fork(id, {
    count: flags.count ?? 1,
    ...(flags.name === undefined ? {} : { name: sandboxName(flags.name) }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    ...(flags.label.length === 0 ? {} : { metadata: labels }),
  });
  const results = await cli.unlessCancelled(forks);
  if (cli.json) cli.printJson(results);
  else {
    for (const [at, one] of results.entries()) {
      if (one.ok) cli.stdout.write(`${one.sandbox.id}\n`);
      else cli.stderr.write(`neurovisor: fork ${at + 1} of ${results.length}: ${plainLines(one.message)}\n`);
    }
  }
  return results.every(({ ok }) => ok) ? 0 : 1;
}
