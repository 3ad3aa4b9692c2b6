/** Progress of a template that the daemon builds: it tells only when it has ended. */
import type { Clock } from '../../base/clock.ts';
import type { Cli } from '../cli.ts';

/** Longer than this, and the daemon is likely to build a template. */
const QUIET_MS_MAX = 1000;

/** Shows progress if the work takes long. @throws also if the command is canceled */
export async function withTemplateProgress<T>(
  cli: Cli,
  clock: Clock,
  step: { readonly title: string; readonly estimateMs: number },
  work: Promise<T>,
): Promise<T> {
  const { report } = cli.progress;
  const askedAtMs = clock.now();
  const stop = clock.after(QUIET_MS_MAX, () =>
    report({ kind: 'start', step: 'template', ...step }),
  );
  try {
    const result = await cli.unlessCancelled(work);
    const durationMs = clock.now() - askedAtMs;
    report({ kind: 'done', step: 'template', cached: false, durationMs });
    return result;
  } finally {
    stop();
    cli.progress.close();
  }
}

/** For sandboxes with packages; in software emulation on two cores, with a few of them. */
export const INSTALLING = {
  title: 'Install the packages into a template (built once)',
  estimateMs: 120_000,
};
