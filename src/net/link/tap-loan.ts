/**
 * Gives a TAP to a VMM that opens it by name, in a network namespace of its own (io):
 *
 *     host ── nv-… ──move──► VMM's namespace ──the VMM opens it──► move ──► host ── nv-…, with the VMM's descriptor
 *
 * The VMM's namespace stays empty: it keeps a descriptor, as if it had inherited it, and the link with all that is
 * said of it stands in the host's. A TAP that was moved is down and has no address.
 */
import { closeSync } from 'node:fs';
import type { Clock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { SyscallError } from '../../sys/libc.ts';
import { isSameNamespace, openNetworkNamespace } from '../../sys/network-namespace.ts';
import { keepTap, setTapOwner } from '../../sys/tun.ts';
import { LinkError, linkError } from '../netlink/errors.ts';
import { moveBetween } from './links.ts';
import type { Tap } from './tap.ts';

/** A VMM opens it within milliseconds; whoever waits for the lock of the host's network waits for this. */
const LOAN_MS_MAX = 20_000;

/** The VMM process that opens the TAP. */
export interface TapBorrower {
  readonly pid: number;
  /** As whom it opens the TAP; null: as root. */
  readonly user: { readonly uid: number; readonly gid: number } | null;
}

/**
 * Our descriptor of it is closed, and the TAP lasts until somebody removes it.
 * @param open has the VMM open the TAP of that name; resolves once it has
 * @returns whether it was moved, and so has lost its addresses
 * @throws LinkError `not_found`: the namespace has ended, and the TAP with it; `busy`, `exists`: somebody made a link
 * of its name or number meanwhile; `failed`; and what `open` throws
 */
export async function lendTap(
  tap: Tap,
  borrower: TapBorrower,
  open: (name: string) => Promise<void>,
  clock: Clock,
): Promise<boolean> {
  const attempt = `lend TAP ${tap.name} to process ${borrower.pid}`;
  const theirs = namespaceOf(attempt, borrower.pid);
  const ours = openNetworkNamespace('own');
  try {
    handOut(attempt, tap, borrower);
    await tap.close();
    if (isSameNamespace(ours, theirs)) {
      await withinTime(attempt, () => open(tap.name), clock);
      return false;
    }
    await moveBetween(tap.linkIndex, ours, theirs);
    try {
      await withinTime(attempt, () => open(tap.name), clock);
    } catch (error) {
      await moveBetween(tap.linkIndex, theirs, ours).catch((second: unknown) =>
        ignore(second, 'the first is told, and the TAP goes with the namespace'),
      );
      throw error;
    }
    await moveBetween(tap.linkIndex, theirs, ours);
    return true;
  } finally {
    closeSync(ours);
    closeSync(theirs);
  }
}

function namespaceOf(attempt: string, pid: number): number {
  try {
    return openNetworkNamespace(pid);
  } catch (error) {
    throw linkError(attempt, errorCode(error) ?? '', error);
  }
}

function handOut(attempt: string, { fd }: Tap, { user }: TapBorrower): void {
  try {
    if (user !== null) setTapOwner(fd, user);
    keepTap(fd);
  } catch (error) {
    throw error instanceof SyscallError ? linkError(attempt, error.code, error) : error;
  }
}

async function withinTime(attempt: string, open: () => Promise<void>, clock: Clock): Promise<void> {
  const late = Promise.withResolvers<never>();
  const cancel = clock.after(LOAN_MS_MAX, () =>
    late.reject(new LinkError('busy', `${attempt}: it was not opened in ${LOAN_MS_MAX} ms`)),
  );
  late.promise.catch((error: unknown) => ignore(error, 'it lost the race'));
  const opening = open();
  opening.catch((error: unknown) => ignore(error, 'who waits for it is told, or it is late'));
  try {
    await Promise.race([opening, late.promise]);
  } finally {
    cancel();
  }
}
