/** Bodies are checked in threads, so that no sandbox blocks the event loop or the bodies of others. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { FakeClock, systemClock } from '../../src/base/clock.ts';
import { LoopTime } from '../../src/base/fairness/loop-time.ts';
import { silentLog } from '../../src/base/log.ts';
import { BodyChecker, type CheckerLimits } from '../../src/inference/bridge/body/body-checker.ts';
import type { BodyCheck } from '../../src/inference/bridge/body/check-body.ts';
import { openaiDialect } from '../../src/inference/bridge/dialect/openai/openai.ts';
import { jsonLimits } from '../../src/inference/bridge/json-body.ts';
import { BRIDGE_LIMITS } from '../../src/inference/bridge/limits.ts';
import { type BridgeFixture, bridgeFixture, call } from '../support/bridge-fixture.ts';
import { completion, sendJson } from '../support/mock-upstream.ts';

const CHAT = '/v1/chat/completions';
const BODY = { model: 'm1', messages: [{ role: 'user', content: 'hello' }] };
/** Objects with many different keys take the longest to parse. */
const heavy = (keys: number): string => {
  const members = Array.from({ length: keys }, (_, i) => `"key${i}":1`).join();
  return `{"model":"missing","messages":[{"role":"user","content":{${members}}}]}`;
};

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of undo.splice(0).reverse()) await each();
});

/** Outside the pool of small buffers, whose memory can't be transferred to a thread. */
function ownBytes(text: string): Buffer {
  const bytes = Buffer.allocUnsafeSlow(Buffer.byteLength(text));
  bytes.write(text);
  return bytes;
}

function checkOf(): BodyCheck {
  const route = openaiDialect.route('POST', CHAT);
  if (!route.ok || route.value.kind !== 'inference') throw new Error('no route');
  const { operation } = route.value;
  const limits = jsonLimits(BRIDGE_LIMITS);
  return { dialect: 'openai', operation, policy: {}, limits, apis: ['openai'], hasChoice: false };
}

function checkerWith(limits: Partial<CheckerLimits>, clock = systemClock) {
  const checker = new BodyChecker({ clock, log: silentLog, limits });
  undo.push(() => checker.close());
  const check = checkOf();
  const run = (sandboxId: string, text: string, signal = new AbortController().signal) => {
    const bytes = ownBytes(text);
    const loopTime = new LoopTime({ size: 1000, refillPerSecond: 1 }, clock);
    return checker.check({ sandboxId, loopTime, bytes, check, signal });
  };
  return { checker, run };
}

describe('BodyChecker', () => {
  it('checks small bodies here and large ones in a thread, with the same result and bytes', async () => {
    const text = JSON.stringify(BODY);
    const here = await checkerWith({}).run('a', text);
    const there = await checkerWith({ loopBytesMax: 0 }).run('a', text);
    expect([here.where, there.where]).toEqual(['loop', 'thread']);
    expect(there.checked).toEqual(here.checked);
    expect(there.bytes.toString()).toBe(text);
  });

  it('a sandbox that has used up its loop time is checked in threads', async () => {
    const { checker } = checkerWith({});
    let cpuMs = 0;
    const limit = { size: 1, refillPerSecond: 0.001 };
    const loopTime = new LoopTime(limit, systemClock, () => {
      cpuMs += 2;
      return cpuMs;
    });
    const job = () => ({
      sandboxId: 'a',
      loopTime,
      bytes: ownBytes(JSON.stringify(BODY)),
      check: checkOf(),
      signal: new AbortController().signal,
    });
    expect((await checker.check(job())).where).toBe('loop');
    expect((await checker.check(job())).where).toBe('thread');
  });

  it('a short body never waits for long ones', async () => {
    const { run } = checkerWith({ loopBytesMax: 0 });
    const ended: string[] = [];
    const note = (name: string) => () => ended.push(name);
    // Warmed up, as for all but the first body.
    await run('polite', JSON.stringify(BODY));
    const flood = ['one', 'two', 'three'].map((id) => run(id, heavy(190_000)).then(note(id)));
    const polite = run('polite', JSON.stringify(BODY)).then(note('polite'));
    await Promise.all([...flood, polite]);
    expect(ended[0]).toBe('polite');
  });

  it('one sandbox has one thread at a time, so that another need not wait for its queue', async () => {
    const { run } = checkerWith({ loopBytesMax: 0 });
    const ended: string[] = [];
    const note = (name: string) => () => ended.push(name);
    const flood = Array.from({ length: 6 }, (_, i) => run('hostile', heavy(150_000)).then(note(`hostile ${i}`)));
    const polite = run('polite', heavy(20_000)).then(note('polite'));
    await Promise.all([...flood, polite]);
    expect(ended.indexOf('polite')).toBeLessThan(3);
  });

  it('a body that needs too much memory ends its thread, and only it is refused', async () => {
    const { run } = checkerWith({ loopBytesMax: 0, heapMibMax: 32 });
    const texts = Array.from({ length: 900_000 }, (_, i) => `"a text with the number ${i}"`);
    const large = await run('a', `{"model":"m","messages":[],"stop":[${texts.join()}]}`);
    expect(large.checked).toMatchObject({ ok: false, refusal: { code: 'body_too_complex' } });
    expect((await run('a', JSON.stringify(BODY))).checked.ok).toBe(true);
  });

  it('a body that takes too long ends its thread; bodies that wait too long are refused', async () => {
    const clock = new FakeClock();
    const { checker, run } = checkerWith({ loopBytesMax: 0 }, clock);
    const bodies = [run('a', heavy(190_000)), run('a', heavy(190_000))];
    clock.advance(30_000);
    for (const { checked } of await Promise.all(bodies))
      expect(checked).toMatchObject({ ok: false, refusal: { status: 503, retryAfterSeconds: 2 } });
    expect(checker.waiting).toBe(0);
    expect((await run('a', JSON.stringify(BODY))).checked.ok).toBe(true);
  });

  it('a body whose guest disconnects while it waits is never checked', async () => {
    const { checker, run } = checkerWith({ loopBytesMax: 0 });
    const gone = new AbortController();
    const first = run('a', heavy(100_000));
    const second = run('a', heavy(100_000), gone.signal);
    expect(checker.waiting).toBe(1);
    gone.abort(new Error('left'));
    await expect(second).rejects.toThrow('left');
    expect(checker.waiting).toBe(0);
    expect((await first).where).toBe('thread');
  });

  it('ends idle threads', async () => {
    const clock = new FakeClock();
    const { checker, run } = checkerWith({ loopBytesMax: 0 }, clock);
    await run('a', JSON.stringify(BODY));
    expect(checker.threads).toBe(1);
    clock.advance(30_000);
    expect(checker.threads).toBe(0);
  });
});

describe('bridge', () => {
  let fixture: BridgeFixture;

  it('answers a neighbor with short or long bodies while the bodies of a flood are checked, and releases their memory', async () => {
    fixture = await bridgeFixture();
    undo.push(() => fixture.close());
    fixture.mock.answer((_, response) => sendJson(response, 200, completion('ok')));
    const dir = await mkdtemp(join(tmpdir(), 'nv-bridge-'));
    undo.push(() => rm(dir, { recursive: true, force: true }));
    const socketPath = join(dir, 'hostile');
    const port = await fixture.bridge.attach({ sandboxId: 'hostile', socketPath });
    const body = heavy(150_000);
    const ended: string[] = [];
    const flood = Array.from({ length: 5 }, () =>
      call(socketPath, CHAT, body).then(({ status }) => ended.push(`hostile ${status}`)),
    );
    const waiting = fixture.bridge.metrics().find(({ name }) => name.endsWith('bodies_waiting'));
    await expect.poll(() => waiting?.samples()[0]?.value).toBeGreaterThan(0);
    const own = await fixture.call(CHAT, BODY);
    const withText = (characters: number) => ({
      ...BODY,
      messages: [{ role: 'user', content: 'x'.repeat(characters) }],
    });
    const large = withText(400_000);
    const ownShort = await fixture.call(CHAT, withText(100_000));
    const ownLarge = await fixture.call(CHAT, large);
    ended.push(`polite ${own.status} ${ownShort.status} ${ownLarge.status}`);
    expect(fixture.mock.requests.at(-1)?.body.toString()).toBe(JSON.stringify(large));
    await Promise.all(flood);
    expect(ended.indexOf('polite 200 200 200')).toBeLessThan(4);
    expect(ended.filter((each) => each.startsWith('hostile'))).toHaveLength(5);
    await expect.poll(() => port.stats()).toMatchObject({ bodyBytes: 0, inFlight: 0 });
  });
});
