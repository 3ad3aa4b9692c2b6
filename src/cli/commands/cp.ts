/** `neurovisor cp`: files and directories between this machine and a sandbox. */
import { pipeline } from 'node:stream/promises';
import { copyIn } from '../../artifacts/transfer/copy-in.ts';
import { copyOut } from '../../artifacts/transfer/copy-out.ts';
import { fileOptions } from '../../artifacts/transfer/transfer.ts';
import { requireSource } from '../../artifacts/transfer/tree-here.ts';
import { ProgressStep } from '../../base/progress.ts';
import type { Guest, GuestReader } from '../../machine/guest/link.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import { openVolume } from '../../sandbox/contract/open-volume.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { sandboxId } from '../flags/pick.ts';
import { asUsageErrors, transferOptions } from '../transfer/copies.ts';
import { type Location, parseLocation } from '../transfer/location.ts';

export interface CopyFlags {
  readonly user?: string;
}

export async function cp(
  cli: Cli,
  control: ControlPlane,
  [source, target]: readonly [string, string],
  flags: CopyFlags,
): Promise<number> {
  const copy = checkCopy(cli, [source, target]);
  if (copy.way === 'out') {
    await out(cli, await readerOf(cli, control, await sandboxId(control, copy.from.id)), copy, flags);
  } else {
    await checkSource(copy.from);
    await into(cli, await control.guest(await sandboxId(control, copy.to.id)), copy, flags);
  }
  return done(cli, [source, target]);
}

/** `neurovisor volume cp`: the same with `VOLUME:PATH`. */
export async function volumeCopy(
  cli: Cli,
  control: ControlPlane,
  [source, target]: readonly [string, string],
  flags: CopyFlags,
): Promise<number> {
  const copy = checkVolumeCopy(cli, [source, target]);
  const { id, path } = guestOf(copy);
  if (copy.way === 'into') await checkSource(copy.from);
  const access = copy.way === 'out' ? 'read' : 'write';
  await using volume = await openVolume(control, { volume: id, access, signal: cli.cancelled });
  const place = { kind: 'guest', id, path: `${volume.root}${path}` } as const;
  // Who reads a volume here may read all of it.
  if (copy.way === 'out') await out(cli, volume.guest, { ...copy, from: place }, { user: 'root' });
  else await into(cli, volume.guest, { ...copy, to: place }, flags);
  return done(cli, [source, target]);
}

/** @throws UsageError */
export function checkVolumeCopy(cli: Pick<Cli, 'json'>, names: readonly [string, string]): Copy {
  const copy = checkCopy(cli, names, 'volume');
  const { path } = guestOf(copy);
  if (path.startsWith('/')) return copy;
  throw new UsageError(`"${path}" is not an absolute path`, 'use VOLUME:/PATH');
}

/** Before a sandbox is asked, or made for it. */
async function checkSource(from: OtherLocation): Promise<void> {
  if (from.kind === 'here') await asUsageErrors(() => requireSource(from.path));
}

function done(cli: Cli, [from, to]: readonly [string, string]): number {
  cli.progress.close();
  if (cli.json) cli.printJson({ from, to });
  return 0;
}

type GuestLocation = Extract<Location, { kind: 'guest' }>;
type OtherLocation = Exclude<Location, GuestLocation>;
type CopyOut = { readonly way: 'out'; readonly from: GuestLocation; readonly to: OtherLocation };
type CopyInto = { readonly way: 'into'; readonly from: OtherLocation; readonly to: GuestLocation };
type Copy = CopyOut | CopyInto;

const guestOf = (copy: Copy): GuestLocation => (copy.way === 'out' ? copy.from : copy.to);

/** @throws UsageError */
export function checkCopy(
  cli: Pick<Cli, 'json'>,
  [source, target]: readonly [string, string],
  where: 'sandbox' | 'volume' = 'sandbox',
): Copy {
  const from = parseLocation(source);
  const to = parseLocation(target);
  if (from.kind === 'guest' && to.kind !== 'guest') {
    if (to.kind === 'stream' && cli.json) {
      throw new UsageError('- and -o json are mutually exclusive', 'omit -o json');
    }
    return { way: 'out', from, to };
  }
  if (to.kind === 'guest' && from.kind !== 'guest') return { way: 'into', from, to };
  throw new UsageError(
    `exactly one of SOURCE and TARGET must be in a ${where}`,
    where === 'sandbox'
      ? 'use neurovisor cp ID:PATH PATH, or neurovisor cp PATH ID:PATH'
      : 'use neurovisor volume cp VOLUME:/PATH PATH, or neurovisor volume cp PATH VOLUME:/PATH',
  );
}

async function out(cli: Cli, guest: GuestReader, { from, to }: CopyOut, { user }: CopyFlags): Promise<void> {
  if (to.kind === 'here') {
    await asUsageErrors(() => copyOut(guest, from.path, to.path, transferOptions(cli, user)));
    return;
  }
  const options = fileOptions({ signal: cli.cancelled, user });
  await pipeline(await guest.files.read(from.path, options), cli.stdout, { end: false });
}

/** Says so where it has to boot. */
async function readerOf(cli: Cli, control: ControlPlane, id: string): Promise<GuestReader> {
  const { status, foreignPause } = await control.get(id);
  if (status !== 'paused' || foreignPause === null) return await control.reader(id, cli.cancelled);
  const what = `Boot the disk of ${id}, paused by NeuroVisor ${foreignPause}, to read its files`;
  const step = new ProgressStep(cli.progress.report, 'rescue', what);
  try {
    const reader = await control.reader(id, cli.cancelled);
    step.done(false);
    return reader;
  } catch (error) {
    step.failed(error);
    throw error;
  }
}

async function into(cli: Cli, guest: Guest, { from, to }: CopyInto, { user }: CopyFlags): Promise<void> {
  if (from.kind === 'here') {
    await asUsageErrors(() => copyIn(guest, from.path, to.path, transferOptions(cli, user)));
    return;
  }
  const options = fileOptions({ signal: cli.cancelled, user });
  await guest.files.write(to.path, cli.stdin, options);
}
