/**
 * An index of Python packages on loopback, with wheels that are made for a benchmark: each a new file of random bytes.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { runTool } from '../../src/artifacts/image/tool.ts';

export interface Wheel {
  readonly name: string;
  readonly bytes: number;
  /** SHA-256, hexadecimal. */
  readonly digest: string;
}

export class WheelIndex implements AsyncDisposable {
  readonly #server: Server;
  readonly #dir: string;
  readonly #wheels = new Map<string, { readonly digest: string; readonly content: Buffer }>();
  /** Number of wheel downloads. */
  fetched = 0;

  private constructor(dir: string) {
    this.#dir = dir;
    this.#server = createServer(({ url = '' }, response) => this.#answer(url, response));
  }

  /** @param dir for its files; must exist */
  static async start(dir: string): Promise<WheelIndex> {
    const index = new WheelIndex(dir);
    await new Promise<void>((resolve) => index.#server.listen(0, '127.0.0.1', resolve));
    return index;
  }

  /** URL in the form that package clients expect. */
  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/simple/`;
  }

  /** Adds a wheel with this many random bytes. @param name lower-case letters and digits */
  async add(name: string, bytes: number, signal: AbortSignal): Promise<Wheel> {
    const tree = join(this.#dir, 'wheel');
    const info = `${name}-1.0.dist-info`;
    const file = join(this.#dir, fileOf(name));
    for (const dir of [name, info]) await mkdir(join(tree, dir), { recursive: true });
    await writeFile(join(tree, name, '__init__.py'), '');
    await writeFile(join(tree, name, 'data'), randomBytes(bytes));
    const metadata = `Metadata-Version: 2.1\nName: ${name}\nVersion: 1.0\n`;
    await writeFile(join(tree, info, 'METADATA'), metadata);
    const wheel = 'Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n';
    await writeFile(join(tree, info, 'WHEEL'), wheel);
    const files = [`${name}/__init__.py`, `${name}/data`, ...KINDS.map((one) => `${info}/${one}`)];
    await writeFile(join(tree, info, 'RECORD'), files.map((one) => `${one},,\n`).join(''));
    await runTool('python3', ['-m', 'zipfile', '-c', file, name, info], { cwd: tree, signal });
    const content = await readFile(file);
    await rm(tree, { recursive: true });
    await rm(file);
    const digest = createHash('sha256').update(content).digest('hex');
    this.#wheels.set(name, { digest, content });
    return { name, bytes: content.length, digest };
  }

  #answer(url: string, response: ServerResponse): void {
    const [, kind, name = ''] = /^\/(simple|files)\/([a-z0-9]+)/.exec(url) ?? [];
    const wheel = this.#wheels.get(name);
    if (wheel === undefined) {
      response.statusCode = 404;
      response.end();
    } else if (kind === 'files') {
      this.fetched += 1;
      response.setHeader('content-length', wheel.content.length);
      response.end(wheel.content);
    } else {
      response.setHeader('content-type', 'application/vnd.pypi.simple.v1+json');
      const { digest } = wheel;
      const filename = fileOf(name);
      const file = { filename, url: `/files/${filename}`, hashes: { sha256: digest } };
      response.end(JSON.stringify({ meta: { 'api-version': '1.0' }, name, files: [file] }));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }
}

const KINDS = ['METADATA', 'WHEEL', 'RECORD'];

const fileOf = (name: string): string => `${name}-1.0-py3-none-any.whl`;
