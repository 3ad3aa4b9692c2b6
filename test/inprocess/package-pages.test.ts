/** Pages of indexes are read in threads, so that no sandbox and no index blocks the event loop or other sandboxes. */
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { LoopTime } from '../../src/base/fairness/loop-time.ts';
import { silentLog } from '../../src/base/log.ts';
import { NO_PACKAGES, type PackagePolicy } from '../../src/base/request/package-policy.ts';
import { PageReader } from '../../src/egress/packages/store/page-reader.ts';
import type { PageQuestion, PageToRead } from '../../src/egress/packages/store/page-reading.ts';
import { fileOf, wheelOf } from '../support/package-index.ts';
import { fetchPackage as get, openPackageWorld } from '../support/package-world.ts';

const PIP: PackagePolicy = { ...NO_PACKAGES, ecosystems: ['pip'] };
const JSON_TYPE = 'application/vnd.pypi.simple.v1+json';
const DIGEST = 'a'.repeat(64);

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of undo.splice(0).reverse()) await each();
});

function reader(): PageReader {
  const made = new PageReader(systemClock, silentLog);
  undo.push(() => made.close());
  return made;
}

let lastId = 0;
function pageOf(text: string): PageToRead {
  lastId += 1;
  const body = Buffer.from(new SharedArrayBuffer(Buffer.byteLength(text)));
  body.write(text);
  const page = { url: 'https://i.example/simple/x/', contentType: JSON_TYPE, body };
  return { id: lastId, index: 'pip', name: 'x', page, dl: '' };
}

const filesOf = (count: number): string =>
  JSON.stringify({
    files: Array.from({ length: count }, (_, at) => ({
      filename: `x-${at}.0-py3-none-any.whl`,
      url: `x-${at}.0-py3-none-any.whl`,
      hashes: { sha256: DIGEST },
    })),
  });

const RENDER: PageQuestion = {
  kind: 'page',
  rules: { locked: null, minAgeMs: null },
  nowMs: 0,
  accept: JSON_TYPE,
  origin: 'http://127.0.0.1:11435',
};

const readerOf = (sandboxId: string, loopMs = 1_000) => ({
  sandboxId,
  loopTime: new LoopTime({ size: loopMs, refillPerSecond: 0.001 }, systemClock),
  signal: new AbortController().signal,
});

describe('PageReader', () => {
  it('reads small pages here and large ones in a thread, with the same answer', async () => {
    const pages = reader();
    const small = await pages.ask(pageOf(filesOf(2)), RENDER, readerOf('a'));
    expect(pages.threads).toBe(0);
    const spent = readerOf('b', 0.001);
    spent.loopTime.run(() => filesOf(10_000));
    const same = await pages.ask(pageOf(filesOf(2)), RENDER, spent);
    expect(pages.threads).toBe(1);
    if (small.kind !== 'page' || same.kind !== 'page') throw new Error('no page');
    expect(Buffer.from(same.body).equals(small.body)).toBe(true);
    const large = pageOf(filesOf(1_000));
    const found = await pages.ask(large, { kind: 'file', key: `${DIGEST}/x-7.0-py3-none-any.whl` }, readerOf('a'));
    expect(found).toEqual({
      kind: 'file',
      file: {
        name: 'x',
        version: '7.0',
        filename: 'x-7.0-py3-none-any.whl',
        url: 'https://i.example/simple/x/x-7.0-py3-none-any.whl',
        digests: [{ algorithm: 'sha256', hex: DIGEST }],
        publishedMs: null,
        sizeBytes: null,
      },
    });
  });

  it('a lock and a minimum age apply in a thread, too', async () => {
    const pages = reader();
    const large = pageOf(filesOf(1_000));
    for (const rules of [
      { locked: new Set([`sha256:${'b'.repeat(64)}`]), minAgeMs: null },
      { locked: null, minAgeMs: 1 },
    ]) {
      const answer = await pages.ask(large, { ...RENDER, rules }, readerOf('a'));
      if (answer.kind !== 'page') throw new Error('no page');
      expect(JSON.parse(Buffer.from(answer.body).toString())).toMatchObject({ files: [] });
    }
  });

  it('one sandbox has one thread at a time, so that another need not wait for its queue', async () => {
    const pages = reader();
    const large = filesOf(20_000);
    const ended: string[] = [];
    const flood = Array.from({ length: 8 }, (_, at) =>
      pages.ask(pageOf(large), RENDER, readerOf('greedy')).then(() => ended.push(`greedy ${at}`)),
    );
    const modest = pages.ask(pageOf(filesOf(1_000)), RENDER, readerOf('modest')).then(() => ended.push('modest'));
    await Promise.all([...flood, modest]);
    expect(ended.indexOf('modest')).toBeLessThan(4);
  });

  it('the event loop continues while a page of the largest kind is read', async () => {
    const pages = reader();
    await pages.ask(pageOf(filesOf(1_000)), RENDER, readerOf('a'));
    const huge = pageOf(filesOf(100_000));
    const before = process.threadCpuUsage();
    const answer = await pages.ask(huge, RENDER, readerOf('a'));
    const { user, system } = process.threadCpuUsage(before);
    expect(answer.kind).toBe('page');
    // Parsing and writing it takes several hundred ms.
    expect((user + system) / 1000).toBeLessThan(150);
  });

  it('an invalid page is refused, and not read again', async () => {
    const pages = reader();
    const bad = pageOf(`{${' '.repeat(100_000)}`);
    for (let round = 0; round < 2; round += 1) {
      await expect(pages.ask(bad, RENDER, readerOf('a'))).rejects.toMatchObject({
        code: 'upstream_invalid',
        message: 'the index answered with invalid JSON',
      });
    }
  });

  it('a client that disconnects while it waits: its page is never read', async () => {
    const pages = reader();
    const ending = new AbortController();
    const first = pages.ask(pageOf(filesOf(20_000)), RENDER, readerOf('a'));
    const second = pages.ask(pageOf(filesOf(20_000)), RENDER, { ...readerOf('a'), signal: ending.signal });
    ending.abort(new Error('left'));
    await expect(second).rejects.toThrow('left');
    expect((await first).kind).toBe('page');
  });
});

describe('package gateway', () => {
  it('a flood of large pages of one sandbox leaves another its turn', async () => {
    await using world = await openPackageWorld();
    for (let version = 0; version < 2_000; version += 1) {
      world.index.add(fileOf(`big-${version}.0-py3-none-any.whl`, Buffer.alloc(1)));
    }
    world.index.add(wheelOf('small', '1.0', 'x'));
    const [greedy, modest] = [await world.attach(PIP), await world.attach(PIP)];
    // Pages are fetched and both threads run before, so that the requests below wait only for turns: a thread takes as
    // long to start as 30 pages to be read.
    await get(modest, '/pypi/simple/small/');
    await Promise.all([greedy, modest].map((one) => get(one, '/pypi/simple/big/')));
    const ended: string[] = [];
    const flood = Array.from({ length: 40 }, () =>
      get(greedy, '/pypi/simple/big/').then(({ status }) => ended.push(`greedy ${status}`)),
    );
    const others = ['big', 'small'].map((name) =>
      get(modest, `/pypi/simple/${name}/`).then(({ status }) => ended.push(`${name} ${status}`)),
    );
    await Promise.all([...flood, ...others]);
    expect(ended.filter((one) => one === 'greedy 200')).toHaveLength(40);
    expect(Math.max(ended.indexOf('big 200'), ended.indexOf('small 200'))).toBeLessThan(20);
    expect(Math.min(ended.indexOf('big 200'), ended.indexOf('small 200'))).toBeGreaterThanOrEqual(0);
  });
});
