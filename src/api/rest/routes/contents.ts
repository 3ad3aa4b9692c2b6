/** What the home keeps beside sandboxes. Only the operator sees and changes it. */
import { API_LIMITS } from '../limits.ts';
import type { App } from '../route.ts';
import { Slots } from '../slots.ts';
import { addDiskRoutes } from './disk.ts';
import { addImageBuildRoute } from './image-build.ts';
import { addImageRoutes } from './images.ts';
import type { ContentsParts } from './long-work.ts';
import { addModelRoutes } from './models.ts';
import { addTemplateRoutes } from './templates.ts';

export function addContentsRoutes(app: App, parts: Omit<ContentsParts, 'slots' | 'running'>): void {
  const slots = new Slots('pulls and builds', API_LIMITS.pullsMax);
  const running = new Set<Promise<object>>();
  // The runtime that the work uses is closed next.
  app.addHook('onClose', async () => void (await Promise.allSettled(running)));
  const open = { ...parts, slots, running };
  addImageRoutes(app, open);
  // Its body is not JSON.
  void app.register(async (own) => addImageBuildRoute(own as App, open));
  addTemplateRoutes(app, open);
  addModelRoutes(app, open);
  addDiskRoutes(app, open);
}
