import { diskUsage, prunedDisk } from '../../../sandbox/contract/schema/contents.ts';
import { type App, failures } from '../route.ts';
import { diskPruneRequest } from '../schema/contents.ts';
import type { ContentsParts } from './long-work.ts';

const tags = ['host'];

export function addDiskRoutes(app: App, { contents }: ContentsParts): void {
  app.get(
    '/disk',
    {
      schema: {
        tags,
        operationId: 'getDiskUsage',
        summary: 'Disk usage of the home, by kind; only for the operator',
        response: { 200: diskUsage, ...failures },
      },
    },
    () => contents.disk.usage(),
  );
  app.post(
    '/disk/prune',
    {
      schema: {
        tags,
        operationId: 'pruneDisk',
        summary: 'Remove templates and images without a name; only for the operator',
        description: 'Sandboxes, snapshots, named templates and images, and models stay.',
        body: diskPruneRequest,
        response: { 200: prunedDisk, ...failures },
      },
    },
    ({ body: { all } }) => contents.disk.prune(all),
  );
}
