/**
 * Serves one request: route, policy, page or file, answer (io).
 *
 *     parse ─► policy of the name ─► budget of names ─► page ─► policy of the file ─► file, checked as it passes
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import type { LoopTime } from '../../../base/fairness/loop-time.ts';
import type { Log } from '../../../base/log.ts';
import { HOST_DISK_FULL } from '../../../base/request/package-policy.ts';
import { orAborted } from '../../../base/time-limit.ts';
import { PackageError } from '../errors.ts';
import type { PackageFetch } from '../fetch-record.ts';
import type { NameBudget } from '../name-budget.ts';
import { type PackageRules, permitsFile } from '../policy.ts';
import type { Artifact, ArtifactRoute, CatalogRoute, IndexName, RelayRoute, Route } from '../protocol/artifact.ts';
import { isCovered, timeOfInfo } from '../protocol/go.ts';
import { refusalPage } from '../protocol/pypi.ts';
import { type ByteRange, parseRange } from '../range.ts';
import { accepted, type Checked, NOT_FOUND, phraseOf, type Refusal, refused } from '../refusal.ts';
import type { Catalogs } from '../store/catalogs.ts';
import type { OpenFile, PackageFiles } from '../store/package-files.ts';
import type { PageReader } from '../store/page-reader.ts';
import type { PageAnswer, PageQuestion, PageToRead } from '../store/page-reading.ts';
import { type Index, loginAt } from '../upstream/index-set.ts';
import { parseRoute } from './route.ts';

/** Origin as seen in the guest. */
const ORIGIN = 'http://127.0.0.1:11435';

interface PageToSend {
  readonly contentType: string;
  readonly body: string | Uint8Array;
}

export interface ExchangeContext {
  readonly sandboxId: string;
  readonly mayLogIn: (host: string) => boolean;
  readonly rules: PackageRules;
  readonly budget: NameBudget;
  readonly catalogs: Catalogs;
  readonly reader: PageReader;
  readonly files: PackageFiles;
  readonly pageTime: LoopTime;
  readonly clock: Clock;
  readonly log: Log;
  readonly onFetch: (fetch: PackageFetch) => void;
}

export class Exchange {
  readonly #context: ExchangeContext;
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #gone = new AbortController();

  constructor(context: ExchangeContext, request: IncomingMessage, response: ServerResponse) {
    this.#context = context;
    this.#request = request;
    this.#response = response;
    response.once('close', () => {
      this.#gone.abort(new PackageError('canceled', 'the client left'));
    });
  }

  /** Resolves when the answer is written or the connection is gone. Never rejects. */
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
    const { rules, budget, catalogs, mayLogIn } = this.#context;
    const { ecosystem, name } = route;
    const permitted = rules.permitsName(ecosystem, name);
    if (!permitted.ok) {
      this.#refuseRoute(route, permitted.refusal);
      return;
    }
    const index = await this.#orGone(catalogs.index(route));
    if (index === undefined) {
      const message = `This host has no index of ${ecosystem} packages: configure one there.`;
      this.#refuseRoute(route, refused(403, 'no_index', message).refusal);
      return;
    }
    const login = loginAt(index);
    if (login !== null && !mayLogIn(login)) {
      const message = `This host logs in at its index of ${ecosystem} packages, which its operator has not allowed for this sandbox.`;
      this.#refuseRoute(route, refused(403, 'no_index', message).refusal);
      return;
    }
    if (index.except !== undefined && isCovered(name, index.except)) {
      this.#refuseRoute(route, refused(403, 'no_index', PRIVATE[route.index] ?? '').refusal);
      return;
    }
    if (route.kind === 'static') {
      this.#sendPage(route.page(this.#origin()));
      return;
    }
    const key = `${ecosystem}:${route.kind === 'relay' ? route.path : name}`;
    const taken = budget.take(key);
    if (!taken.ok) {
      this.#refuseRoute(route, taken.refusal);
      return;
    }
    try {
      if (route.kind === 'relay') await this.#relay(route, index, taken.value.isNew);
      else await this.#ofCatalog(route, index, taken.value.isNew);
    } catch (error) {
      const { status = 0 } = error instanceof PackageError ? error : {};
      if (status < 400 || status > 499 || this.#response.headersSent) throw error;
      budget.missed(key);
      const isMissing = [404, 410].includes(status);
      const message = `The package index of the host refuses this with status ${status}.`;
      const { refusal } = isMissing ? NOT_FOUND : refused(403, 'upstream_refused', message);
      this.#note(route, { outcome: refusal.code });
      this.refuse(refusal);
    }
  }

  async #ofCatalog(route: CatalogRoute | ArtifactRoute, index: Index, isNew: boolean): Promise<void> {
    const page = await this.#orGone(this.#context.catalogs.page(route, index));
    const answer = await this.#orGone(this.#ask(page, route));
    if (answer.kind === 'file') {
      if (route.kind === 'artifact') await this.#artifact(route, answer.file, index);
      return;
    }
    this.#sendPage(answer);
    if (isNew) this.#note(route, { outcome: 'ok' });
  }

  #ask(page: PageToRead, route: CatalogRoute | ArtifactRoute): Promise<PageAnswer> {
    const { reader, rules, pageTime: loopTime, sandboxId, clock } = this.#context;
    const question: PageQuestion =
      route.kind === 'artifact'
        ? { kind: 'file', key: route.key }
        : {
            kind: 'page',
            rules: rules.fileRules(route.ecosystem, route.name),
            nowMs: clock.wall(),
            accept: this.#request.headers.accept ?? '',
            origin: this.#origin(),
          };
    return reader.ask(page, question, { sandboxId, loopTime, signal: this.#gone.signal });
  }

  /** Shared work continues without a client that leaves; only its request ends. */
  #orGone<T>(work: Promise<T>): Promise<T> {
    return orAborted(work, this.#gone.signal);
  }

  async #relay(route: RelayRoute, index: Index, isNew: boolean): Promise<void> {
    const { catalogs } = this.#context;
    const { name, version, path, digest, contentType } = route;
    const artifact: Artifact = {
      name,
      version,
      filename: path.split('/').at(-1) ?? '',
      url: `${index.baseUrl}${path}`,
      digests: digest === null ? [] : [digest],
      publishedMs: await this.#publishedMs(route, index),
      sizeBytes: null,
    };
    const isPackage = name !== '' && (version !== '' || route.infoPath !== null);
    const permitted = isPackage ? this.#permits(route, artifact) : accepted(undefined);
    if (!permitted.ok) {
      this.#refuseRoute(route, permitted.refusal, artifact);
      return;
    }
    if (route.isImmutable) {
      await this.#file(route, artifact, index, contentType);
      return;
    }
    const { value: body, validators } = await this.#orGone(catalogs.text(index, path));
    const { lastModified } = validators;
    const known = this.#request.headers['if-modified-since'];
    if (lastModified !== undefined && known === lastModified) {
      this.#response.writeHead(304, { 'last-modified': lastModified });
      this.#response.end();
      return;
    }
    this.#sendPage({ contentType, body }, lastModified);
    if (isNew) this.#note(route, { outcome: 'ok', version });
  }

  /** Time of publication, if the policy needs it; `null` if unknown. */
  async #publishedMs({ infoPath, name }: RelayRoute, index: Index): Promise<number | null> {
    const { rules, catalogs } = this.#context;
    if (rules.policy.minAgeMs === null || infoPath === null) return null;
    // The module proxy has the description, even for the checksum database.
    if (name === '') return null;
    return timeOfInfo((await this.#orGone(catalogs.text(index, infoPath))).value);
  }

  #permits({ ecosystem, name }: Route, file: Artifact): Checked<void> {
    const { rules, clock } = this.#context;
    return permitsFile(rules.fileRules(ecosystem, name), name, file, clock.wall());
  }

  #sendPage({ contentType, body }: PageToSend, lastModified?: string): void {
    const bytes = typeof body === 'string' ? Buffer.from(body) : body;
    this.#response.writeHead(200, {
      'content-type': contentType,
      'content-length': bytes.length,
      // The policy may change: clients may keep the page, but not use it without asking.
      'cache-control': 'no-cache',
      ...(lastModified === undefined ? {} : { 'last-modified': lastModified }),
    });
    this.#response.end(bytes);
  }

  async #artifact(route: ArtifactRoute, artifact: Artifact | undefined, index: Index): Promise<void> {
    if (artifact === undefined) {
      this.#refuseRoute(route, NOT_FOUND.refusal);
      return;
    }
    const permitted = this.#permits(route, artifact);
    if (!permitted.ok) {
      this.#refuseRoute(route, permitted.refusal, artifact);
      return;
    }
    await this.#file(route, artifact, index, 'application/octet-stream');
  }

  async #file(route: Route, artifact: Artifact, index: Index, contentType: string): Promise<void> {
    const file = await this.#context.files.open(artifact, index, this.#gone.signal);
    try {
      await this.#sendFile(route, artifact, file, contentType);
    } finally {
      await file.close();
    }
  }

  async #sendFile(route: Route, artifact: Artifact, file: OpenFile, contentType: string): Promise<void> {
    const { request, response } = { request: this.#request, response: this.#response };
    const [digest] = artifact.digests;
    const etag = digest === undefined ? undefined : `"${digest.hex}"`;
    const ifRange = request.headers['if-range'];
    const wanted =
      ifRange === undefined || (ifRange === etag && etag !== undefined) ? request.headers.range : undefined;
    const isHead = request.method === 'HEAD';
    let sizeBytes = file.sizeBytes ?? artifact.sizeBytes;
    if (sizeBytes === null && (isHead || wanted !== undefined)) sizeBytes = await file.complete();
    const range = sizeBytes === null || isHead ? undefined : parseRange(wanted, sizeBytes);
    const head = {
      'content-type': contentType,
      'accept-ranges': 'bytes',
      'cache-control': 'max-age=31536000, immutable',
      ...(etag === undefined ? {} : { etag }),
    };
    if (range === 'unsatisfiable') {
      response.writeHead(416, { 'content-range': `bytes */${sizeBytes}`, 'content-length': 0 });
      response.end();
      return;
    }
    // A part from the middle has no last byte to hold back.
    if (range !== undefined && range.to !== sizeBytes) await file.complete();
    response.writeHead(range === undefined ? 200 : 206, { ...head, ...lengthOf(range, sizeBytes) });
    if (isHead) {
      response.end();
      return;
    }
    const { from, to } = range ?? { from: 0, to: null };
    let bytes = 0;
    const note = (outcome: string): void => {
      const { version, filename } = artifact;
      const cached = file.isCached;
      this.#note(route, {
        outcome,
        version,
        file: filename,
        digest: digest === undefined ? '' : `${digest.algorithm}:${digest.hex}`,
        bytes,
        cached,
      });
    };
    try {
      const expected = range === undefined ? sizeBytes : range.to - range.from;
      for await (const chunk of exactly(file.read(from, to), expected)) {
        if (response.destroyed) break;
        bytes += chunk.length;
        if (!response.write(chunk)) await drained(response);
      }
    } catch (error) {
      const { code } = error instanceof PackageError ? error : {};
      note(code === 'digest_mismatch' || code === 'disk_full' ? code : 'cut');
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
    if (this.#gone.signal.aborted && error === this.#gone.signal.reason) return;
    const { sandboxId, log } = this.#context;
    const fields = { sandbox: sandboxId, package: route.name, error: describeError(error) };
    log.warn('a package could not be fetched', fields);
    if (this.#response.headersSent) {
      // Never a clean end: the file is not complete.
      this.#response.destroy();
      return;
    }
    if (error instanceof PackageError && error.code === 'index_invalid') {
      // Names the setting, never its value.
      const message = `This host's index can't be used: ${error.message}. Correct it there.`;
      this.#refuseRoute(route, refused(403, 'no_index', message).refusal);
      return;
    }
    if (error instanceof PackageError && error.code === 'disk_full') {
      this.#note(route, { outcome: 'disk_full' });
      // Final, like 403: retrying frees nothing.
      this.refuse(refused(403, 'disk_full', `${HOST_DISK_FULL}: free space there.`).refusal);
      return;
    }
    if (error instanceof PackageError && error.code === 'address_refused') {
      const message = 'The host does not connect to the server of this file; its log has the cause.';
      this.#note(route, { outcome: 'address_refused' });
      this.refuse(refused(403, 'address_refused', message).refusal);
      return;
    }
    const isLate = error instanceof PackageError && error.code === 'upstream_timeout';
    const code = isLate ? 'upstream_timeout' : 'upstream_failed';
    const what = 'The package index of the host failed; the log of the host has the cause.';
    const { refusal } = refused(isLate ? 504 : 502, code, what);
    this.#note(route, { outcome: code });
    this.refuse(refusal);
  }

  /** The origin that the client used: pages of npm and cargo need whole URLs. */
  #origin(): string {
    const { host = '' } = this.#request.headers;
    return /^(?:127\.0\.0\.1|localhost):[0-9]{1,5}$/.test(host) ? `http://${host}` : ORIGIN;
  }

  #note({ ecosystem, name }: Route, more: Partial<PackageFetch> & { outcome: string }): void {
    const none = { version: '', file: '', digest: '', bytes: 0, cached: false };
    this.#context.onFetch({ ecosystem, name, ...none, ...more });
  }
}

/** Refusals for modules that the host's Go does not request from an index: their names stay on the host. */
const PRIVATE: Readonly<Partial<Record<IndexName, string>>> = {
  go: "The host's Go fetches this module without a proxy (GOPRIVATE, GONOPROXY): bring it with --copy or a vendor directory.",
  sumdb:
    "The host's Go does not ask the checksum database for this module: set GONOSUMDB of the host in the sandbox, too.",
};

function lengthOf(range: ByteRange | undefined, sizeBytes: number | null): Readonly<Record<string, string | number>> {
  if (range === undefined) return sizeBytes === null ? {} : { 'content-length': sizeBytes };
  const { from, to } = range;
  return { 'content-length': to - from, 'content-range': `bytes ${from}-${to - 1}/${sizeBytes}` };
}

/**
 * Enforces the length in the head, which may come from a page. If it were wrong, the guest would take the rest of the
 * file for the next answer.
 * @param sizeBytes `null` if the answer has no length. @throws PackageError `upstream_invalid`
 */
async function* exactly(
  chunks: AsyncIterable<Buffer>,
  sizeBytes: number | null,
): AsyncGenerator<Buffer, void, undefined> {
  const wrong = (): PackageError =>
    new PackageError('upstream_invalid', `the index says that the file has ${sizeBytes} bytes`);
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (sizeBytes !== null && bytes > sizeBytes) throw wrong();
    yield chunk;
  }
  if (sizeBytes !== null && bytes !== sizeBytes) throw wrong();
}

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
