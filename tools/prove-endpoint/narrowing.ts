/** Proves that narrowing the policy of a running sandbox ends the connections that it no longer allows (I/O). */
import { setTimeout as sleep } from 'node:timers/promises';
import { get } from '../../prove/forged-requests.ts';
import type { Tried } from '../../prove/proof.ts';
import { ignore } from '../../src/base/ignore.ts';
import type { CanaryArrival } from './arrivals.ts';
import { askArrivals } from './canary-client.ts';
import { nameOf, type Target, type Tracer } from './cases.ts';
import { closedBut, type RemoteSandbox } from './client.ts';
import type { SuiteRun } from './suite-run.ts';
import { notTried, summaryOf } from './verdict.ts';

/** Silence timeouts that the held connection may survive after the answer to the update, and without an answer. */
const HOLD_SILENCES = 2;
const HOLD_SILENCES_MAX = 40;
/** Interval between queries to the canary for the held connection. */
const POLL_MS = 100;

export async function narrowing(
  run: SuiteRun,
  sandbox: RemoteSandbox,
  target: Target,
  next: Tracer,
): Promise<readonly Tried[]> {
  const allowed = nameOf(target, 'allowed');
  const seconds = HOLD_SILENCES * run.silenceSeconds;
  const secondsMax = HOLD_SILENCES_MAX * run.silenceSeconds;
  const what = {
    held: 'a connection that is open when its rule is removed',
    fresh: 'an allowed name, after its rule was removed',
  };
  const [held, fresh] = [next(), next()];
  const text = `GET /${held} HTTP/1.1\r\nHost: ${allowed}\r\n\r\n`;
  const path = `/tmp/${held}`;
  const hold = { kind: 'hold', host: allowed, port: 80, text, path, seconds, secondsMax } as const;
  const end = new AbortController();
  const holding = run.probe(sandbox, [hold]).finally(() => end.abort());
  holding.catch((error: unknown) => ignore(error, 'awaited below'));
  const isHeld = await isThere(run, target, end.signal, ({ text: line }) => line.includes(held));
  const refused = await run.unlessAborted(sandbox.updateNetwork(closedBut([nameOf(target, 'elsewhere')])));
  await run.probe(sandbox, [{ kind: 'release', path }]);
  const [outcome] = await holding;
  if (refused !== undefined) return Object.values(what).map((each) => notTried(each, `no update: ${refused}`));
  const [again] = await run.probe(sandbox, [
    { kind: 'tcp', host: target.address, port: 80, text: get(allowed, `/${fresh}`) },
  ]);
  const arrivals = await run.unlessAborted(askArrivals(target));
  const count = arrivals.filter(({ text: line }) => line.includes(fresh)).length;
  const ended = outcome?.outcome ?? 'nothing';
  const seen = again === undefined ? 'nothing' : summaryOf(again);
  return [
    isHeld
      ? { what: what.held, expected: 'it ends', seen: ended, ok: ended !== 'still answered' }
      : notTried(what.held, 'it was not seen at the canary'),
    {
      what: what.fresh,
      expected: 'refused; nothing arrived',
      seen: `${seen}; ${count === 0 ? 'nothing' : count} arrived`,
      ok: count === 0,
    },
  ];
}

async function isThere(
  run: SuiteRun,
  target: Target,
  until: AbortSignal,
  isIt: (arrival: CanaryArrival) => boolean,
): Promise<boolean> {
  while (!until.aborted) {
    if ((await run.unlessAborted(askArrivals(target))).some(isIt)) return true;
    await sleep(POLL_MS);
  }
  return false;
}
