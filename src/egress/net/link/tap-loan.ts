/**
 * Lends a TAP to a VMM that opens it by name in its own network namespace (io):
 *
 *     host ── nv-… ──move──► VMM's namespace ──the VMM opens it──► move ──► host ── nv-…, with the VMM's descriptor
 *
 * Afterwards the VMM has a descriptor, as if inherited, its namespace is empty, and the link is in the host's with
 * everything that refers to it. A moved TAP is down and has no address.
 */
import { closeSync } from 'node:fs';
import type { Clock } from '../../../base/clock.ts';
import { errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import { SyscallError } from '../../../sys/libc.ts';
import { isSameNamespace, openNetworkNamespace } from '../../../sys/network-namespace.ts';
import { keepTap, setTapOwner } from '../../../sys/tun.ts';
import { LinkError, linkError } from '../netlink/errors.ts';
import { moveBetween } from './links.ts';
import type { Tap } from './tap.ts';

/** A VMM opens it within milliseconds. Others wait this long for the lock of the host's network. */
const LOAN_MS_MAX = 20_000;

export interface TapBorrower {
  readonly pid: number;
  /** User that opens the TAP; `null` for root. */
  readonly user: { readonly uid: number; readonly gid: number } | null;
}

/**
 * Closes our descriptor; the TAP then persists until it is removed.
 * @param open makes the VMM open the TAP of that name; resolves after that
 * @returns true if the TAP was moved, and so lost its addresses
 * @throws LinkError `not_found` if the namespace has ended, and the TAP with it; `busy`, `exists` if another link took
 * its name or index meanwhile; `failed`; and what `open` throws
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
        ignore(second, 'the first error is thrown, and the TAP goes with the namespace'),
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
    late.reject(new LinkError('busy', `${attempt}: not opened within ${LOAN_MS_MAX} ms`)),
  );
  late.promise.catch((error: unknown) => ignore(error, 'it lost the race'));
  const opening = open();
  opening.catch((error: unknown) => ignore(error, 'the waiting caller has it, or it came too late'));
  await Promise.race([opening, late.promise]).finally(cancel);
}
