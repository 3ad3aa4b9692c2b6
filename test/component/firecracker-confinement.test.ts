/** Whether a process has its own filter, even if its parent has one too (a service, a container). */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { writeLauncher } from '../../src/host/runtime/firecracker/filters.ts';
import { ROOT } from '../support/cli.ts';

/** Starts a program and checks it; the last word of the output is the cause of a refusal, or `confined`. */
const LOOK = `
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { checkConfinement } from '${join(ROOT, 'src/machine/vmm/firecracker/jail/confinement.ts')}';
const [command, ...args] = process.argv.slice(1);
const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
child.stdin.write('started');
// An answer shows that the program runs.
await once(child.stdout, 'data');
try {
  checkConfinement(child.pid, null);
  console.log('confined');
} catch (error) {
  console.log(error.cause);
} finally {
  child.kill('SIGKILL');
}
`;

describe('checkConfinement', () => {
  let dir: string;
  let launcher: string;
  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'nv-confined-'));
    launcher = await writeLauncher({ cacheDir: dir }, 'enforce');
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  function look(...words: string[]): string {
    const [command = '', ...args] = words;
    const { stdout } = spawnSync(command, args, { encoding: 'utf8' });
    return stdout.trim();
  }
  const node = [process.execPath, '--no-warnings', '--input-type=module', '-e', LOOK, '--'];

  it('finds a filter of the process itself', () => {
    expect(look(...node, launcher, '/bin/cat')).toBe('confined');
    expect(look(...node, '/bin/cat')).toContain('no system call filter');
  });

  it('does not accept an inherited filter as one of the process itself', async () => {
    // Node makes calls that this filter logs.
    const outer = await writeLauncher({ cacheDir: dir }, 'log');
    expect(look(outer, ...node, '/bin/cat')).toContain('no system call filter');
    expect(look(outer, ...node, launcher, '/bin/cat')).toBe('confined');
  });
});
