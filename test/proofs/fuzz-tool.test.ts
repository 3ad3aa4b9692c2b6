/** The command `neurovisor fuzz` as developers start it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { keptPath } from '../fuzz/kept-inputs.ts';
import { CANARY } from '../fuzz/registry.ts';
import { ROOT } from '../support/cli.ts';

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-fuzz-'));
});
afterEach(() => rm(home, { recursive: true }));

interface Fuzz {
  readonly child: ChildProcess;
  readonly ended: Promise<{ readonly status: number | null; readonly output: string }>;
}

function fuzz(...args: string[]): Fuzz {
  const argv = [join(ROOT, 'tools/fuzz/main.ts'), ...args];
  const child = spawn(process.execPath, argv, { cwd: home, env: { ...process.env, NEUROVISOR_HOME: home } });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (bytes: Buffer) => {
      output += bytes.toString();
    });
  const ended = new Promise<{ status: number | null; output: string }>((resolve) =>
    child.on('close', (status) => resolve({ status, output })),
  );
  return { child, ended };
}

describe('neurovisor fuzz', () => {
  it('a failure is printed with its seed and input, and ends with 1; a canary leaves no crasher', async () => {
    const { status, output } = await fuzz(CANARY, '--seed', '5', '--jobs', '2').ended;
    expect(status).toBe(1);
    expect(output).toMatch(/^seed 5 \(repeat with --seed 5\)$/m);
    expect(output).toMatch(/^canary: [\d,]+ executions in .* branches, .* features, .* inputs/m);
    expect(output).toMatch(/FAILED \(seed 5\)\nError: the planted bug\n/);
    expect(output).toMatch(/^input: "nv.*open/m);
    expect(existsSync(keptPath('crashers', CANARY))).toBe(false);
  });

  it('Ctrl-C ends a run, which prints its figures and keeps its inputs for the next one', async () => {
    const { child, ended } = fuzz('dns', '--time', '1h');
    const inputs = join(home, 'cache/fuzz/dns');
    await expect.poll(() => existsSync(inputs)).toBe(true);
    child.kill('SIGINT');
    const { status, output } = await ended;
    expect(status).toBe(130);
    expect(output).toMatch(/^dns: [\d,]+ executions in .*; no failure$/m);
    expect((await readdir(inputs)).length).toBeGreaterThan(10);
    const again = await fuzz('dns', '--time', '0').ended;
    expect(again.status).toBe(0);
    expect(again.output).toMatch(/^dns: [1-9][\d,]+ executions/m);
  });

  it('names what it does not know, and lists what it knows', async () => {
    const unknown = await fuzz('nothing').ended;
    expect(unknown.status).toBe(2);
    expect(unknown.output).toContain('no fuzz target "nothing"');
    const none = await fuzz().ended;
    expect(none.status).toBe(2);
    const list = await fuzz('--list').ended;
    for (const name of ['dns', 'agent-wire', 'vsock-device']) expect(list.output).toContain(name);
    const replayed = await fuzz('dns', '--replay').ended;
    expect(replayed).toEqual({ status: 0, output: 'dns: every kept input passes\n' });
  });
});
