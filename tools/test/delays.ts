/**
 * Preloaded into tests and the programs that they start (`./neurovisor test --delays`): file operations, timers, new
 * connections and the ends of child processes come late at random, so that code that works only in the usual order
 * fails. Each is delayed by itself; the system's guarantees stay: bytes of a stream keep their order, no timer is
 * early.
 */
import childProcess from 'node:child_process';
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
import timers from 'node:timers';
import { delaysFrom } from './delay-plan.ts';

function install(next: () => number): void {
  const after = timers.setTimeout;
  const pause = (): Promise<void> => new Promise((resolve) => void after(resolve, next()));

  // Before and after: another operation can overtake the start of this one, and its answer.
  const promises = fs.promises as unknown as Record<string, unknown>;
  for (const [name, original] of Object.entries(promises)) {
    if (typeof original !== 'function' || !isOperation(name)) continue;
    promises[name] = async (...args: unknown[]) => {
      await pause();
      const result: unknown = await Reflect.apply(original, fs.promises, args);
      await pause();
      return result;
    };
  }

  const late = (name: 'setTimeout' | 'setInterval'): void => {
    const original = timers[name] as (...args: unknown[]) => unknown;
    const delayed = (run: unknown, ms?: unknown, ...args: unknown[]): unknown =>
      original(run, Number(ms ?? 0) + next(), ...args);
    // `util.promisify` finds its own version here.
    Object.defineProperties(delayed, Object.getOwnPropertyDescriptors(original));
    Object.assign(timers, { [name]: delayed });
    Object.assign(globalThis, { [name]: delayed });
  };
  late('setTimeout');
  late('setInterval');

  lateEvents(net.Server.prototype, ['connection'], { after, next });
  lateEvents(childProcess.ChildProcess.prototype, ['exit', 'close'], { after, next });
  syncBuiltinESMExports();
}

/** Excludes `watch`, which returns an iterator, and functions that return streams. */
const isOperation = (name: string): boolean => name !== 'watch' && name !== 'glob';

interface Clock {
  readonly after: typeof timers.setTimeout;
  readonly next: () => number;
}

type Emit = (this: object, event: string | symbol, ...args: unknown[]) => boolean;

/** Events of one emitter keep their order. */
function lateEvents(prototype: { emit: Emit }, events: readonly string[], { after, next }: Clock): void {
  const original = prototype.emit;
  const last = new WeakMap<object, Promise<void>>();
  prototype.emit = function (event, ...args) {
    if (!events.includes(String(event))) return Reflect.apply(original, this, [event, ...args]);
    const turn = (last.get(this) ?? Promise.resolve()).then(
      () =>
        new Promise<void>((resolve) => {
          after(() => {
            resolve();
            Reflect.apply(original, this, [event, ...args]);
          }, next());
        }),
    );
    last.set(this, turn);
    return true;
  };
}

const plan = delaysFrom(process.env);
if (plan !== null) install(plan);
