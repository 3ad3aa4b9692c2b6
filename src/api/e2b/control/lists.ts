/** Lists of sandboxes. */

import { z } from 'zod';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { type App, sendList } from '../../rest/route.ts';
import { E2bError } from '../errors.ts';
import { keptOf } from '../kept.ts';
import type { E2bParts } from '../parts.ts';
import { pageOf } from './paging.ts';
import { failures, type ListQuery, listedSandbox, listQuery, oldListQuery } from './schema.ts';
import { plainName } from './templates.ts';
import { isListed, listedView, stateOf } from './view.ts';

const tags = ['sandboxes'];

export function addListRoutes(app: App, { control }: E2bParts): void {
  app.get(
    '/v2/sandboxes',
    {
      schema: {
        tags,
        operationId: 'listSandboxes',
        description:
          'Newest first. `x-next-token` is in the answer if there is another page, `x-total-running` always.',
        querystring: listQuery,
        response: { 200: z.array(listedSandbox), ...failures },
      },
    },
    async ({ query }, reply) => {
      const all = (await control.list(filterOf(query.metadata))).filter(isListed);
      const { items, nextToken } = pageOf(all.filter(fits(query)), query);
      const isRunning = (info: SandboxInfo): boolean => stateOf(info) === 'running';
      reply.header('x-total-running', all.filter(isRunning).length);
      if (nextToken !== null) reply.header('x-next-token', nextToken);
      return items.map(listedView);
    },
  );
  app.get(
    '/sandboxes',
    {
      schema: {
        tags,
        operationId: 'listSandboxesV1',
        description: 'Running sandboxes only, all of them.',
        querystring: oldListQuery,
        response: { 200: z.array(listedSandbox), ...failures },
      },
    },
    async ({ query }, reply) => {
      const all = await control.list(filterOf(query.metadata));
      const running = all.filter((info) => isListed(info) && stateOf(info) === 'running');
      return sendList(reply, listedSandbox, running.map(listedView));
    },
  );
}

function fits({ state, startedAfter, template }: ListQuery): (info: SandboxInfo) => boolean {
  const afterMs = startedAfter === undefined ? 0 : Date.parse(startedAfter);
  const name = template === undefined ? undefined : plainName(template);
  return (info) =>
    (state?.includes(stateOf(info)) ?? true) &&
    info.createdAtMs >= afterMs &&
    (name === undefined || plainName(keptOf(info).template) === name || info.template === name);
}

/** Clients encode each key and value, then the pairs, then the parameter; the server has undone only the last. */
function filterOf(text: string | undefined): { readonly metadata?: Record<string, string> } {
  if (text === undefined || text === '') return {};
  const pairs = [...new URLSearchParams(text)].map((pair) => pair.map(decoded));
  return { metadata: Object.fromEntries(pairs) };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new E2bError(400, 'metadata: not URL encoded', { cause });
  }
}
