/** What `neurovisor` says of words that are wrong, where no daemon runs: nothing is asked of one for that. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CliResult, cli } from '../support/cli.ts';

let home: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-words-'));
});
afterAll(() => rm(home, { recursive: true }));

const run = (line: string, env: Record<string, string> = {}): Promise<CliResult> =>
  cli(line.split(' '), { env: { NEUROVISOR_HOME: home, ...env } }).result;

describe('-o json', () => {
  it.each([
    ['run -o json --frob', "unknown option '--frob'"],
    ['run -o json --net foo x', 'Allowed choices are none, egress, open'],
    ['create --cpus abc -o json', '--cpus: "abc" is no whole number'],
    ['exec -o json', "missing required argument 'id'"],
    ['frob --output=json', "unknown command 'frob'"],
    ['run -o json', 'no script was given'],
  ])('%s: the error is an object, and nothing else is printed', async (line, message) => {
    const { status, stdout, stderr } = await run(line);
    expect([status, stderr]).toEqual([2, '']);
    expect(JSON.parse(stdout)).toEqual({
      error: expect.objectContaining({
        code: 'usage',
        message: expect.stringContaining(message),
      }),
    });
  });

  it('of the program, after --: errors are text', async () => {
    const { stdout, stderr } = await run('exec --frob x -- jq -o json');
    expect([stdout, stderr]).toEqual(['', expect.stringContaining("unknown option '--frob'")]);
  });
});

describe('no daemon', () => {
  it('at an address: says to look at it, and how to start one there', async () => {
    const { status, stderr } = await run('ls', { NEUROVISOR_URL: 'http://127.0.0.1:1' });
    expect(status).toBe(125);
    expect(stderr).toContain('NEUROVISOR_URL');
    expect(stderr).toContain('neurovisor serve --port 1');
  });
});
