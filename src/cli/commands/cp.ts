/** `neurovisor cp`: files and directories between this machine and a sandbox. */
import { pipeline } from 'node:stream/promises';
import type { ControlPlane } from '../../sandbox/control.ts';
import type { Cli } from '../cli.ts';
import { copyIn, requireSource } from '../copy-in.ts';
import { copyOut } from '../copy-out.ts';
import { UsageError } from '../failure.ts';
import { type Location, parseLocation } from '../location.ts';
import { sandboxId } from '../pick.ts';

export interface CopyFlags {
  readonly user?: string;
}

export async function cp(
  cli: Cli,
  control: ControlPlane,
  [source, target]: readonly [string, string],
  flags: CopyFlags,
): Promise<number> {
  const from = parseLocation(source);
  const to = parseLocation(target);
  if (from.kind === 'guest' && to.kind !== 'guest') await out(cli, control, from, to, flags);
  else if (to.kind === 'guest' && from.kind !== 'guest') await into(cli, control, from, to, flags);
  else {
    throw new UsageError(
      'one side must be in a sandbox, the other here',
      'neurovisor cp ID:PATH PATH, or cp PATH ID:PATH',
    );
  }
  cli.progress.close();
  if (cli.json) cli.printJson({ from: source, to: target });
  return 0;
}

type GuestLocation = Extract<Location, { kind: 'guest' }>;
type OtherLocation = Exclude<Location, GuestLocation>;

async function out(
  cli: Cli,
  control: ControlPlane,
  from: GuestLocation,
  to: OtherLocation,
  { user }: CopyFlags,
): Promise<void> {
  const guest = await control.guest(await sandboxId(control, from.id));
  if (to.kind === 'here') {
    await copyOut(cli, guest, from.path, to.path, { user });
    return;
  }
  if (cli.json) throw new UsageError('- is the content itself: it excludes -o json');
  const options = { signal: cli.cancelled, ...(user === undefined ? {} : { user }) };
  await pipeline(await guest.files.read(from.path, options), cli.stdout, { end: false });
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
    await copyIn(cli, guest, from.path, to.path, { user });
    return;
  }
  const options = { signal: cli.cancelled, ...(user === undefined ? {} : { user }) };
  await guest.files.write(to.path, cli.stdin, options);
}
