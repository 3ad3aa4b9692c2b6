/** `neurovisor df` and `neurovisor prune`: the disk usage of the home, and the removal of what can be made again. */
import { plain } from '../../base/text/plain.ts';
import type { Cli } from '../cli.ts';
import { bytes, table } from '../output/table.ts';
import { openContents } from './contents.ts';

export async function df(cli: Cli): Promise<number> {
  await using contents = await openContents(cli);
  const disk = await contents.disk.usage();
  cli.progress.close();
  if (cli.json) {
    cli.printJson(disk);
    return 0;
  }
  const rows = disk.usage.map((one) => [one.kind, bytes(one.bytes), bytes(one.reclaimableBytes)]);
  cli.stdout.write(`${table(['kind', 'size', 'reclaimable'], rows)}\n`);
  const total = `${bytes(disk.totalBytes)} in ${plain(disk.home)}`;
  cli.stdout.write(`${total}; free what is reclaimable with: neurovisor prune --all\n`);
  return 0;
}

export interface PruneFlags {
  readonly all?: boolean;
}

export async function prune(cli: Cli, flags: PruneFlags): Promise<number> {
  await using contents = await openContents(cli);
  const pruned = await contents.disk.prune(flags.all === true);
  cli.progress.close();
  if (cli.json) cli.printJson(pruned);
  else {
    for (const name of [...pruned.templates, ...pruned.images]) cli.stdout.write(`${name}\n`);
    cli.stdout.write(`freed ${bytes(pruned.freedBytes)}\n`);
  }
  return 0;
}
