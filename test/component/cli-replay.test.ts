/** `run --record` and `--replay`: invalid uses that are refused before a sandbox starts. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { cli } from '../support/cli.ts';

let home: string;
let text: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-replay-home-'));
  text = join(home, 'notes.txt');
  await writeFile(text, 'no cassette');
});
afterAll(() => rm(home, { recursive: true }));

const run = (args: readonly string[], env: Record<string, string> = {}) =>
  cli(['run', ...args, '-c', 'print(1)'], { env: { NEUROVISOR_HOME: home, ...env } }).result;

it.each([
  [['--record', 'a.json', '--replay', 'a.json'], '--record and --replay are mutually exclusive'],
  [['--replay', '/no/such.json'], 'the cassette /no/such.json does not exist'],
  [['--daemon', '--record', 'a.json'], '--daemon excludes --record'],
] as const)('%j: a usage error', async (args, message) => {
  const { status, stdout, stderr } = await run(args);
  expect([status, stdout]).toEqual([2, '']);
  expect(stderr).toContain(message);
});

it('--daemon with NEUROVISOR_REPLAY is refused: the daemon would ask a model', async () => {
  const { status, stderr } = await run(['--daemon'], { NEUROVISOR_REPLAY: text });
  expect(status).toBe(2);
  expect(stderr).toContain('--daemon excludes NEUROVISOR_REPLAY');
});

it.each(['--record', '--replay'])('%s with a file that is no cassette is refused', async (option) => {
  const { status, stderr } = await run([option, text]);
  expect(status).toBe(125);
  expect(stderr).toContain(`${text}: not a cassette`);
  expect(await readFile(text, 'utf8')).toBe('no cassette');
});
