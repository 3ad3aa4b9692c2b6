import Fastify from 'fastify';
import { expect, it } from 'vitest';
import { z } from 'zod';
import { settle } from '../../../test/support/fake-members.ts';
import { FakeClock } from '../../base/clock.ts';
import { LoopTime } from '../../base/fairness/loop-time.ts';
import { BodyTurns, takeBodies } from './body.ts';
import { API_LIMITS } from './limits.ts';

const LARGE = API_LIMITS.bodyAtOnceBytesMax + 1;

function make() {
  const clock = new FakeClock();
  let cpuMs = 0;
  const turns = new BodyTurns(clock, new LoopTime(API_LIMITS.bodyLoopTime, clock, () => cpuMs));
  const parsedMs: number[] = [];
  const parse = (bytes: number, ms: number) =>
    turns.run(bytes, () => {
      cpuMs += ms;
      parsedMs.push(clock.now());
    });
  return { clock, parse, parsedMs };
}

it('BodyTurns: large bodies leave the event loop to others between them; small ones do not wait', async () => {
  const { clock, parse, parsedMs } = make();
  const start = clock.now();
  const all = [1, 2, 3].map(() => parse(LARGE, 40));
  await settle();
  await parse(LARGE - 1, 1);
  expect(parsedMs).toEqual([start, start]);
  for (let ms = 0; ms < 1000; ms += 1) {
    clock.advance(1);
    await settle();
  }
  await Promise.all(all);
  const { refillPerSecond } = API_LIMITS.bodyLoopTime;
  const pauses = parsedMs.slice(2).map((ms, index) => ms - (parsedMs[index + 1] ?? 0));
  expect(pauses).toHaveLength(2);
  for (const pause of pauses) expect(pause).toBeGreaterThan((0.8 * 40 * 1000) / refillPerSecond);
});

it('BodyTurns: refuses more bodies than may wait', async () => {
  const { clock, parse } = make();
  const all = Array.from({ length: API_LIMITS.bodiesWaitingMax + 1 }, () => parse(LARGE, 1));
  await expect(parse(LARGE, 1)).rejects.toMatchObject({ code: 'busy' });
  for (let ms = 0; ms < 1000; ms += 1) {
    clock.advance(1);
    await settle();
  }
  await Promise.all(all);
});

it('takeBodies: the checks of large bodies take turns, too, and their results are those of small ones', async () => {
  const clock = new FakeClock();
  let cpuMs = 0;
  const checkedMs: number[] = [];
  const text = z.string().transform((given, context) => {
    cpuMs += 40;
    checkedMs.push(clock.now());
    if (given.startsWith('bad')) context.addIssue('bad text');
    return given.length;
  });
  const app = Fastify();
  takeBodies(app, '*', clock, new BodyTurns(clock, new LoopTime(API_LIMITS.bodyLoopTime, clock, () => cpuMs)));
  app.post('/', { schema: { body: z.object({ text }) } }, async ({ body }) => body);
  const send = (start: string, length: number) =>
    app.inject({ method: 'POST', url: '/', body: { text: start.padEnd(length, 'x'), more: 1 } });
  const small = [await send('good', 10), await send('bad', 10)];
  const [unturned, start] = [checkedMs.length, clock.now()];
  const all = [send('good', LARGE), send('bad', LARGE), send('good', LARGE)];
  for (let ms = 0; ms < 1000; ms += 1) {
    clock.advance(1);
    await settle();
  }
  const large = await Promise.all(all);
  expect(small.map(({ statusCode, body }) => [statusCode, body])).toEqual([
    [200, '{"text":10}'],
    [400, expect.stringContaining('bad text')],
  ]);
  expect(large.map(({ statusCode }) => statusCode)).toEqual([200, 400, 200]);
  expect([large[0]?.body, large[1]?.body]).toEqual([`{"text":${LARGE}}`, small[1]?.body]);
  const turns = checkedMs.slice(unturned);
  expect(turns).toHaveLength(3);
  const { refillPerSecond } = API_LIMITS.bodyLoopTime;
  for (const [index, ms] of turns.entries()) {
    expect(ms - start).toBeGreaterThanOrEqual((index * 0.8 * 40 * 1000) / refillPerSecond);
  }
});
