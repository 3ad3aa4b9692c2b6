/** `neurovisor cp`: files and directories between this machine and a sandbox. */
import { pipeline } from 'node:stream/promises';
import { copyIn } from '../../artifacts/transfer/copy-in.ts';
import { copyOut } from '../../artifacts/transfer/copy-out.ts';
import { fileOptions } from '../../artifacts/transfer/transfer.ts';
import { requireSource } from '../../artifacts/transfer/tree-here.ts';
import { ProgressStep } from '../../base/progress.ts';
import type { GuestReader } from '../../machine/guest/link.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
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
  await asUsageErrors(() =>
    copy.way === 'out' ? out(cli, control, copy.from, copy.to, flags) : into(cli, control, copy.from, copy.to, flags),
  );
  cli.progress.close();
  if (cli.json) cli.printJson({ from: source, to: target });
  return 0;
}

type GuestLocation = Extract<Location, { kind: 'guest' }>;
type OtherLocation = Exclude<Location, GuestLocation>;
type Copy =
  | { readonly way: 'out'; readonly from: GuestLocation; readonly to: OtherLocation }
  | { readonly way: 'into'; readonly from: OtherLocation; readonly to: GuestLocation };

/** @throws UsageError */
export function checkCopy(cli: Pick<Cli, 'json'>, [source, target]: readonly [string, string]): Copy {
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
    'exactly one of SOURCE and TARGET must be in a sandbox',
    'use neurovisor cp ID:PATH PATH, or neurovisor cp PATH ID:PATH',
  );
}

async function out(
  cli: Cli,
  control: ControlPlane,
  from: GuestLocation,
  to: OtherLocation,
  { user }: CopyFlags,
): Promise<void> {
  const guest = await readerOf(cli, control, await sandboxId(control, from.id));
  if (to.kind === 'here') {
    await copyOut(guest, from.path, to.path, transferOptions(cli, user));
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

async function into(
  cli: Cli,
  control: ControlPlane,
  from: OtherLocation,
  to: GuestLocation,
  { user }: CopyFlags,
): Promise<void> {
  if (from.kind === 'here') await requireSource(from.path);
  const guest = await control.guest(await sandboxId(control, to.id));
  if (from.kind === 'here') {
    await copyIn(guest, from.path, to.path, transferOptions(cli, user));
    return;
  }
  const options = fileOptions({ signal: cli.cancelled, user });
  await guest.files.write(to.path, cli.stdin, options);
}
