/**
 * The npm registry: packuments and tarballs. Pure.
 *
 *     /npm/NAME   /npm/@SCOPE%2fNAME       the packument
 *     /npm/NAME/-/FILE.tgz                 one of its tarballs
 *
 * A version without `integrity` or `shasum` does not exist for a sandbox. For each version only the fields pass that
 * clients need to install it.
 */
import { z } from 'zod';
import { PackageError } from '../errors.ts';
import type { Digest } from '../policy.ts';
import type { Artifact, Catalog, RawPage, RenderedPage, Route } from './artifact.ts';

export const NPM_ACCEPT = 'application/json';
const SHORT_TYPE = 'application/vnd.npm.install-v1+json';

const NAME_CHARACTERS_MAX = 214;
/** Old names have capitals. */
const PART = '[A-Za-z0-9~_-][A-Za-z0-9._~-]*';
const NAME = new RegExp(`^(?:@${PART}/)?${PART}$`);
const TARBALL = /^[A-Za-z0-9][A-Za-z0-9._~+-]{0,254}\.tgz$/;
const VERSION = /^[0-9][A-Za-z0-9.+-]{0,255}$/;
const VERSIONS_MAX = 50_000;

/** @param segments below `/npm/` */
export function npmRoute(segments: readonly string[]): Route | undefined {
  const [first = '', ...others] = segments;
  // The slash of a scope may also arrive as a separator.
  const isSplit = first.startsWith('@') && !first.includes('/');
  const name = isSplit ? `${first}/${others.shift() ?? ''}` : first;
  if (!isNpmName(name)) return undefined;
  const named = { ecosystem: 'npm', index: 'npm', name } as const;
  if (others.length === 0) return { kind: 'catalog', ...named };
  const [dash, file = '', ...more] = others;
  if (dash !== '-' || more.length > 0 || !TARBALL.test(file)) return undefined;
  return { kind: 'artifact', ...named, key: file };
}

export function isNpmName(name: string): boolean {
  return name.length <= NAME_CHARACTERS_MAX && name !== '-' && NAME.test(name);
}

export const npmPage = (name: string): string => name.replace('/', '%2f');

const text = z.string().max(10_000);
const texts = z.record(z.string().max(300), text);
const optional = <T extends z.ZodType>(type: T) => type.optional().catch(undefined);
const passed = {
  dependencies: optional(texts),
  optionalDependencies: optional(texts),
  devDependencies: optional(texts),
  peerDependencies: optional(texts),
  peerDependenciesMeta: optional(z.record(z.string().max(300), z.object({ optional: optional(z.boolean()) }))),
  bundleDependencies: optional(z.union([z.boolean(), z.array(text)])),
  bundledDependencies: optional(z.union([z.boolean(), z.array(text)])),
  bin: optional(z.union([text, texts])),
  directories: optional(texts),
  engines: optional(texts),
  os: optional(z.array(text)),
  cpu: optional(z.array(text)),
  libc: optional(z.array(text)),
  deprecated: optional(z.union([text, z.boolean()])),
  hasInstallScript: optional(z.boolean()),
  _hasShrinkwrap: optional(z.boolean()),
};
const versionSchema = z.object({
  ...passed,
  scripts: optional(texts),
  dist: z.object({
    tarball: z.string().max(4096),
    integrity: optional(z.string().max(2000)),
    shasum: optional(z.string().max(100)),
    unpackedSize: optional(z.number().int().nonnegative()),
    fileCount: optional(z.number().int().nonnegative()),
  }),
});
const packumentSchema = z.object({
  versions: z.record(z.string(), z.unknown()),
  'dist-tags': z.record(z.string().max(300), z.string().max(300)).catch({}),
  time: z.record(z.string(), z.unknown()).catch({}),
});

interface NpmVersion extends Artifact {
  readonly passed: Readonly<Record<string, unknown>>;
  readonly integrity: string | undefined;
  readonly shasum: string | undefined;
  readonly time: string | undefined;
}

/** @throws PackageError `upstream_invalid` */
export function parsePackument(name: string, page: RawPage): Catalog {
  let parsed: unknown;
  try {
    parsed = JSON.parse(page.body.toString('utf8'));
  } catch (cause) {
    throw new PackageError('upstream_invalid', 'the registry answered with invalid JSON', { cause });
  }
  const checked = packumentSchema.safeParse(parsed);
  if (!checked.success || Object.keys(checked.data.versions).length > VERSIONS_MAX) {
    throw new PackageError('upstream_invalid', 'the registry answered with no packument');
  }
  const { versions, time, 'dist-tags': tags } = checked.data;
  const found = Object.entries(versions).flatMap(([version, given]) =>
    npmVersion(name, version, given, time[version], page.url),
  );
  return new Packument(name, found, tags);
}

function npmVersion(name: string, version: string, given: unknown, at: unknown, pageUrl: string): NpmVersion[] {
  if (!VERSION.test(version)) return [];
  const checked = versionSchema.safeParse(given);
  if (!checked.success) return [];
  const { dist, scripts, ...fields } = checked.data;
  const digests = digestsOf(dist.integrity, dist.shasum);
  const url = URL.parse(dist.tarball, pageUrl);
  if (digests.length === 0 || url === null) return [];
  const time = typeof at === 'string' && at.length <= 40 ? at : undefined;
  const publishedMs = time === undefined ? Number.NaN : Date.parse(time);
  const runs = ['preinstall', 'install', 'postinstall'].some((one) => scripts?.[one] !== undefined);
  return [
    {
      name,
      version,
      filename: `${name.split('/').at(-1)}-${version}.tgz`,
      url: url.href,
      digests,
      publishedMs: Number.isFinite(publishedMs) ? publishedMs : null,
      sizeBytes: null,
      passed: { ...fields, ...(fields.hasInstallScript === true || runs ? { hasInstallScript: true } : {}) },
      integrity: dist.integrity,
      shasum: dist.shasum,
      time,
    },
  ];
}

/**
 * Subresource Integrity, else the older SHA-1 in hex. Only one: the file is checked against it, and a lock must name
 * the same, or a registry could list a locked digest beside that of another file.
 */
function digestsOf(integrity: string | undefined, shasum: string | undefined): Digest[] {
  for (const one of (integrity ?? '').split(/\s+/)) {
    const [, base64] = /^sha512-([A-Za-z0-9+/]{86}==)$/.exec(one) ?? [];
    if (base64 === undefined) continue;
    return [{ algorithm: 'sha512', hex: Buffer.from(base64, 'base64').toString('hex') }];
  }
  const isSha1 = shasum !== undefined && /^[0-9a-f]{40}$/.test(shasum);
  return isSha1 ? [{ algorithm: 'sha1', hex: shasum }] : [];
}

class Packument implements Catalog {
  readonly name: string;
  readonly #versions: readonly NpmVersion[];
  readonly #tags: Readonly<Record<string, string>>;
  readonly #byFile: ReadonlyMap<string, NpmVersion>;

  constructor(name: string, versions: readonly NpmVersion[], tags: Readonly<Record<string, string>>) {
    this.name = name;
    this.#versions = versions;
    this.#tags = tags;
    this.#byFile = new Map([
      // Names of old tarballs differ; lock files have them.
      ...versions.map((one) => [basename(one.url), one] as const),
      ...versions.map((one) => [one.filename, one] as const),
    ]);
  }

  find(key: string): Artifact | undefined {
    return this.#byFile.get(key);
  }

  render(permits: (file: Artifact) => boolean, accept: string, origin: string): RenderedPage {
    const versions = this.#versions.filter((one) => permits(one));
    const isShort = accept.includes(SHORT_TYPE);
    const times = versions.flatMap(({ version, time }) => (time === undefined ? [] : [[version, time]]));
    const body = JSON.stringify({
      name: this.name,
      'dist-tags': this.#tagsFor(versions),
      versions: Object.fromEntries(versions.map((one) => [one.version, this.#shown(one, origin)] as const)),
      ...(times.length === 0 ? {} : { time: Object.fromEntries(times) as Record<string, string> }),
    });
    return { contentType: isShort ? SHORT_TYPE : 'application/json', body };
  }

  #shown(one: NpmVersion, origin: string): Readonly<Record<string, unknown>> {
    const { version, filename, integrity, shasum } = one;
    const tarball = `${origin}/npm/${this.name}/-/${filename}`;
    return { name: this.name, version, ...one.passed, dist: { tarball, integrity, shasum } };
  }

  /** Moves `latest` to the newest remaining version. */
  #tagsFor(versions: readonly NpmVersion[]): Readonly<Record<string, string>> {
    const there = new Set(versions.map(({ version }) => version));
    const tags = Object.entries(this.#tags).filter(([, version]) => there.has(version));
    const newest = newestOf([...there]);
    const latest = there.has(this.#tags['latest'] ?? '') ? this.#tags['latest'] : newest;
    return { ...Object.fromEntries(tags), ...(latest === undefined ? {} : { latest }) };
  }
}

function basename(url: string): string {
  return new URL(url).pathname.split('/').at(-1) ?? '';
}

/** The highest release, or the highest prerelease if there is none. */
export function newestOf(versions: readonly string[]): string | undefined {
  const releases = versions.filter((version) => !version.includes('-'));
  const all = releases.length > 0 ? releases : versions;
  return all.toSorted(compareVersions).at(-1);
}

function compareVersions(a: string, b: string): number {
  const [left, right] = [numbersOf(a), numbersOf(b)];
  for (const [index, number] of left.entries()) {
    const difference = number - (right[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return a < b ? -1 : 1;
}

const numbersOf = (version: string): number[] => (version.split(/[-+]/, 1)[0] ?? '').split('.').map(Number);
