/** Explains a lost connection to a program: the sandbox knows the cause, the broken stream does not. */
import { sleep } from '../../base/clock.ts';
import { CodedError, errorCode, remedyOf } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { plain } from '../../base/text/plain.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import type { EndInfo, SandboxEnd } from '../../sandbox/contract/ending.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { DiskEvent } from '../../sandbox/contract/events.ts';
import { diskFullText } from '../../sandbox/contract/events.ts';
import type { Cli } from '../cli.ts';
import { EXIT_NEUROVISOR_FAILED } from '../exit-status.ts';

/** The control plane needs a moment to find the cause. */
const WAIT_MS = 3_000;
const POLL_MS = 100;

/**
 * Returns why the sandbox ended under a program.
 * @throws SandboxError `not_ready` if it was paused; the client's error if the daemon is gone; `lost` if the
 *   sandbox still runs
 */
export async function endAfterLoss(
  cli: Pick<Cli, 'cancelled'>,
  control: Pick<ControlPlane, 'get'>,
  id: string,
  lost: unknown,
): Promise<Pick<EndInfo, 'cause' | 'detail'>> {
  for (let waitedMs = 0; ; waitedMs += POLL_MS) {
    if (cli.cancelled.aborted) return { cause: 'stopped', detail: 'interrupted' };
    const { end, status } = await control.get(id).catch((error: unknown) => {
      throw daemonGone(error, id);
    });
    if (end !== null) return end;
    if (status === 'paused') {
      throw new SandboxError('not_ready', 'the sandbox was paused while the program was running', {
        remedy: `continue with: neurovisor resume ${id} (neurovisor ps ${id} lists the program)`,
      });
    }
    if (waitedMs >= WAIT_MS) throw lost;
    await sleep(POLL_MS);
  }
}

/** Unless told otherwise, a daemon that stops pauses the sandbox, and the next one resumes it. */
function daemonGone(error: unknown, id: string): unknown {
  const code = errorCode(error);
  if (code !== 'daemon_unreachable' && code !== 'daemon_lost') return error;
  return new CodedError(code, 'the daemon stopped while the program was running', {
    cause: error,
    remedy: `${remedyOf(error)}; then see what became of the sandbox: neurovisor inspect ${id}`,
  });
}

/**
 * Reports a sandbox that is paused because the host disk is full; otherwise `exec` would wait silently.
 * @param onPaused gets one line for people
 * @returns a function that stops watching
 */
export function watchFullDisk(
  control: Pick<ControlPlane, 'events' | 'get'>,
  id: string,
  onPaused: (text: string) => void,
): () => void {
  const aborter = new AbortController();
  const { signal } = aborter;
  const watch = async (): Promise<void> => {
    let full: DiskEvent | null = null;
    for await (const event of control.events(id, { signal })) {
      if (event.type === 'disk_full') full = event;
      if (event.type !== 'action' || event.action !== 'pause' || full === null) continue;
      // Kept events come first: the sandbox may have been resumed since.
      if ((await control.get(id)).pausedTo === 'memory') onPaused(diskFullText(full));
      full = null;
    }
  };
  watch().catch((error: unknown) => ignore(error, 'the end of the program reports it'));
  return () => aborter.abort();
}

/** Returns the exit status after the sandbox ended under a program. @param what e.g. `the script` */
export function statusOfEnd(cli: Cli, end: Pick<SandboxEnd, 'cause' | 'detail'>, what: string): number {
  if (cli.signalStatus !== null) return cli.signalStatus;
  // `reboot` or `poweroff` in the guest is a normal end.
  if (end.cause === 'guest-shutdown') return 0;
  if (!cli.json) {
    const detail = end.detail && `: ${plain(end.detail)}`;
    cli.stderr.write(`neurovisor: the sandbox ended before ${what} did: ${end.cause}${detail}\n`);
  }
  return EXIT_NEUROVISOR_FAILED;
}
