/**
 * One request: route, policy, page or file, answer (io).
 *
 *     parse ─► policy of the name ─► budget of names ─► page ─► policy of the file ─► file, checked as it passes
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { PackageError } from '../errors.ts';
import type { PackageFetch } from '../fetch-record.ts';
import type { NameBudget } from '../name-budget.ts';
import type { PackageRules } from '../policy.ts';
import type { Artifact, Catalog, RenderedPage, Route } from '../protocol/artifact.ts';
import { refusalPage } from '../protocol/pypi.ts';
import { type ByteRange, parseRange } from '../range.ts';
import { type Checked, NOT_FOUND, phraseOf, type Refusal, refused } from '../refusal.ts';
import type { Catalogs } from '../store/catalogs.ts';
import type { OpenFile, PackageFiles } from '../store/package-files.ts';
import type { Index } from '../upstream/index-set.ts';
import { parseRoute } from './route.ts';

export interface ExchangeContext {
  readonly sandboxId: string;
  readonly rules: PackageRules;
  readonly budget: NameBudget;
  readonly catalogs: Catalogs;
  readonly files: PackageFiles;
  readonly clock: Clock;
  readonly log: Log;
  readonly onFetch: (fetch: PackageFetch) => void;
}

export class Exchange {
  readonly #context: ExchangeContext;
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;

  constructor(context: ExchangeContext, request: IncomingMessage, response: ServerResponse) {
    this.#context = context;
    this.#request = request;
    this.#response = response;
  }

  /** Resolves when the answer is written or the connection gone. Never rejects. */
  async run(): Promise<void> {
    const route = parseRoute(this.#request.method ?? '', this.#request.url ?? '');
    if (!route.ok) {
      this.refuse(route.refusal);
      return;
    }
    try {
      await this.#serve(route.value);
    } catch (error) {
      this.#fail(error, route.value);
    }
  }

  refuse(refusal: Refusal): void {
    const response = this.#response;
    if (response.headersSent || response.destroyed) return;
    const body = `${JSON.stringify({ error: refusal.message, code: refusal.code })}\n`;
    response.writeHead(refusal.status, phraseOf(refusal), {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
    });
    response.end(this.#request.method === 'HEAD' ? undefined : body);
  }

  async #serve(route: Route): Promise<void> {
    const { rules, budget, catalogs } = this.#context;
    const { ecosystem, name } = route;
    const permitted = rules.permitsName(ecosystem, name);
    if (!permitted.ok) {
      this.#refuseRoute(route, permitted.refusal);
      return;
    }
    const index = await catalogs.index(ecosystem);
    if (index === undefined) {
      const message = `This host has no index of ${ecosystem} packages: configure one there.`;
      this.#refuseRoute(route, refused(403, 'no_index', message).refusal);
      return;
    }
    const key = `${ecosystem}:${name}`;
    const taken = budget.take(key);
    if (!taken.ok) {
      this.#refuseRoute(route, taken.refusal);
      return;
    }
    let catalog: Catalog;
    try {
      catalog = await catalogs.get(ecosystem, name, index);
    } catch (error) {
      const isMissing = error instanceof PackageError && [404, 410].includes(error.status ?? 0);
      if (!isMissing) throw error;
      budget.missed(key);
      this.#note(route, { outcome: 'not_found' });
      this.refuse(NOT_FOUND.refusal);
      return;
    }
    if (route.kind === 'catalog') {
      this.#page(route, catalog);
      if (taken.value.isNew) this.#note(route, { outcome: 'ok' });
      return;
    }
    await this.#artifact(route, catalog, index);
  }

  #page(route: Route, catalog: Catalog): void {
    const accept = this.#request.headers.accept ?? '';
    this.#sendPage(catalog.render((file) => this.#permits(route, file).ok, accept, ''));
  }

  #permits({ ecosystem, name }: Route, file: Artifact): Checked<void> {
    const { rules, clock } = this.#context;
    return rules.permitsFile(ecosystem, name, file, clock.wall());
  }

  #sendPage({ contentType, body }: RenderedPage): void {
    const bytes = Buffer.from(body);
    this.#response.writeHead(200, {
      'content-type': contentType,
      'content-length': bytes.length,
      'cache-control': 'max-age=60',
    });
    this.#response.end(bytes);
  }

  async #artifact(
    route: Extract<Route, { kind: 'artifact' }>,
    catalog: Catalog,
    index: Index,
  ): Promise<void> {
    const artifact = catalog.find(route.key);
    if (artifact === undefined) {
      this.#refuseRoute(route, NOT_FOUND.refusal);
      return;
    }
    const permitted = this.#permits(route, artifact);
    if (!permitted.ok) {
      this.#refuseRoute(route, permitted.refusal, artifact);
      return;
    }
    const file = await this.#context.files.open(artifact, index);
    try {
      await this.#sendFile(route, artifact, file);
    } finally {
      await file.close();
    }
  }

  async #sendFile(route: Route, artifact: Artifact, file: OpenFile): Promise<void> {
    const { request, response } = { request: this.#request, response: this.#response };
    const [digest] = artifact.digests;
    const etag = `"${digest.hex}"`;
    const ifRange = request.headers['if-range'];
    const wanted = ifRange === undefined || ifRange === etag ? request.headers.range : undefined;
    const isHead = request.method === 'HEAD';
    let sizeBytes = file.sizeBytes ?? artifact.sizeBytes;
    if (sizeBytes === null && (isHead || wanted !== undefined)) sizeBytes = await file.complete();
    const range = sizeBytes === null || isHead ? undefined : parseRange(wanted, sizeBytes);
    const head = {
      'content-type': 'application/octet-stream',
      'accept-ranges': 'bytes',
      'cache-control': 'max-age=31536000, immutable',
      etag,
    };
    if (range === 'unsatisfiable') {
      response.writeHead(416, { 'content-range': `bytes */${sizeBytes}`, 'content-length': 0 });
      response.end();
      return;
    }
    // A part from the middle has no last byte to hold back.
    if (range !== undefined && range.to !== sizeBytes) await file.complete();
    response.writeHead(range === undefined ? 200 : 206, {
      ...head,
      ...lengthOf(range, sizeBytes),
    });
    if (isHead) {
      response.end();
      return;
    }
    const { from, to } = range ?? { from: 0, to: null };
    let bytes = 0;
    const note = (outcome: string): void => {
      const { algorithm, hex } = digest;
      const { version, filename } = artifact;
      const cached = file.isCached;
      this.#note(route, {
        outcome,
        version,
        file: filename,
        digest: `${algorithm}:${hex}`,
        bytes,
        cached,
      });
    };
    try {
      for await (const chunk of file.read(from, to)) {
        if (response.destroyed) break;
        bytes += chunk.length;
        if (!response.write(chunk)) await drained(response);
      }
    } catch (error) {
      const isWrong = error instanceof PackageError && error.code === 'digest_mismatch';
      note(isWrong ? 'digest_mismatch' : 'cut');
      throw error;
    }
    if (response.destroyed) {
      note('cut');
      return;
    }
    response.end();
    note('ok');
  }

  /** pip hides why a page is refused, so it gets a page whose only version says it. */
  #refuseRoute(route: Route, refusal: Refusal, artifact?: Artifact): void {
    const { version = '', filename: file = '' } = artifact ?? {};
    this.#note(route, { outcome: refusal.code, version, file });
    if (route.kind === 'catalog' && route.ecosystem === 'pip' && refusal.status === 403) {
      const accept = this.#request.headers.accept ?? '';
      this.#sendPage(refusalPage(route.name, refusal.code, accept));
      return;
    }
    this.refuse(refusal);
  }

  #fail(error: unknown, route: Route): void {
    const { sandboxId, log } = this.#context;
    const fields = { sandbox: sandboxId, package: route.name, error: describeError(error) };
    log.warn('a package could not be fetched', fields);
    if (this.#response.headersSent) {
      // Never a clean end: the file is not complete.
      this.#response.destroy();
      return;
    }
    const isLate = error instanceof PackageError && error.code === 'upstream_timeout';
    const code = isLate ? 'upstream_timeout' : 'upstream_failed';
    const what = 'The package index of the host failed; the log of the host has the cause.';
    // 404 of a file that a page named, or 403: final. Otherwise the client may try again.
    const isFinal = error instanceof PackageError && (error.status ?? 500) < 500;
    const { refusal } = refused(isFinal ? 404 : isLate ? 504 : 502, code, what);
    this.#note(route, { outcome: code });
    this.refuse(refusal);
  }

  #note({ ecosystem, name }: Route, more: Partial<PackageFetch> & { outcome: string }): void {
    const none = { version: '', file: '', digest: '', bytes: 0, cached: false };
    this.#context.onFetch({ ecosystem, name, ...none, ...more });
  }
}

function lengthOf(
  range: ByteRange | undefined,
  sizeBytes: number | null,
): Readonly<Record<string, string | number>> {
  if (range === undefined) return sizeBytes === null ? {} : { 'content-length': sizeBytes };
  const { from, to } = range;
  return { 'content-length': to - from, 'content-range': `bytes ${from}-${to - 1}/${sizeBytes}` };
}

/** Resolves when the guest has read enough, or is gone. */
function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off('drain', done);
      response.off('close', done);
      resolve();
    };
    response.once('drain', done);
    response.once('close', done);
  });
}
