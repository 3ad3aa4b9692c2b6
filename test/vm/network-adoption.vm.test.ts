/** Real guests with a network, whose daemon is killed: the next one takes them over with a new card. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Daemon } from '../../src/cli/library/daemon.ts';
import { type DaemonProcess, daemonOf } from '../support/daemon.ts';
import { ALLOWED, FORBIDDEN, NetworkWorld } from '../support/network-world.ts';
import { python } from '../support/vm.ts';

const ONLY_ALLOWED = { mode: 'allowlist', allow: [ALLOWED.name] } as const;
const SEEN = `${ALLOWED.name} at ${ALLOWED.address}`;

let world: NetworkWorld;
let launcher: DaemonProcess;
let control: Daemon;
beforeAll(async () => {
  world = await NetworkWorld.create();
  ({ process: launcher, control } = await world.serve({ NEUROVISOR_LAUNCHER: '' }));
});
afterAll(async () => {
  await control?.[Symbol.asyncDispose]();
  await world?.[Symbol.asyncDispose]();
});

/** What a GET of the guest's gives: the answer, or the name of what failed. */
async function get(id: string, url: string): Promise<string> {
  const code = `
import urllib.error, urllib.request
try: print(urllib.request.urlopen('${url}', timeout=5).read().decode().strip())
except urllib.error.URLError as error: print(type(error.reason).__name__)
`;
  return (await python(await control.guest(id), code)).stdout.trim();
}

async function another(signal: 'SIGKILL' | 'SIGHUP'): Promise<void> {
  const before = daemonOf(launcher.pid) ?? 0;
  if (signal === 'SIGHUP') launcher.kill(signal);
  else process.kill(before, signal);
  await expect.poll(() => daemonOf(launcher.pid) ?? before, { timeout: 30_000 }).not.toBe(before);
  await expect.poll(() => control.list().then(() => true, String), { timeout: 60_000 }).toBe(true);
}

const ruleset = (): Promise<string> => world.host.run('nft', 'list', 'ruleset');

async function used(id: string): Promise<number> {
  const found = new RegExp(`quota budget_${id} \\{\\s*over \\S+ \\S+ used (\\d+) bytes`).exec(await ruleset());
  return Number(found?.[1]);
}

const events = async (id: string): Promise<string[]> => {
  const all: string[] = [];
  for await (const { type } of control.events(id, { follow: false })) all.push(type);
  return all;
};

it('after kill -9 and a hand-over a guest reaches what its policy allows; its budget goes on; nothing is left', async () => {
  const limits = { bytesMax: 1_000_001 };
  const { id } = await control.create({ network: { ...ONLY_ALLOWED, limits } });
  const { id: held } = await control.create({ network: ONLY_ALLOWED });
  expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
  await control.pause(held, 'memory');
  for (const signal of ['SIGKILL', 'SIGHUP'] as const) {
    const before = await used(id);
    expect(before).toBeGreaterThan(0);
    await another(signal);
    expect(await control.get(id)).toMatchObject({ status: 'running' });
    expect(await events(id)).toContain('adopted');
    expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
    expect(await get(id, `http://${FORBIDDEN.address}/`)).not.toContain('at');
    expect(await get(id, `http://${FORBIDDEN.name}/`)).toBe('gaierror');
    expect(await used(id)).toBeGreaterThan(before);
    expect((await world.taps()).sort()).toEqual([`nv-${id.slice(0, 8)}`, `nv-${held.slice(0, 8)}`].sort());
    expect((await ruleset()).match(/owner\/[^ ]*/g)).toHaveLength(2);
  }
  expect(await control.get(held)).toMatchObject({ status: 'paused', pausedTo: 'memory' });
  await control.resume(held);
  expect(await get(held, `http://${ALLOWED.name}/`)).toBe(SEEN);
  // A save takes the new card out.
  await control.pause(id, 'disk');
  await control.resume(id);
  expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
  await control.remove(id);
  await control.remove(held);
  expect(await world.taps()).toEqual([]);
  expect(await ruleset()).not.toContain('owner/');
});
