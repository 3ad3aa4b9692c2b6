/** Snapshots, which E2B's clients use as templates. */
import { z } from 'zod';
import type { SnapshotInfo } from '../../../sandbox/contract/control.ts';
import { SNAPSHOT_NAME } from '../../../sandbox/contract/limits.ts';
import type { App } from '../../rest/route.ts';
import { E2bError } from '../errors.ts';
import type { E2bParts, TemplateSource } from '../parts.ts';
import { pageOf } from './paging.ts';
import { present } from './present.ts';
import { failures, idParams, nothing, snapshotAnswer, snapshotBody, snapshotQuery, templateParams } from './schema.ts';
import { findSnapshot, plainName } from './templates.ts';

const tags = ['snapshots'];

export function addSnapshotRoutes(app: App, parts: E2bParts, templates: Pick<TemplateSource, 'remove'>): void {
  const { control } = parts;
  app.post(
    '/sandboxes/:sandboxID/snapshots',
    {
      schema: {
        tags,
        operationId: 'createSnapshot',
        description:
          'The sandbox continues. `memory: false`: sandboxes boot from it. 409: another snapshot has the name.',
        params: idParams,
        body: snapshotBody,
        response: { 201: snapshotAnswer, ...failures },
      },
    },
    async ({ params, body }, reply) => {
      const { id } = await present(parts, params.sandboxID);
      const name = body.name === undefined ? undefined : nameOf(body.name);
      const made = await control.snapshot(id, {
        ...(name === undefined ? {} : { name }),
        ...(body.memory === false ? { diskOnly: true } : {}),
      });
      return await reply.status(201).send(snapshotView(made));
    },
  );
  app.get(
    '/snapshots',
    {
      schema: {
        tags,
        operationId: 'listSnapshots',
        description: 'Newest first. `x-next-token` is in the answer if there is another page.',
        querystring: snapshotQuery,
        response: { 200: z.array(snapshotAnswer), ...failures },
      },
    },
    async ({ query }, reply) => {
      const { sandboxID, name } = query;
      const wanted = name === undefined ? undefined : plainName(name);
      const all = (await control.snapshots()).filter(
        (one) =>
          (sandboxID === undefined || one.sandbox === sandboxID) &&
          (wanted === undefined || one.id === wanted || one.name === wanted),
      );
      const { items, nextToken } = pageOf(all, query);
      if (nextToken !== null) reply.header('x-next-token', nextToken);
      return items.map(snapshotView);
    },
  );
  app.delete(
    '/templates/:id',
    {
      schema: {
        tags,
        operationId: 'deleteTemplate',
        description: 'Removes a snapshot or a template; sandboxes that started from it stay.',
        params: templateParams,
        response: { 204: nothing, ...failures },
      },
    },
    async ({ params }, reply) => {
      const { id: text } = params;
      const snapshot = await findSnapshot(plainName(text), control);
      if (snapshot !== undefined) await control.removeSnapshot(snapshot.id);
      else if (!(await templates.remove(text))) {
        throw new E2bError(404, `there is no snapshot or template ${JSON.stringify(text)}`);
      }
      return await reply.status(204).send(null);
    },
  );
}

function nameOf(text: string): string {
  const name = plainName(text);
  if (SNAPSHOT_NAME.test(name)) return name;
  throw new E2bError(400, `name: ${JSON.stringify(text)} is not a valid snapshot name`, {
    remedy: 'use up to 63 lowercase letters, digits and . _ -, beginning with a letter or digit; no tag but default',
  });
}

/** Adds the tag that every snapshot has at E2B. */
function snapshotView({ id, name }: SnapshotInfo): z.input<typeof snapshotAnswer> {
  return { snapshotID: `${name ?? id}:default`, names: name === null ? [] : [`${name}:default`] };
}
