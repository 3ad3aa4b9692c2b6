/** Images for tests: tar archives of layers, OCI layouts, and a registry on its own port that can fail. */
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';

export interface TarEntry {
  readonly name: string;
  /** As in ustar. Default: a file. */
  readonly type?: 'file' | 'link' | 'symlink' | 'char' | 'block' | 'dir' | 'fifo';
  readonly data?: string | Uint8Array;
  readonly target?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** Seconds since 1970. */
  readonly mtime?: number;
  readonly device?: readonly [number, number];
  /** Records of a pax header before it. */
  readonly pax?: Readonly<Record<string, string>>;
}

const TYPES = { file: '0', link: '1', symlink: '2', char: '3', block: '4', dir: '5', fifo: '6' };
const BLOCK = 512;

/** A tar archive (POSIX.1-2001, ustar and pax). */
export function tar(entries: readonly TarEntry[]): Buffer {
  return Buffer.concat([...entries.map(entry), Buffer.alloc(2 * BLOCK)]);
}

function entry(one: TarEntry): Buffer {
  const { pax = {}, data = '' } = one;
  const long = Buffer.byteLength(one.name) > 100 ? { path: one.name } : {};
  const longTarget = Buffer.byteLength(one.target ?? '') > 100 ? { linkpath: one.target ?? '' } : {};
  const records = Object.entries({ ...long, ...longTarget, ...pax });
  const header =
    records.length === 0 ? [] : [block({ name: 'pax' }, 'x', Buffer.concat(records.map(([k, v]) => record(k, v))))];
  const type = TYPES[one.type ?? 'file'];
  return Buffer.concat([...header, block(one, type, Buffer.from(data))]);
}

/** `LENGTH KEY=VALUE\n`, where the length counts itself. */
function record(key: string, value: string): Buffer {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest + `${rest}`.length;
  length = rest + `${length}`.length;
  return Buffer.from(`${length} ${key}=${value}\n`);
}

function block(one: TarEntry, type: string, data: Buffer): Buffer {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, digits: number): void => {
    header.write(`${value.toString(8).padStart(digits - 1, '0')}\0`, at, 'latin1');
  };
  header.write(Buffer.from(one.name).subarray(0, 100).toString('latin1'), 0, 'latin1');
  octal(one.mode ?? (type === '5' ? 0o755 : 0o644), 100, 8);
  octal(one.uid ?? 0, 108, 8);
  octal(one.gid ?? 0, 116, 8);
  octal(data.length, 124, 12);
  octal(one.mtime ?? 1_700_000_000, 136, 12);
  header.write('        ', 148, 'latin1');
  header.write(type, 156, 'latin1');
  header.write(
    Buffer.from(one.target ?? '')
      .subarray(0, 100)
      .toString('latin1'),
    157,
    'latin1',
  );
  header.write('ustar\x0000', 257, 'latin1');
  octal(one.device?.[0] ?? 0, 329, 8);
  octal(one.device?.[1] ?? 0, 337, 8);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  const padding = (BLOCK - (data.length % BLOCK)) % BLOCK;
  return Buffer.concat([header, data, Buffer.alloc(padding)]);
}

export type TestCompression = 'none' | 'gzip' | 'zstd';

export interface TestLayer {
  readonly tar: Buffer;
  readonly compression?: TestCompression;
  /** Replaces the archive's own. */
  readonly diffId?: string;
}

export interface TestImage {
  readonly manifestDigest: string;
  readonly blobs: ReadonlyMap<string, Buffer>;
  readonly diffIds: readonly string[];
}

export const digest = (bytes: Uint8Array): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

const TYPE = 'application/vnd.oci.image';
const SUFFIX = { none: '', gzip: '+gzip', zstd: '+zstd' } as const;

export function makeImage(
  layers: readonly TestLayer[],
  config: object = {},
  platform: object = { os: 'linux', architecture: process.arch === 'x64' ? 'amd64' : process.arch },
): TestImage {
  const blobs = new Map<string, Buffer>();
  const add = (bytes: Buffer, mediaType: string) => {
    const own = digest(bytes);
    blobs.set(own, bytes);
    return { mediaType, digest: own, size: bytes.length };
  };
  const diffIds = layers.map(({ tar: archive, diffId }) => diffId ?? digest(archive));
  const described = layers.map(({ tar: archive, compression = 'gzip' }) =>
    add(compressed(archive, compression), `${TYPE}.layer.v1.tar${SUFFIX[compression]}`),
  );
  const document = { ...platform, rootfs: { type: 'layers', diff_ids: diffIds }, config };
  const manifest = {
    schemaVersion: 2,
    mediaType: `${TYPE}.manifest.v1+json`,
    config: add(Buffer.from(JSON.stringify(document)), `${TYPE}.config.v1+json`),
    layers: described,
  };
  const { digest: manifestDigest } = add(Buffer.from(JSON.stringify(manifest)), 'manifest');
  return { manifestDigest, blobs, diffIds };
}

export function compressed(bytes: Buffer, compression: TestCompression): Buffer {
  if (compression === 'none') return bytes;
  return compression === 'gzip' ? gzipSync(bytes) : zstdCompressSync(bytes);
}

/** Writes an OCI layout with one image of the tag `latest`. */
export function writeLayout(dir: string, image: TestImage, tag = 'latest'): void {
  const blobs = join(dir, 'blobs/sha256');
  mkdirSync(blobs, { recursive: true });
  for (const [name, bytes] of image.blobs) writeFileSync(join(blobs, name.slice(7)), bytes);
  const size = image.blobs.get(image.manifestDigest)?.length;
  const annotations = { 'org.opencontainers.image.ref.name': tag };
  const mediaType = `${TYPE}.manifest.v1+json`;
  const manifests = [{ mediaType, digest: image.manifestDigest, size, annotations }];
  writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(join(dir, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
}

/** An index of several images. */
export function makeIndex(images: readonly { readonly image: TestImage; readonly platform: object }[]): Buffer {
  const manifests = images.map(({ image, platform }) => ({
    mediaType: `${TYPE}.manifest.v1+json`,
    digest: image.manifestDigest,
    size: image.blobs.get(image.manifestDigest)?.length,
    platform,
  }));
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: `${TYPE}.index.v1+json`, manifests }));
}

type Answer = (request: IncomingMessage, response: ServerResponse) => boolean;

/** The read-only half of the distribution protocol, for one repository `test/image`. */
export class TestRegistry implements AsyncDisposable {
  /** Requested paths. */
  readonly asked: string[] = [];
  /** Answers a request instead; returns true if it did. */
  interfere: Answer = () => false;
  readonly #server: Server;
  readonly #tags = new Map<string, Buffer>();
  readonly #blobs = new Map<string, Buffer>();

  private constructor() {
    this.#server = createServer((request, response) => {
      this.asked.push(request.url ?? '');
      if (!this.interfere(request, response)) this.#answer(request, response);
    });
  }

  static async start(): Promise<TestRegistry> {
    const registry = new TestRegistry();
    await new Promise<void>((resolve) => registry.#server.listen(0, '127.0.0.1', resolve));
    return registry;
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  name(tag: string): string {
    return `${this.host}/test/image:${tag}`;
  }

  push(tag: string, image: TestImage): void {
    for (const [name, bytes] of image.blobs) this.#blobs.set(name, bytes);
    this.#tags.set(tag, image.blobs.get(image.manifestDigest) ?? Buffer.alloc(0));
  }

  pushManifest(tag: string, manifest: Buffer): void {
    this.#tags.set(tag, manifest);
  }

  #answer({ url = '', method }: IncomingMessage, response: ServerResponse): void {
    const [, kind, what = ''] = /^\/v2\/test\/image\/(manifests|blobs)\/(.+)$/.exec(url) ?? [];
    if (url === '/v2/') response.end('{}');
    else {
      const bytes = kind === 'manifests' ? (this.#tags.get(what) ?? this.#blobs.get(what)) : this.#blobs.get(what);
      if (bytes === undefined) {
        response.statusCode = 404;
        const code = kind === 'manifests' ? 'MANIFEST_UNKNOWN' : 'BLOB_UNKNOWN';
        response.end(JSON.stringify({ errors: [{ code, message: `${kind} unknown` }] }));
        return;
      }
      const { mediaType } = kind === 'manifests' ? JSON.parse(bytes.toString()) : {};
      response.setHeader('content-type', mediaType ?? 'application/octet-stream');
      response.setHeader('content-length', bytes.length);
      response.setHeader('docker-content-digest', digest(bytes));
      response.end(method === 'HEAD' ? undefined : bytes);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }
}
