import { EventEmitter } from 'node:events';
import { Readable } from 'node:stream';
import { expect, it } from 'vitest';
import { settle } from '../../../../test/support/fake-members.ts';
import { FakeClock } from '../../../base/clock.ts';
import { LoopTime } from '../../../base/fairness/loop-time.ts';
import { BodyTurns } from '../../rest/body.ts';
import { API_LIMITS } from '../../rest/limits.ts';
import type { Call } from './call.ts';
import { frameOf } from './connect.ts';
import { answerRpc, type Rpc } from './service.ts';

const LARGE = { text: 'x'.repeat(API_LIMITS.bodyAtOnceBytesMax) };
const silent = { error: () => undefined } as never;

/** Starts a call whose handler takes 10 ms of the event loop. */
function world() {
  const clock = new FakeClock();
  let cpuMs = 0;
  const turns = new BodyTurns(clock, new LoopTime(API_LIMITS.bodyLoopTime, clock, () => cpuMs));
  const begun: unknown[] = [];
  const start = async (kind: 'unary' | 'server', message: unknown): Promise<void> => {
    const body = kind === 'unary' ? Buffer.from(JSON.stringify(message)) : frameOf(message);
    const response = Object.assign(new EventEmitter(), {
      writeHead: () => undefined,
      flushHeaders: () => undefined,
      write: () => true,
      end: () => undefined,
    });
    const run = async (_call: Call, given: unknown): Promise<undefined> => {
      begun.push(given);
      cpuMs += 10;
    };
    const call = { request: Readable.from([body]), response } as unknown as Call;
    void answerRpc({ kind, run } as Rpc, call, { clock, log: silent }, turns);
    await settle();
  };
  return { clock, begun, start };
}

it.each(['unary', 'server'] as const)(
  'a large message of a %s call waits for its turn, and a small one does not',
  async (kind) => {
    const { clock, begun, start } = world();
    await start(kind, LARGE);
    await start(kind, LARGE);
    expect(begun).toEqual([LARGE]);
    await start(kind, {});
    expect(begun).toEqual([LARGE, {}]);
    clock.advance(1000);
    await settle();
    expect(begun).toEqual([LARGE, {}, LARGE]);
  },
);
