import { PassThrough } from 'node:stream';
import { expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { watchAnswer } from './answer-time.ts';

const settle = () => new Promise(setImmediate);

function world(head = '') {
  const clock = new FakeClock();
  const [client, guest] = [new PassThrough(), new PassThrough()];
  const measured: number[] = [];
  const meter = { now: () => clock.now(), answered: (ms: number) => void measured.push(ms) };
  watchAnswer({ client, guest, head: Buffer.from(head) }, meter);
  const say = async (who: PassThrough, text: string): Promise<void> => {
    clock.advance(10);
    who.write(text);
    await settle();
  };
  return { client, guest, measured, say };
}

it('watchAnswer: measures from the first request byte to the first byte after the channel’s OK line', async () => {
  const { client, guest, measured, say } = world();
  await say(client, '{"op":"exec"');
  await say(guest, 'OK 10');
  await say(client, '}\n');
  await say(guest, '73\n');
  expect(measured).toEqual([]);
  await say(guest, '{');
  await say(guest, '"ok":true}\n');
  expect(measured).toEqual([40]);
  expect([client.listenerCount('data'), guest.listenerCount('data')]).toEqual([0, 0]);
});

it('watchAnswer: accepts an early request and an answer in the same chunk as the OK line', async () => {
  const { guest, measured, say } = world('{"op":"stat"}\n');
  await say(guest, 'OK 1\n{"ok":true}\n');
  expect(measured).toEqual([10]);
});

it('watchAnswer: ignores bytes a guest sends before any request', async () => {
  const { client, guest, measured, say } = world();
  await say(guest, 'OK 1\nhello');
  await say(client, 'x');
  await say(guest, 'y');
  expect(measured).toEqual([]);
});
