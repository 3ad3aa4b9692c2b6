/** A Python package index for tests, on a free port of loopback, with wheels made here. */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { crc32 } from 'node:zlib';
import type { Index } from '../../src/egress/packages/gateway.ts';

export interface TestFile {
  readonly filename: string;
  readonly bytes: Buffer;
  readonly sha256: string;
  /** ISO 8601. */
  readonly uploadTime: string;
}

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

export interface TestIndex extends AsyncDisposable {
  readonly index: Index;
  readonly origin: string;
  /** Requests so far: method, target, and fields as the index saw them. */
  readonly seen: { readonly method: string; readonly target: string; readonly headers: IncomingMessage['headers'] }[];
  /** Adds a file, also to its page. */
  add(file: TestFile, change?: (entry: Record<string, unknown>) => void): void;
  /** Answers this target instead. */
  answer(target: string, answer: Answer): void;
}

export async function startPackageIndex(): Promise<TestIndex> {
  const files = new Map<string, { file: TestFile; entry: Record<string, unknown> }>();
  const answers = new Map<string, Answer>();
  const seen: TestIndex['seen'] = [];
  const server = createServer((request, response) => {
    const { method = '', url: target = '', headers } = request;
    seen.push({ method, target, headers });
    const own = answers.get(target);
    if (own !== undefined) {
      own(request, response);
      return;
    }
    const name = /^\/simple\/([^/]+)\/$/.exec(target)?.[1];
    const all = [...files.values()].filter(({ file }) => projectOf(file) === name);
    if (name !== undefined && all.length > 0) {
      const page = { meta: { 'api-version': '1.1' }, name, files: all.map(({ entry }) => entry) };
      response.setHeader('content-type', 'application/vnd.pypi.simple.v1+json');
      response.end(JSON.stringify(page));
      return;
    }
    const file = files.get(target.replace(/^\/files\//, ''))?.file;
    if (file === undefined) {
      response.statusCode = 404;
      response.end('not here');
      return;
    }
    response.setHeader('content-length', file.bytes.length);
    response.end(file.bytes);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    index: { baseUrl: `${origin}/simple/` },
    origin,
    seen,
    add(file, change) {
      const entry: Record<string, unknown> = {
        filename: file.filename,
        url: `../../files/${file.filename}`,
        hashes: { sha256: file.sha256 },
        'upload-time': file.uploadTime,
        size: file.bytes.length,
      };
      change?.(entry);
      files.set(file.filename, { file, entry });
    },
    answer: (target, answer) => void answers.set(target, answer),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    },
  };
}

const projectOf = ({ filename }: TestFile): string =>
  (filename.split('-')[0] ?? '').toLowerCase().replace(/[-_.]+/g, '-');

export function fileOf(filename: string, bytes: Buffer, uploadTime = '2020-01-01T00:00:00Z'): TestFile {
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  return { filename, bytes, sha256, uploadTime };
}

/** A wheel with one module, which has `TEXT`. */
export function wheelOf(name: string, version: string, text: string, requires = ''): TestFile {
  const info = `${name}-${version}.dist-info`;
  const requirement = requires === '' ? '' : `Requires-Dist: ${requires}\n`;
  const members: Record<string, string> = {
    [`${name}/__init__.py`]: `TEXT = ${JSON.stringify(text)}\n`,
    [`${info}/METADATA`]: `Metadata-Version: 2.1\nName: ${name}\nVersion: ${version}\n${requirement}`,
    [`${info}/WHEEL`]: 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    [`${info}/RECORD`]: '',
  };
  return fileOf(`${name}-${version}-py3-none-any.whl`, zip(members));
}

/** A ZIP file of stored members (APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16). */
function zip(members: Readonly<Record<string, string>>): Buffer {
  const local: Buffer[] = [];
  const central: Buffer[] = [];
  let offset = 0;
  for (const [name, text] of Object.entries(members)) {
    const [path, data] = [Buffer.from(name), Buffer.from(text)];
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    // 1 January 1980.
    common.writeUInt16LE(0x21, 8);
    common.writeUInt32LE(crc32(data), 10);
    common.writeUInt32LE(data.length, 14);
    common.writeUInt32LE(data.length, 18);
    common.writeUInt16LE(path.length, 22);
    local.push(Buffer.from('PK\x03\x04', 'latin1'), common, path, data);
    const more = Buffer.alloc(14);
    more.writeUInt32LE(offset, 10);
    central.push(Buffer.from('PK\x01\x02\x14\0', 'latin1'), common, more, path);
    offset += 30 + path.length + data.length;
  }
  const directory = Buffer.concat(central);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(Object.keys(members).length, 8);
  end.writeUInt16LE(Object.keys(members).length, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...local, directory, end]);
}
