/** Progress of a template that the daemon builds: it tells only when it has ended. */
import type { Clock } from '../../base/clock.ts';
import { shownImage } from '../../sandbox/contract/environment.ts';
import type { Cli } from '../cli.ts';

/** Longer than this, and the daemon is likely to build a template. */
const QUIET_MS_MAX = 1000;

interface TemplateStep {
  readonly title: string;
  readonly estimateMs: number;
}

/** Shows progress if the work takes long. @throws also if the command is canceled */
export async function withTemplateProgress<T>(
  cli: Cli,
  clock: Clock,
  step: TemplateStep,
  work: Promise<T>,
): Promise<T> {
  const { report } = cli.progress;
  const askedAtMs = clock.now();
  const stop = clock.after(QUIET_MS_MAX, () => report({ kind: 'start', step: 'template', ...step }));
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

/** In software emulation on two cores; with packages, a few of them. */
const PREPARING_MS = 45_000;
const INSTALLING_MS = 120_000;
/** Nothing is imported. */
const IMAGE_MS = 15_000;

export const PREPARING: TemplateStep = {
  title: 'Prepare the template of this pool (built once)',
  estimateMs: PREPARING_MS,
};

/** What to show while the template of a request may be built; null: none is built for it. */
export function templateStep({
  template,
  image,
  requirements = [],
}: {
  readonly template?: string | undefined;
  readonly image?: string | undefined;
  readonly requirements?: readonly string[] | undefined;
}): TemplateStep | null {
  if (template !== undefined) {
    const title = `Prepare template ${template} (built if it is missing or out of date)`;
    return { title, estimateMs: INSTALLING_MS };
  }
  if (requirements.length === 0) {
    if (image === undefined) return null;
    return { title: `Build the template of ${shownImage(image)} (built once)`, estimateMs: IMAGE_MS };
  }
  const title = 'Install the packages into a template (built once)';
  return { title, estimateMs: INSTALLING_MS };
}
