/** What the home keeps beside sandboxes. Only the operator sees and changes it. */
import type { HomeContents } from '../../../sandbox/contract/contents.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { API_LIMITS } from '../limits.ts';
import type { ContentsParts } from '../long-work.ts';
import type { App } from '../route.ts';
import { Slots } from '../slots.ts';
import { addImageRoutes } from './images.ts';
import { addModelRoutes } from './models.ts';
import { addTemplateRoutes } from './templates.ts';

/** @param contents `null` for a tenant, or without a home */
export function addContentsRoutes(
  app: App,
  { contents, ...parts }: Pick<ContentsParts, 'clock' | 'log' | 'isLocal'> & { readonly contents: HomeContents | null },
): void {
  const slots = new Slots('pulls and builds', API_LIMITS.pullsMax);
  const running = new Set<Promise<object>>();
  // The runtime that the work uses is closed next.
  app.addHook('onClose', async () => void (await Promise.allSettled(running)));
  const open = { ...parts, slots, running, contents: () => contents ?? refuse() };
  addImageRoutes(app, open);
  addTemplateRoutes(app, open);
  addModelRoutes(app, open);
}

function refuse(): never {
  throw new SandboxError('forbidden', 'images, templates and models are the operator’s', {
    remedy: 'ask the operator of this host',
  });
}
