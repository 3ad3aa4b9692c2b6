/**
 * The sparse index of cargo, and crates. Pure.
 *
 *     /cargo/index/config.json            where crates are: here
 *     /cargo/index/aa/bb/NAME             the versions of a crate, one line of JSON each
 *     /cargo/dl/NAME/VERSION/SHA256       a crate
 */
import { z } from 'zod';
import { KIB } from '../../../base/units.ts';
import { PackageError } from '../errors.ts';
import type { Artifact, Catalog, RawPage, RenderedPage, Route } from './artifact.ts';

const NAME = /^[A-Za-z][A-Za-z0-9_-]{0,63}$/;
const VERSION = /^[0-9][A-Za-z0-9.+-]{0,127}$/;
const SHA256 = /^[0-9a-f]{64}$/;
const LINES_MAX = 20_000;
const CONFIG_BYTES_MAX = 64 * KIB;

/** @param segments below `/cargo/` */
export function cargoRoute(segments: readonly string[]): Route | undefined {
  const [room, ...rest] = segments;
  const named = { ecosystem: 'cargo', index: 'cargo' } as const;
  if (room === 'dl' && rest.length === 3) {
    const [name = '', version = '', sha256 = ''] = rest;
    if (!NAME.test(name) || !VERSION.test(version) || !SHA256.test(sha256)) return undefined;
    return { kind: 'artifact', ...named, name: name.toLowerCase(), key: `${version}/${sha256}` };
  }
  if (room !== 'index') return undefined;
  if (rest.length === 1 && rest[0] === 'config.json') {
    return { kind: 'static', ...named, name: '', page: configPage };
  }
  const name = rest.at(-1) ?? '';
  if (!NAME.test(name) || name !== name.toLowerCase()) return undefined;
  return rest.join('/') === cargoPage(name) ? { kind: 'catalog', ...named, name } : undefined;
}

function configPage(origin: string): RenderedPage {
  const dl = `${origin}/cargo/dl/{crate}/{version}/{sha256-checksum}`;
  return { contentType: 'application/json', body: JSON.stringify({ dl }) };
}

/** Path of an index file (Cargo's book, "Index Files"). @param name in lower case */
export function cargoPage(name: string): string {
  if (name.length <= 2) return `${name.length}/${name}`;
  if (name.length === 3) return `3/${name[0]}/${name}`;
  return `${name.slice(0, 2)}/${name.slice(2, 4)}/${name}`;
}

/** The `dl` setting: where the index has its crates. @throws PackageError `upstream_invalid` */
export function parseCargoConfig(page: RawPage): string {
  try {
    if (page.body.length > CONFIG_BYTES_MAX) throw new Error('it is too large');
    const { dl } = z.object({ dl: z.string().max(2000) }).parse(JSON.parse(page.body.toString('utf8')));
    return dl;
  } catch (cause) {
    throw new PackageError('upstream_invalid', 'the index has no config.json with dl', { cause });
  }
}

const text = z.string().max(2000);
const features = z.record(text, z.array(text));
const lineSchema = z.object({
  name: z.string().regex(NAME),
  vers: z.string().regex(VERSION),
  deps: z.array(
    z.object({
      name: text,
      req: text,
      features: z.array(text).catch([]),
      optional: z.boolean().catch(false),
      default_features: z.boolean().catch(true),
      target: text.nullish(),
      kind: text.nullish(),
      // A dependency in another registry can't be fetched.
      registry: z.null().optional(),
      package: text.nullish(),
    }),
  ),
  cksum: z.string().regex(SHA256),
  features: features.catch({}),
  features2: features.optional().catch(undefined),
  yanked: z.boolean().catch(false),
  links: text.nullish().catch(undefined),
  v: z.number().int().optional().catch(undefined),
  rust_version: text.nullish().catch(undefined),
  pubtime: z.string().max(40).optional().catch(undefined),
});

interface CrateVersion extends Artifact {
  readonly line: string;
}

/** @param dl setting of the index's configuration. @throws PackageError `upstream_invalid` */
export function parseCargoIndex(name: string, page: RawPage, dl: string): Catalog {
  const lines = page.body.toString('utf8').split('\n', LINES_MAX + 1);
  if (lines.length > LINES_MAX) {
    throw new PackageError('upstream_invalid', 'the index file has too many lines');
  }
  return new Crate(
    name,
    lines.flatMap((line) => crateVersion(name, line, dl)),
  );
}

function crateVersion(name: string, text: string, dl: string): CrateVersion[] {
  if (text.trim() === '') return [];
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    // Cargo ignores such a line, too.
    if (error instanceof SyntaxError) return [];
    throw error;
  }
  const checked = lineSchema.safeParse(parsed);
  if (!checked.success || checked.data.name.toLowerCase() !== name) return [];
  const { name: crate, vers, cksum, pubtime } = checked.data;
  const url = URL.parse(crateUrl(dl, crate, vers, cksum));
  if (url === null) return [];
  const publishedMs = pubtime === undefined ? Number.NaN : Date.parse(pubtime);
  return [
    {
      name,
      version: vers,
      filename: `${crate}-${vers}.crate`,
      url: url.href,
      digests: [{ algorithm: 'sha256', hex: cksum }],
      publishedMs: Number.isFinite(publishedMs) ? publishedMs : null,
      sizeBytes: null,
      line: JSON.stringify(checked.data),
    },
  ];
}

/** Cargo's book, "Index Configuration". */
function crateUrl(dl: string, crate: string, version: string, sha256: string): string {
  if (!dl.includes('{')) return `${dl}/${crate}/${version}/download`;
  const prefix = cargoPage(crate.toLowerCase()).split('/').slice(0, -1).join('/');
  return dl
    .replaceAll('{crate}', crate)
    .replaceAll('{version}', version)
    .replaceAll('{prefix}', cargoPage(crate).split('/').slice(0, -1).join('/'))
    .replaceAll('{lowerprefix}', prefix)
    .replaceAll('{sha256-checksum}', sha256);
}

class Crate implements Catalog {
  readonly name: string;
  readonly #versions: readonly CrateVersion[];
  readonly #byKey: ReadonlyMap<string, CrateVersion>;

  constructor(name: string, versions: readonly CrateVersion[]) {
    this.name = name;
    this.#versions = versions;
    this.#byKey = new Map(versions.map((one) => [`${one.version}/${one.digests[0]?.hex}`, one] as const));
  }

  find(key: string): Artifact | undefined {
    return this.#byKey.get(key);
  }

  render(permits: (file: Artifact) => boolean): RenderedPage {
    const lines = this.#versions.filter((one) => permits(one)).map(({ line }) => `${line}\n`);
    return { contentType: 'text/plain', body: lines.join('') };
  }
}
