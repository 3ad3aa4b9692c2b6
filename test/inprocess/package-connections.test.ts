/** Connections of a sandbox's package port that end early: nothing of them stays, and the port closes at once. */
import { readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NO_PACKAGES, type PackagePolicy } from '../../src/base/request/package-policy.ts';
import { fileOf, type TestFile, type TestIndex } from '../support/package-index.ts';
import { fetchPackage as get, openPackageWorld, type PackageWorld } from '../support/package-world.ts';

const PIP: PackagePolicy = { ...NO_PACKAGES, ecosystems: ['pip'] };

let world: PackageWorld;
let index: TestIndex;

beforeEach(async () => {
  world = await openPackageWorld();
  ({ index } = world);
});
afterEach(() => world[Symbol.asyncDispose]());

const pathOf = ({ sha256, filename }: TestFile): string => `/pypi/files/${sha256}/${filename}`;
const lines = (path: string, method = 'GET'): string => `${method} ${path} HTTP/1.1\r\nHost: x\r\n\r\n`;

/** Resolves when the port has the connection. */
function open(socketPath: string, text: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath, () => socket.write(text, () => resolve(socket)));
    socket.on('error', reject);
  });
}

/** All bytes until the port closes the connection or is silent. */
function received(socketPath: string, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    const socket = connect(socketPath, () => socket.write(text));
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('error', reject);
    socket.on('close', () => resolve(Buffer.concat(chunks).toString('latin1')));
  });
}

describe('connections of a package port', () => {
  it('pipelined requests whose client disconnects: the port closes', async () => {
    const large = fileOf('large-1.0.tar.gz', Buffer.alloc(4_000_000, 'large'));
    index.add(large);
    const port = await world.attach(PIP);
    await get(port, pathOf(large));
    // Nothing is read: the first answer fills the connection, the second waits for its turn.
    const socket = await open(port, lines(pathOf(large)).repeat(3));
    await new Promise((resolve) => socket.once('readable', resolve));
    socket.destroy();
    await world.close(port);
  });

  it('a client that disconnects before the index answers: its request ends', async () => {
    const asked = Promise.withResolvers<void>();
    index.answer('/simple/slow/', () => asked.resolve());
    const port = await world.attach(PIP);
    await open(port, lines('/pypi/simple/slow/'));
    await asked.promise;
    await world.close(port);
  });

  it('HEAD of a file that the index sends endlessly: the port closes', async () => {
    const slow = fileOf('slow-1.0.tar.gz', Buffer.alloc(1000, 'slow'));
    index.add(slow, (entry) => delete entry['size']);
    const asked = Promise.withResolvers<void>();
    index.answer(`/files/${slow.filename}`, (_request, response) => {
      response.write('slow');
      asked.resolve();
    });
    const port = await world.attach(PIP);
    await open(port, lines(pathOf(slow), 'HEAD'));
    await asked.promise;
    await world.close(port);
  });

  it('a wrong size on the page: the connection is cut, so no byte of the file passes for an answer', async () => {
    const forged = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil';
    const file = fileOf('lying-1.0.tar.gz', Buffer.from(`abcd${forged}`));
    for (const size of [4, file.bytes.length + 10]) {
      index.add(file, (entry) => Object.assign(entry, { size }));
      index.answer(`/files/${file.filename}`, (_request, response) => {
        response.write(file.bytes);
        response.end();
      });
      await using own = await openPackageWorld(() => ({ pip: index.index }));
      const port = await own.attach(PIP);
      const last = lines('/none').replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n');
      const answer = await received(port, lines(pathOf(file)) + last);
      expect(own.fetches.at(-1)).toMatchObject({ file: file.filename, outcome: 'cut' });
      expect(answer).not.toContain('evil');
      expect(answer).not.toContain('HTTP/1.1 404');
    }
  });

  it('a port that opens while the gateway closes is refused, and its socket is removed', async () => {
    const opening = world.attach(PIP);
    const closing = world.closeGateway();
    await expect(opening).rejects.toMatchObject({ code: 'closed' });
    await closing;
    expect(await readdir(world.dir)).not.toContain('v_1');
  });

  it('downloads interrupted by the end of the gateway leave no file', async () => {
    const slow = fileOf('slow-1.0.tar.gz', Buffer.alloc(100_000, 'slow'));
    index.add(slow);
    const asked = Promise.withResolvers<void>();
    index.answer(`/files/${slow.filename}`, (_request, response) => {
      response.write(slow.bytes.subarray(0, 1000), () => asked.resolve());
    });
    const port = await world.attach(PIP);
    const client = await open(port, lines(pathOf(slow)));
    await new Promise((resolve) => client.once('readable', resolve));
    await asked.promise;
    await world.closeGateway();
    expect(await readdir(join(world.dir, 'packages'))).toEqual([]);
  });
});

describe('pages in flight', () => {
  it('are limited together: those beyond the limit fail, and none counts against later ones', async () => {
    const limits = { pageBytesMax: 60_000, pagesBytesMax: 100_000 };
    await using own = await openPackageWorld(undefined, { upstreamLimits: limits });
    const port = await own.attach(PIP);
    const names = ['a', 'b', 'c'];
    const page = JSON.stringify({ files: [], padding: 'x'.repeat(50_000) });
    const release = Promise.withResolvers<void>();
    for (const name of names) {
      own.index.answer(`/simple/${name}/`, (_request, response) => {
        response.setHeader('content-type', 'application/vnd.pypi.simple.v1+json');
        response.write(page.slice(0, 49_000));
        void release.promise.then(() => response.end(page.slice(49_000)));
      });
    }
    const asked = names.map((name) => get(port, `/pypi/simple/${name}/`));
    const first = await Promise.race(asked);
    expect(first.status).toBe(502);
    release.resolve();
    const statuses = (await Promise.all(asked)).map(({ status }) => status);
    expect(statuses.filter((status) => status === 200).length).toBeGreaterThanOrEqual(1);
    for (const name of names) {
      expect((await get(port, `/pypi/simple/${name}/`)).status).toBe(200);
    }
  });
});

describe('pages that can’t be used', () => {
  it('are not requested again and again', async () => {
    await using own = await openPackageWorld(undefined, { upstreamLimits: { pageBytesMax: 1000 } });
    const port = await own.attach(PIP);
    for (const [name, body] of [
      ['huge', 'x'.repeat(5000)],
      ['broken', '{'],
    ] as const) {
      own.index.answer(`/simple/${name}/`, (_request, response) => {
        response.setHeader('content-type', 'application/vnd.pypi.simple.v1+json');
        response.end(body);
      });
      for (let round = 0; round < 3; round += 1) {
        expect((await get(port, `/pypi/simple/${name}/`)).status).toBe(502);
      }
      const asked = own.index.seen.filter(({ target }) => target === `/simple/${name}/`);
      expect(asked).toHaveLength(1);
    }
  });
});

describe('the directory of stored files', () => {
  const file = fileOf('kept-1.0.tar.gz', Buffer.alloc(700_000, 'kept'));
  const place = (): string => join(world.dir, 'packages', `sha256-${file.sha256}`);

  it.each([
    ['empty', Buffer.alloc(0)],
    ['cut', file.bytes.subarray(0, 1000)],
    ['with another last byte', Buffer.concat([file.bytes.subarray(0, -1), Buffer.from('x')])],
  ])(
    'a file that a crash of the host left %s: it is not served, and the next request downloads it anew',
    async (_what, damaged) => {
      index.add(file);
      const port = await world.attach(PIP);
      expect((await get(port, pathOf(file))).body).toEqual(file.bytes);
      await writeFile(place(), damaged);
      const first = await get(port, pathOf(file));
      expect([first.isCut, first.body.length < file.bytes.length]).toEqual([true, true]);
      const second = await get(port, pathOf(file));
      expect([second.status, second.isCut, second.body.equals(file.bytes)]).toEqual([200, false, true]);
    },
  );

  it('removed while the gateway runs: the next download creates it', async () => {
    index.add(file);
    const port = await world.attach(PIP);
    await get(port, pathOf(file));
    await rm(join(world.dir, 'packages'), { recursive: true });
    const answer = await get(port, pathOf(file));
    expect([answer.status, answer.body.equals(file.bytes)]).toEqual([200, true]);
  });

  it('that can’t be created: the request fails, no connection to the index stays, and it works once it can', async () => {
    index.add(file);
    const port = await world.attach(PIP);
    await symlink(join(world.dir, 'nowhere', 'at-all'), join(world.dir, 'packages'));
    let open = 0;
    index.answer(`/files/${file.filename}`, (request, response) => {
      open += 1;
      request.socket.once('close', () => (open -= 1));
      response.write(file.bytes.subarray(0, 1000));
    });
    expect((await get(port, pathOf(file))).status).toBe(502);
    await expect.poll(() => open).toBe(0);
    await rm(join(world.dir, 'packages'));
    index.answer(`/files/${file.filename}`, (_request, response) => void response.end(file.bytes));
    expect((await get(port, pathOf(file))).status).toBe(200);
  });
});
