import { mkdtemp, readdir, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { eventually } from '../../../../test/support/eventually.ts';
import { type Clock, FakeClock } from '../../../base/clock.ts';
import { silentLog } from '../../../base/log.ts';
import { BusyError } from '../../../sandbox/contract/errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { TemplateBuilds } from '../parts.ts';
import { BuildTurns, Templates } from './templates.ts';
import { Uploads, UploadUrls } from './uploads.ts';

const HASH = 'a'.repeat(64);

describe('BuildTurns', () => {
  it('a tenant with many builds delays another tenant’s by one', async () => {
    const turns = new BuildTurns();
    const order: string[] = [];
    const build = (tenant: string, number: number) =>
      turns.take(tenant, async () => void order.push(`${tenant}${number}`));
    const all = [1, 2, 3, 4].map((number) => build('a', number));
    all.push(build('b', 1), build('b', 2));
    await Promise.all(all);
    expect(order).toEqual(['a1', 'a2', 'b1', 'a3', 'b2', 'a4']);
  });

  it('a build that fails ends no other tenant’s turn', async () => {
    const turns = new BuildTurns();
    const failed = turns.take('a', async () => await Promise.reject(new Error('no')));
    const other = turns.take('b', async () => undefined);
    await expect(failed).rejects.toThrow('no');
    await other;
    await turns.take('a', async () => undefined);
  });
});

it('Templates: an endless build fails after its time limit, and others get their turn', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-long-build-'));
  const time = new FakeClock();
  const clock: Clock = { now: () => time.now(), wall: () => time.wall(), after: (ms, run) => time.after(ms, run) };
  const builds = {
    build: (_wanted, _onEvent, signal) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason as Error));
      }),
    remove: async () => undefined,
    has: async () => false,
    memoryMibOf: () => 1,
  } satisfies TemplateBuilds;
  const turns = new BuildTurns();
  const places = { stateDir: join(dir, 'state'), uploadsDir: join(dir, 'uploads') };
  const control = { list: async () => [] };
  const callers = { askerOf: () => null };
  const parts = { clock, log: silentLog, urls: new UploadUrls(clock), turns, control, callers };
  await using templates = await Templates.open({ ...parts, templates: { builds, ...places } }, 'greedy');
  const { templateId, build } = templates.request({ name: 'endless' });
  await templates.start(templateId, build, { fromImage: 'alpine', steps: [] });
  const other = turns.take('polite', async () => undefined);
  const statusOf = () => templates.status(templateId, build, 0, 10);
  await eventually(() => expect(statusOf().status).toBe('building'));
  time.advance(E2B_LIMITS.buildMsMax);
  await other;
  expect(statusOf()).toMatchObject({ status: 'error', reason: { message: 'the build took longer than 2 hours' } });
  await rm(dir, { recursive: true, force: true });
});

describe('UploadUrls', () => {
  const clock = new FakeClock();
  let dir: string;
  let greedy: Uploads;
  let polite: Uploads;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nv-uploads-'));
    greedy = await Uploads.open(join(dir, 'greedy'), clock);
    polite = await Uploads.open(join(dir, 'polite'), clock);
  });
  afterEach(() => rm(dir, { recursive: true, force: true }));
  async function* archive(): AsyncGenerator<Buffer> {
    yield Buffer.from('x');
  }

  it('archives kept by builds count: they can’t be replaced by more of the same size', async () => {
    const sizes = new Map<string, number>();
    const add = (hash: string) => greedy.add(hash.repeat(64), archive(), undefined, () => undefined);
    await add('a');
    await greedy.keepFor('b1', 0, 'a'.repeat(64));
    const most = E2B_LIMITS.uploadsBytesMax;
    // Sparse, so that the disk need not be that large.
    for (const name of await readdir(join(dir, 'greedy'))) {
      await truncate(join(dir, 'greedy', name), most);
      sizes.set(name, most);
    }
    await expect(add('b')).rejects.toMatchObject({ status: 507 });
    expect((await readdir(join(dir, 'greedy'))).toSorted()).toEqual([...sizes.keys()].toSorted());
    await greedy.release('b1');
    await add('b');
    expect(await greedy.has('a'.repeat(64))).toBe(false);
  });

  it('a tenant that requests many URLs forgets only its own', async () => {
    const urls = new UploadUrls(clock);
    const [mine, first] = [urls.allow(polite, HASH), urls.allow(greedy, HASH)];
    for (let count = 0; count < E2B_LIMITS.uploadUrlsMax; count += 1) urls.allow(greedy, HASH);
    await urls.receive(mine, archive());
    await expect(urls.receive(first, archive())).rejects.toMatchObject({ status: 403 });
    expect(await polite.has(HASH)).toBe(true);
  });

  describe('bytes', () => {
    const limits = { uploadBytesMax: 40, uploadsBytesMax: 100, uploadStepBytes: 10, uploadMsMax: 60_000 };
    /** A body that waits before its end. */
    const held = (bytes: number) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      const read = vi.fn();
      async function* body(): AsyncGenerator<Buffer> {
        read();
        yield Buffer.alloc(bytes, 'x');
        await promise;
      }
      return { body: body(), read, end: resolve };
    };
    async function* held30(): AsyncGenerator<Buffer> {
      yield Buffer.alloc(30, 'x');
    }
    const hashOf = (letter: string) => letter.repeat(64);
    const spaceOf = async (): Promise<number> => {
      const names = await readdir(join(dir, 'small'));
      const sizes = await Promise.all(names.map(async (name) => (await stat(join(dir, 'small', name))).size));
      return sizes.reduce((sum, size) => sum + size, 0);
    };
    let small: Uploads;
    let urls: UploadUrls;
    beforeEach(async () => {
      small = await Uploads.open(join(dir, 'small'), clock, limits);
      urls = new UploadUrls(clock);
    });

    it('an URL is used up before the first byte: a second upload reads nothing', async () => {
      const token = urls.allow(small, HASH);
      const [one, two] = [held(10), held(10)];
      const first = urls.receive(token, one.body);
      await eventually(() => expect(one.read).toHaveBeenCalled());
      await expect(urls.receive(token, two.body)).rejects.toMatchObject({ status: 403 });
      expect(two.read).not.toHaveBeenCalled();
      one.end();
      await first;
    });

    it('announced bytes are reserved before the first one, and free again after a failure', async () => {
      const hung = ['a', 'b'].map((name) => ({ name, ...held(1) }));
      const uploads = hung.map(({ name, body }) => urls.receive(urls.allow(small, hashOf(name)), body, 40));
      for (const { read } of hung) await eventually(() => expect(read).toHaveBeenCalled());
      const more = held(1);
      const token = urls.allow(small, hashOf('c'));
      await expect(urls.receive(token, more.body, 40)).rejects.toMatchObject({ status: 507 });
      expect(more.read).not.toHaveBeenCalled();
      await expect(urls.receive(token, more.body, 41)).rejects.toMatchObject({ status: 413 });
      clock.advance(limits.uploadMsMax + 1);
      async function* late(): AsyncGenerator<Buffer> {
        yield Buffer.from('x');
        clock.advance(limits.uploadMsMax + 1);
        yield Buffer.from('x');
      }
      await expect(urls.receive(urls.allow(small, hashOf('d')), late(), 20)).rejects.toMatchObject({ status: 408 });
      for (const { end } of hung) end();
      await Promise.all(uploads);
      expect(await spaceOf()).toBe(2);
      // A refused upload did not use up its URL.
      await urls.receive(token, archive(), 40);
    });

    it('uploads of unknown length at one time never have more bytes than the limit', async () => {
      const all = [...'abcdef01'].map((name) => ({ name, ...held(30) }));
      const uploads = all.map(({ name, body }) => urls.receive(urls.allow(small, hashOf(name)), body));
      const settled = Promise.allSettled(uploads);
      for (const { read } of all) await eventually(() => expect(read).toHaveBeenCalled());
      expect(await spaceOf()).toBeLessThanOrEqual(limits.uploadsBytesMax);
      for (const { end } of all) end();
      const results = await settled;
      expect(results.filter(({ status }) => status === 'fulfilled').length).toBeGreaterThanOrEqual(2);
      for (const one of results) if (one.status === 'rejected') expect(one.reason).toMatchObject({ status: 507 });
      expect(await spaceOf()).toBeLessThanOrEqual(limits.uploadsBytesMax);
      // What is complete makes room.
      for (const name of '2345') await urls.receive(urls.allow(small, hashOf(name)), archive(), 40);
      expect(await small.has(hashOf('5'))).toBe(true);
    });

    it('a quota leaves less room: kept archives make way, then an upload is refused unread', async () => {
      let left = 60;
      const room = { bytes: async () => left, refusal: () => new BusyError('quota', 1) };
      const bound = await Uploads.open(join(dir, 'bound'), clock, limits, room);
      const upload = (letter: string, body: AsyncIterable<Buffer>) =>
        urls.receive(urls.allow(bound, hashOf(letter)), body, 30);
      for (const letter of 'abc') await upload(letter, held30());
      expect(await bound.bytes()).toBeLessThanOrEqual(60);
      expect(await bound.has(hashOf('c'))).toBe(true);
      left = 29;
      const more = held(1);
      await expect(upload('d', more.body)).rejects.toBeInstanceOf(BusyError);
      expect(more.read).not.toHaveBeenCalled();
      await bound.clear();
      expect(await bound.bytes()).toBe(0);
    });

    it('an archive that is larger than one may be is refused while it arrives', async () => {
      async function* large(): AsyncGenerator<Buffer> {
        for (let i = 0; i < 5; i += 1) yield Buffer.alloc(9, 'x');
      }
      await expect(urls.receive(urls.allow(small, HASH), large())).rejects.toMatchObject({ status: 413 });
      await expect(urls.receive(urls.allow(small, HASH), large(), 9)).rejects.toMatchObject({ status: 413 });
      expect(await spaceOf()).toBe(0);
    });
  });

  it('a tenant with many concurrent uploads leaves places for others', async () => {
    const urls = new UploadUrls(clock);
    const { promise: end, resolve } = Promise.withResolvers<void>();
    async function* slow(): AsyncGenerator<Buffer> {
      await end;
      yield Buffer.from('x');
    }
    const { ownMax } = E2B_LIMITS.uploadsAtOnce;
    const held = Array.from({ length: ownMax }, () => urls.receive(urls.allow(greedy, HASH), slow()));
    await expect(urls.receive(urls.allow(greedy, HASH), archive())).rejects.toThrow('too many');
    await urls.receive(urls.allow(polite, HASH), archive());
    resolve();
    await Promise.all(held);
    await urls.receive(urls.allow(greedy, HASH), archive());
  });
});
