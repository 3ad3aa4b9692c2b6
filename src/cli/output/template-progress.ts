/** Progress of a template that the daemon builds: it tells only when it has ended. */
import type { Clock } from '../../base/clock.ts';
import { shownImage } from '../../sandbox/contract/environment.ts';
import type { Cli } from '../cli.ts';

/** Longer than this, and the daemon is likely to build a template. */
const QUIET_MS_MAX = 1000;

/** Shows progress if the work takes long. @param work ends with an error if the command is canceled */
export async function withTemplateProgress<T>(cli: Cli, clock: Clock, title: string, work: Promise<T>): Promise<T> {
  const { report } = cli.progress;
  const askedAtMs = clock.now();
  const stop = clock.after(QUIET_MS_MAX, () => report({ kind: 'start', step: 'template', title }));
  try {
    const result = await work;
    const durationMs = clock.now() - askedAtMs;
    report({ kind: 'done', step: 'template', cached: false, durationMs });
    return result;
  } finally {
    stop();
    cli.progress.close();
  }
}

export const PREPARING = 'Prepare the template of this pool (built once)';

/** Title to show while the template of a request may be built; null: none is built for it. */
export function templateStep({
  template,
  image,
  requirements = [],
}: {
  readonly template?: string | undefined;
  readonly image?: string | undefined;
  readonly requirements?: readonly string[] | undefined;
}): string | null {
  if (template !== undefined) {
    return `Prepare template ${template} (built if it is missing or out of date)`;
  }
  if (requirements.length === 0) {
    if (image === undefined) return null;
    return `Build the template of ${shownImage(image)} (built once)`;
  }
  return 'Install the packages into a template (built once)';
}
