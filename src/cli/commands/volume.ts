/** `neurovisor volume`: disks that outlive sandboxes. */
import { systemClock } from '../../base/clock.ts';
import type { ControlPlane, VolumeInfo } from '../../sandbox/contract/control.ts';
import { NAME_FAULT, VOLUME_NAME } from '../../sandbox/contract/limits.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { mebibytes } from '../flags/ranges.ts';
import { bytes, coarse, table } from '../output/table.ts';
import { forEach } from './many.ts';

export interface VolumeFlags {
  /** MiB */
  readonly size?: number;
}

/** @throws UsageError */
export function checkVolume(name: string): void {
  if (!VOLUME_NAME.test(name)) throw new UsageError(`volume "${name}": ${NAME_FAULT}`);
}

export async function volumeCreate(cli: Cli, control: ControlPlane, name: string, flags: VolumeFlags): Promise<number> {
  const info = await cli.unlessCancelled(control.createVolume({ name, sizeMib: flags.size }));
  if (cli.json) cli.printJson(info);
  else cli.stdout.write(`${info.name}\n`);
  return 0;
}

export async function volumeList(cli: Cli, control: ControlPlane): Promise<number> {
  const list = await control.volumes();
  if (cli.json) cli.printJson(list);
  else cli.stdout.write(`${volumeTable(list, systemClock.wall())}\n`);
  return 0;
}

/** @param now milliseconds since 1970 */
export function volumeTable(list: readonly VolumeInfo[], now: number): string {
  const rows = list.map(({ name, sizeMib, bytes: used, createdAtMs, attached }) => [
    name,
    mebibytes(sizeMib),
    bytes(used),
    coarse(now - createdAtMs),
    attached.map(({ sandbox, readOnly }) => `${sandbox}${readOnly ? ' (ro)' : ''}`).join(', ') || '-',
  ]);
  return table(['name', 'size', 'on disk', 'age', 'attached to'], rows);
}

export async function volumeInspect(cli: Cli, control: ControlPlane, names: readonly string[]): Promise<number> {
  const all = await control.volumes();
  cli.printJson(
    names.map((name) => {
      const found = all.find((info) => info.name === name);
      if (found === undefined) throw new UsageError(`there is no volume ${name}`, 'neurovisor volume ls');
      return found;
    }),
  );
  return 0;
}

export async function volumeRemove(cli: Cli, control: ControlPlane, names: readonly string[]): Promise<number> {
  return await forEach(cli, names, async (name) => {
    await control.removeVolume(name);
    return {};
  });
}
