/**
 * Files of volumes, for E2B's clients, whose interface for them is not that of the document. They send the token of the volume instead of a key.
 *
 *     requests of one volume ──► one guest that has it (`openVolume`) ──► ends with the last of them, before its answer does
 */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { ignore } from '../../../base/ignore.ts';
import { type OpenVolume, openVolume } from '../../../sandbox/contract/open-volume.ts';
import { discardRest, withIdleLimit } from '../../rest/body.ts';
import { type App, clientGone } from '../../rest/route.ts';
import { equalInConstantTime } from '../../tenants/callers.ts';
import { ownerOf } from '../../tenants/owner.ts';
import { E2bError } from '../errors.ts';
import type { E2bParts } from '../parts.ts';
import { directoryQuery, fileOwner, fileQuery, newFileQuery, nothing, volumeEntry, volumeParams } from './schema.ts';
import { VolumeTree } from './volume-tree.ts';

type Access = 'read' | 'write';
type Parts = Pick<E2bParts, 'callers' | 'clock' | 'control' | 'tokens'>;
interface Asked {
  readonly params: z.infer<typeof volumeParams>;
  readonly raw: IncomingMessage;
}

interface Held {
  readonly opening: Promise<OpenVolume>;
  users: number;
}

/** The volumes whose files are in use, each in one guest. */
class OpenVolumes {
  readonly #parts: Parts;
  readonly #open = new Map<string, Held>();
  readonly #closing = new Map<string, Promise<void>>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** @throws E2bError 401; errors of `openVolume` and of `work` */
  async use<T>({ params, raw }: Asked, access: Access, work: (tree: VolumeTree) => Promise<T>): Promise<T> {
    const { volumeID: id } = params;
    if (!equalInConstantTime(raw.headers.authorization ?? '', `Bearer ${this.#parts.tokens.volume(id)}`)) {
      throw new E2bError(401, 'the token of the volume is missing or not valid');
    }
    while (this.#closing.has(id)) await this.#closing.get(id);
    const held = this.#open.get(id) ?? { opening: this.#begin(id, access), users: 0 };
    this.#open.set(id, held);
    held.users += 1;
    try {
      return await work(new VolumeTree(await held.opening));
    } finally {
      held.users -= 1;
      if (held.users === 0) await this.#end(id, held);
    }
  }

  async #begin(id: string, access: Access): Promise<OpenVolume> {
    const { callers, control } = this.#parts;
    const info = (await control.volumes()).find((one) => one.id === id);
    if (info === undefined) throw new E2bError(404, `there is no volume ${JSON.stringify(id)}`);
    return await openVolume(callers.planeOf(ownerOf(info)), { volume: id, access });
  }

  async #end(id: string, { opening }: Held): Promise<void> {
    this.#open.delete(id);
    const closing = opening.then(
      (opened) => opened[Symbol.asyncDispose](),
      (error: unknown) => ignore(error, 'its users got it'),
    );
    const over = closing.finally(() => this.#closing.delete(id));
    this.#closing.set(
      id,
      over.catch((error: unknown) => ignore(error, 'its last user gets it')),
    );
    await over;
  }
}

export function addVolumeFileRoutes(app: App, parts: Parts): void {
  const volumes = new OpenVolumes(parts);
  addPathRoutes(app, volumes);
  addDirectoryRoutes(app, volumes);
  addContentRoutes(app, volumes, parts);
}

function addPathRoutes(app: App, volumes: OpenVolumes): void {
  const url = '/volumecontent/:volumeID/path';
  const schema = { hide: true, params: volumeParams, querystring: fileQuery };
  app.get(url, { schema: { ...schema, response: { 200: volumeEntry } } }, async (request) =>
    volumes.use(request, 'read', (tree) => tree.stat(request.query.path)),
  );
  app.patch(url, { schema: { ...schema, body: fileOwner, response: { 200: volumeEntry } } }, async (request) =>
    volumes.use(request, 'write', (tree) => tree.set(request.query.path, request.body)),
  );
  app.delete(url, { schema: { ...schema, response: { 204: nothing } } }, async (request, reply) => {
    await volumes.use(request, 'write', (tree) => tree.remove(request.query.path));
    return await reply.status(204).send(null);
  });
}

function addDirectoryRoutes(app: App, volumes: OpenVolumes): void {
  const url = '/volumecontent/:volumeID/dir';
  const schema = { hide: true, params: volumeParams };
  const listed = { ...schema, querystring: directoryQuery, response: { 200: z.array(volumeEntry) } };
  app.get(url, { schema: listed }, async (request) =>
    volumes.use(request, 'read', (tree) => tree.list(request.query.path, request.query.depth ?? 1)),
  );
  const created = { ...schema, querystring: newFileQuery, response: { 201: volumeEntry } };
  app.post(url, { schema: created }, async (request, reply) => {
    const { path, force = false, ...owner } = request.query;
    const made = await volumes.use(request, 'write', (tree) => tree.makeDirectory(path, force, owner));
    return await reply.status(201).send(made);
  });
}

function addContentRoutes(app: App, volumes: OpenVolumes, { clock }: Pick<Parts, 'clock'>): void {
  const url = '/volumecontent/:volumeID/file';
  app.get(url, { schema: { hide: true, params: volumeParams, querystring: fileQuery } }, async (request, reply) => {
    const { raw } = reply;
    const signal = clientGone({ raw });
    try {
      await volumes.use(request, 'read', async (tree) => {
        const content = await tree.read(request.query.path, signal);
        reply.hijack();
        raw.writeHead(200, { 'content-type': 'application/octet-stream' });
        await pipeline(content, raw, { end: false });
      });
      raw.end();
    } catch (error) {
      if (!raw.headersSent) throw error;
      raw.destroy();
    }
  });
  void app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', async (_request: unknown, body: Readable) => body);
    const schema = { hide: true, params: volumeParams, querystring: newFileQuery, response: { 201: volumeEntry } };
    (scope as unknown as App).put(url, { schema }, async (request, reply) => {
      const { path, force = true, ...owner } = request.query;
      const signal = clientGone(reply);
      const body = withIdleLimit(request.raw, clock);
      try {
        const made = await volumes.use(request, 'write', (tree) => tree.write(path, body, { force, owner, signal }));
        return await reply.status(201).send(made);
      } catch (error) {
        await discardRest(request.raw, clock);
        throw error;
      }
    });
  });
}
