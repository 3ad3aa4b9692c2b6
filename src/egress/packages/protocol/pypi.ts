/**
 * The Simple API of Python indexes (PEP 503, 691, 700, 714). Pure.
 *
 *     /pypi/simple/NAME/            the page of a name
 *     /pypi/files/SHA256/FILENAME   one of its files, or its metadata (`FILENAME.metadata`)
 *
 * A file without a SHA-256 in its page does not exist for a sandbox, since its bytes could not be checked.
 */
import { z } from 'zod';
import { PackageError } from '../errors.ts';
import type { Artifact, Catalog, RawPage, RenderedPage, Route } from './artifact.ts';

export const PYPI_ACCEPT =
  'application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1';
const JSON_TYPE = 'application/vnd.pypi.simple.v1+json';
const HTML_TYPE = 'application/vnd.pypi.simple.v1+html';

const NAME_CHARACTERS_MAX = 128;
/** The normal form of the packaging specification: lower case, and one separator. */
const NORMAL_NAME = /^[a-z0-9]+(?:-[a-z0-9]+)*$/;
const FILENAME = /^[A-Za-z0-9][A-Za-z0-9._+!-]{0,254}\.(?:whl|tar\.gz|zip)$/;
const SHA256 = /^[0-9a-f]{64}$/;
const FILES_MAX = 100_000;
const METADATA = '.metadata';

export function normalName(name: string): string {
  return name.toLowerCase().replace(/[-_.]+/g, '-');
}

/** @param segments below `/pypi/` */
export function pypiRoute(segments: readonly string[]): Route | undefined {
  const [room, first = '', second, ...more] = segments;
  if (more.length > 0) return undefined;
  if (room === 'simple' && (second === '' || second === undefined)) {
    const name = normalName(first);
    const isName = name.length <= NAME_CHARACTERS_MAX && NORMAL_NAME.test(name);
    return isName ? { kind: 'catalog', ecosystem: 'pip', index: 'pip', name } : undefined;
  }
  if (room !== 'files' || second === undefined || !SHA256.test(first)) return undefined;
  const filename = withoutMetadata(second);
  const name = FILENAME.test(filename) ? nameOfFile(filename) : undefined;
  if (name === undefined) return undefined;
  return { kind: 'artifact', ecosystem: 'pip', index: 'pip', name, key: `${first}/${second}` };
}

export const pypiPage = (name: string): string => `${name}/`;

const withoutMetadata = (name: string): string => (name.endsWith(METADATA) ? name.slice(0, -METADATA.length) : name);

/** PEP 440, appendix B, with a limited number of suffixes, since any number would be ambiguous to parse. */
const VERSION =
  /^v?[0-9]+(?:[.!][0-9]+)*(?:[-_.]?(?:alpha|a|beta|b|preview|pre|rc|c|post|rev|r|dev)[-_.]?[0-9]*){0,3}(?:-[0-9]+)?(?:\+[a-z0-9._-]+)?$/i;

/** Limit of parts of an sdist's name between hyphens; no valid name has more. */
const PARTS_MAX = 20;

/**
 * The normal name of a file's project; undefined if it has none. A wheel's name ends at the first hyphen; an sdist's
 * before its version, though names and versions of old sdists contain hyphens, too.
 */
export function nameOfFile(filename: string): string | undefined {
  const isWheel = filename.endsWith('.whl');
  const stem = filename.replace(/\.(?:whl|tar\.gz|zip)$/, '');
  const name = normalName((isWheel ? /^([^-]+)-/.exec(stem)?.[1] : nameOfSdist(stem)) ?? '');
  return name.length <= NAME_CHARACTERS_MAX && NORMAL_NAME.test(name) ? name : undefined;
}

function nameOfSdist(stem: string): string | undefined {
  const parts = stem.split('-');
  if (parts.length > PARTS_MAX) return undefined;
  const split = (isVersion: (rest: string) => boolean): string | undefined => {
    const at = parts.findIndex((_, index) => index > 0 && isVersion(parts.slice(index).join('-')));
    return at < 0 ? undefined : parts.slice(0, at).join('-');
  };
  return split((rest) => VERSION.test(rest)) ?? split((rest) => /^v?[0-9]/.test(rest));
}

interface PypiFile extends Artifact {
  readonly sha256: string;
  readonly requiresPython: string | null;
  readonly yanked: string | boolean;
  /** SHA-256 of its metadata; `null` if none is offered. */
  readonly metadata: string | null;
  readonly uploadTime: string | null;
}

const hashes = z.record(z.string().max(20), z.string().max(200)).catch({});
const metadataSchema = z.union([z.boolean(), hashes]).optional().catch(undefined);
const fileSchema = z.object({
  filename: z.string().max(300),
  url: z.string().max(4096),
  hashes,
  'requires-python': z.string().max(200).nullish().catch(null),
  yanked: z
    .union([z.boolean(), z.string().max(1000)])
    .optional()
    .catch(undefined),
  'upload-time': z.string().max(40).nullish().catch(null),
  size: z.number().int().nonnegative().nullish().catch(null),
  'core-metadata': metadataSchema,
  'data-dist-info-metadata': metadataSchema,
  'dist-info-metadata': metadataSchema,
});
const pageSchema = z.object({ files: z.array(z.unknown()).max(FILES_MAX) });

/** @throws PackageError `upstream_invalid` */
export function parsePypiPage(name: string, page: RawPage): Catalog {
  const [type = ''] = page.contentType.toLowerCase().split(';');
  const isJson = type.trim() === JSON_TYPE;
  const found = isJson ? jsonFiles(page) : htmlFiles(page);
  return new PypiCatalog(name, found);
}

function jsonFiles(page: RawPage): PypiFile[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(page.body.toString('utf8'));
  } catch (cause) {
    throw new PackageError('upstream_invalid', 'the index answered with invalid JSON', { cause });
  }
  const checked = pageSchema.safeParse(parsed);
  if (!checked.success) {
    throw new PackageError('upstream_invalid', 'the index answered with something else than a page');
  }
  return checked.data.files.flatMap((one) => {
    const file = fileSchema.safeParse(one);
    if (!file.success) return [];
    const { data } = file;
    const offered = data['core-metadata'] ?? data['dist-info-metadata'] ?? data['data-dist-info-metadata'];
    return pypiFile(page.url, {
      filename: data.filename,
      url: data.url,
      sha256: data.hashes['sha256'],
      requiresPython: data['requires-python'] ?? null,
      yanked: data.yanked ?? false,
      uploadTime: data['upload-time'] ?? null,
      sizeBytes: data.size ?? null,
      metadata: typeof offered === 'object' ? offered['sha256'] : undefined,
    });
  });
}

const ANCHOR = /<a\s/gi;
const ANCHOR_CHARACTERS_MAX = 8192;
/** Accepts attributes only in quotes, as indexes generate them. */
const ATTRIBUTE = /(?<![a-zA-Z-])([a-zA-Z-]{1,40})\s*=\s*(?:"([^"]*)"|'([^']*)')|([a-zA-Z-]{1,40})(?=\s|$)/g;

function htmlFiles(page: RawPage): PypiFile[] {
  const files: PypiFile[] = [];
  for (const inner of anchorsOf(page.body.toString('utf8'))) {
    if (files.length >= FILES_MAX) break;
    const attributes = new Map<string, string>();
    for (const [, key, double, single, bare] of inner.matchAll(ATTRIBUTE)) {
      attributes.set((key ?? bare ?? '').toLowerCase(), unescapeHtml(double ?? single ?? ''));
    }
    const href = attributes.get('href');
    if (href === undefined) continue;
    const [link = '', fragment = ''] = href.split('#', 2);
    const last = link.split('/').at(-1) ?? '';
    const offered = attributes.get('data-core-metadata') ?? attributes.get('data-dist-info-metadata') ?? '';
    const yanked = attributes.get('data-yanked');
    files.push(
      ...pypiFile(page.url, {
        filename: decodeName(last),
        url: link,
        sha256: /^sha256=([0-9a-f]{64})$/.exec(fragment)?.[1],
        requiresPython: attributes.get('data-requires-python') ?? null,
        yanked: yanked === undefined ? false : yanked || true,
        uploadTime: null,
        sizeBytes: null,
        metadata: /^sha256=([0-9a-f]{64})$/.exec(offered)?.[1],
      }),
    );
  }
  return files;
}

/** Content of link tags. Takes one pass for any text, which may be 32 MiB of unclosed tags. */
function* anchorsOf(text: string): Generator<string, void, undefined> {
  let end = -1;
  let readTo = 0;
  for (const { index, 0: begin } of text.matchAll(ANCHOR)) {
    const from = index + begin.length;
    if (end < from) end = text.indexOf('>', from);
    if (end < 0) return;
    if (index < readTo || end - from > ANCHOR_CHARACTERS_MAX) continue;
    readTo = end;
    yield text.slice(from, end);
  }
}

function decodeName(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (error instanceof URIError) return '';
    throw error;
  }
}

const ENTITIES: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'", '#x27': "'" };
const unescapeHtml = (text: string): string =>
  text.replace(/&(amp|lt|gt|quot|#39|#x27);/g, (_all, name: string) => ENTITIES[name] ?? '');
const escapeHtml = (text: string): string =>
  text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;');

/** Empty for a file that the gateway can't serve. */
function pypiFile(
  pageUrl: string,
  given: Omit<PypiFile, 'sha256' | 'name' | 'version' | 'digests' | 'publishedMs' | 'metadata'> & {
    readonly sha256: string | undefined;
    readonly metadata: string | undefined;
  },
): PypiFile[] {
  const { sha256, metadata: offered, ...file } = given;
  if (!FILENAME.test(file.filename) || sha256 === undefined || !SHA256.test(sha256)) return [];
  const url = URL.parse(file.url, pageUrl);
  const name = nameOfFile(file.filename);
  if (url === null || name === undefined) return [];
  const publishedMs = file.uploadTime === null ? Number.NaN : Date.parse(file.uploadTime);
  return [
    {
      ...file,
      sha256,
      name,
      version: versionOfFile(file.filename),
      url: url.href.replace(/#.*$/, ''),
      digests: [{ algorithm: 'sha256', hex: sha256 }],
      publishedMs: Number.isFinite(publishedMs) ? publishedMs : null,
      metadata: offered !== undefined && SHA256.test(offered) ? offered : null,
    },
  ];
}

function versionOfFile(filename: string): string {
  const stem = filename.replace(/\.(?:whl|tar\.gz|zip)$/, '');
  if (filename.endsWith('.whl')) return stem.split('-')[1] ?? '';
  return /-([0-9v][^-]*)$/.exec(stem)?.[1] ?? '';
}

class PypiCatalog implements Catalog {
  readonly name: string;
  readonly #files: readonly PypiFile[];
  readonly #byKey: ReadonlyMap<string, Artifact>;

  constructor(name: string, files: readonly PypiFile[]) {
    this.name = name;
    // A page may not name files of another project: this project's policy would apply to them.
    this.#files = files.filter((file) => file.name === name);
    this.#byKey = new Map(this.#files.flatMap(keysOf));
  }

  find(key: string): Artifact | undefined {
    return this.#byKey.get(key);
  }

  render(permits: (file: Artifact) => boolean, accept: string): RenderedPage {
    const files = this.#files.filter((file) => permits(file));
    const wantsJson = accept.includes(JSON_TYPE) || accept.includes('*/*') || accept === '';
    return wantsJson
      ? { contentType: JSON_TYPE, body: renderJson(this.name, files) }
      : { contentType: acceptsNewHtml(accept), body: renderHtml(this.name, files) };
  }
}

const acceptsNewHtml = (accept: string): string => (accept.includes(HTML_TYPE) ? HTML_TYPE : 'text/html');

/** The file, and its metadata if the index offers them. */
function keysOf(file: PypiFile): [string, Artifact][] {
  const { filename, sha256, digests, metadata } = file;
  const own: [string, Artifact] = [`${sha256}/${filename}`, file];
  if (metadata === null) return [own];
  const described: Artifact = {
    ...file,
    url: `${file.url}${METADATA}`,
    // Last, so that a lock of the file covers it.
    digests: [{ algorithm: 'sha256', hex: metadata }, ...digests],
    sizeBytes: null,
  };
  return [own, [`${sha256}/${filename}${METADATA}`, described]];
}

const linkOf = ({ sha256, filename }: PypiFile): string => `../../files/${sha256}/${encodeURIComponent(filename)}`;

function renderJson(name: string, files: readonly PypiFile[]): string {
  return JSON.stringify({
    meta: { 'api-version': '1.1' },
    name,
    versions: [...new Set(files.map(({ version }) => version))],
    files: files.map((file) => ({
      filename: file.filename,
      url: linkOf(file),
      hashes: { sha256: file.sha256 },
      ...(file.requiresPython === null ? {} : { 'requires-python': file.requiresPython }),
      ...(file.yanked === false ? {} : { yanked: file.yanked }),
      ...(file.uploadTime === null ? {} : { 'upload-time': file.uploadTime }),
      // PEP 700 requires a size, but 0 would be believed.
      ...(file.sizeBytes === null ? {} : { size: file.sizeBytes }),
      ...(file.metadata === null ? {} : { 'core-metadata': { sha256: file.metadata } }),
    })),
  });
}

function renderHtml(name: string, files: readonly PypiFile[]): string {
  const links = files.map((file) => {
    const { requiresPython, yanked, metadata } = file;
    const more = [
      requiresPython === null ? '' : ` data-requires-python="${escapeHtml(requiresPython)}"`,
      yanked === false ? '' : ` data-yanked="${yanked === true ? '' : escapeHtml(yanked)}"`,
      metadata === null ? '' : ` data-core-metadata="sha256=${metadata}"`,
    ].join('');
    const href = `${linkOf(file)}#sha256=${file.sha256}`;
    return `<a href="${href}"${more}>${file.filename}</a><br>\n`;
  });
  const head = '<!DOCTYPE html>\n<html><head><meta name="pypi:repository-version" content="1.0">';
  return `${head}<title>${name}</title></head><body>\n${links.join('')}</body></html>\n`;
}

/** Lists a wheel that does not exist, whose version says why. pip shows no other text of a refused page. */
export function refusalPage(name: string, code: string, accept: string): RenderedPage {
  const version = `0+${code.replace(/[^a-z0-9]+/g, '.')}`;
  const digest = '0'.repeat(64);
  const file = `${name.replace(/-/g, '_')}-${version}-py3-none-any.whl`;
  const [made] = pypiFile('http://refused.invalid/', {
    filename: file,
    url: file,
    sha256: digest,
    requiresPython: null,
    yanked: false,
    uploadTime: null,
    sizeBytes: null,
    metadata: undefined,
  });
  return new PypiCatalog(name, made === undefined ? [] : [made]).render(() => true, accept);
}
