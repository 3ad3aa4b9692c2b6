/** `neurovisor image`: pulls, lists and removes images, which become disks of sandboxes. */

import { systemClock } from '../../base/clock.ts';
import { MIB } from '../../base/units.ts';
import type { ImagePull, ImageRecord, RemovedImages } from '../../sandbox/contract/schema/contents.ts';
import type { Cli } from '../cli.ts';
import { readReference } from '../flags/image-flag.ts';
import { coarse, table } from '../output/table.ts';
import { openContents } from './contents.ts';

/** Shown characters of a digest, enough to name an image. */
const DIGEST_SHOWN = 12;

export async function imagePull(cli: Cli, names: readonly string[]): Promise<number> {
  const references = await Promise.all(names.map(readReference));
  await using contents = await openContents(cli);
  const pulled: ImagePull[] = [];
  for (const { text } of references) pulled.push(await contents.images.pull(text, 'always', contents.work));
  cli.progress.close();
  if (cli.json) cli.printJson(pulled.map(({ image, environment }) => ({ ...image, environment })));
  else for (const { image } of pulled) cli.stdout.write(`${image.digest}\n`);
  return 0;
}

export async function imageList(cli: Cli): Promise<number> {
  await using contents = await openContents(cli);
  const list = await contents.images.list();
  if (cli.json) {
    cli.printJson(list);
    return 0;
  }
  const rows = list.map((one) => [
    one.names.join(', ') || '-',
    shortDigest(one),
    one.platform,
    one.built === undefined ? mebibytes(storedBytes(one)) : 'built',
    `${coarse(systemClock.wall() - one.pulledAtMs)} ago`,
  ]);
  cli.stdout.write(`${table(['name', 'digest', 'platform', 'size', 'pulled'], rows)}\n`);
  return 0;
}

export async function imageInspect(cli: Cli, name: string): Promise<number> {
  await using contents = await openContents(cli);
  const image = await contents.images.get(await wholeName(name));
  if (cli.json) {
    cli.printJson(image);
    return 0;
  }
  const { config } = image;
  const rows = [
    ['names', image.names.join(', ') || '-'],
    ['digest', image.digest],
    ['platform', image.platform],
    ['pulled', new Date(image.pulledAtMs).toISOString()],
    [
      'size',
      image.built === undefined
        ? `${mebibytes(storedBytes(image))} in ${image.layers.length} layers`
        : 'built here from a Dockerfile',
    ],
    ['user', config.user || 'root'],
    ['directory', config.workdir],
    ['entrypoint', config.entrypoint.join(' ') || '-'],
    ['command', config.cmd.join(' ') || '-'],
    ['ports', config.exposedPorts.join(' ') || '-'],
    ['stop signal', config.stopSignal ?? '-'],
    ...Object.entries(config.env).map(([key, value]) => ['variable', `${key}=${value}`]),
    ...Object.entries(config.labels).map(([key, value]) => ['label', `${key}=${value}`]),
  ];
  cli.stdout.write(`${table(['part', 'value'], rows)}\n`);
  return 0;
}

export async function imageRemove(cli: Cli, names: readonly string[]): Promise<number> {
  await using contents = await openContents(cli);
  return show(cli, await contents.images.remove(await Promise.all(names.map(wholeName))));
}

export async function imagePrune(cli: Cli, flags: { readonly all?: boolean }): Promise<number> {
  await using contents = await openContents(cli);
  return show(cli, await contents.images.prune(flags.all === true));
}

function show(cli: Cli, removed: RemovedImages): number {
  cli.progress.close();
  if (cli.json) cli.printJson(removed);
  else {
    for (const digest of removed.images) cli.stdout.write(`${digest}\n`);
    cli.stdout.write(`freed ${mebibytes(removed.bytes)}\n`);
  }
  return 0;
}

/** A daemon has another working directory. */
async function wholeName(name: string): Promise<string> {
  return /^(docker-archive|oci):/.test(name) ? (await readReference(name)).text : name;
}

const shortDigest = ({ digest }: ImageRecord): string =>
  digest.slice('sha256:'.length, 'sha256:'.length + DIGEST_SHOWN);

const storedBytes = ({ layers }: ImageRecord): number => layers.reduce((sum, { bytes }) => sum + bytes, 0);

const mebibytes = (bytes: number): string => `${Math.ceil(bytes / MIB)} MiB`;
