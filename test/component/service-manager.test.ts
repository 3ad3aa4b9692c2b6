/** What a daemon sends to systemd; Python listens in its place. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-notify-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** Runs the program with `manager`, our module. @returns the datagrams that it sends, until one is `end` */
async function sent(program: string, path: string, variables: Record<string, string> = {}): Promise<string[]> {
  const listen = `import json, os, socket, subprocess, sys
path, *command = sys.argv[1:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('\\0' + path[1:] if path[0] == '@' else path)
s.settimeout(20)
child = subprocess.Popen(command, env={**os.environ, 'NOTIFY_SOCKET': path})
got = []
while not got or got[-1] != 'end': got.append(s.recv(4096).decode())
print(json.dumps(got[:-1]))
child.kill()`;
  const url = join(ROOT, 'src/host/daemon/service-manager.ts');
  const code = `const manager = await import(${JSON.stringify(url)});\n${program}`;
  const command = ['-c', listen, path, process.execPath, '--input-type=module', '-e', code];
  const { stdout } = await promisify(execFile)('python3', command, { env: { ...process.env, ...variables } });
  return JSON.parse(stdout) as string[];
}

const END = "manager.notifyManager(process.env, 'end');";

it.each([
  ['a path', () => join(dir, 'notify')],
  ['an abstract name', () => `@nv-${process.pid}`],
])('sends states to %s', async (_what, path) => {
  const program = `manager.notifyManager(process.env, 'READY=1', 'STATUS=with QEMU');
      manager.notifyReload(process.env); ${END}`;
  const [ready, reload, ...more] = await sent(program, path());
  expect([ready, more]).toEqual(['READY=1\nSTATUS=with QEMU', []]);
  expect(reload).toMatch(/^RELOADING=1\nMONOTONIC_USEC=[1-9]\d+$/);
});

it.each([
  ['turns and the daemon is healthy', '', {}, 3],
  ['turns, and the daemon is not healthy', 'watch(async () => false);', {}, 1],
  ['turns, and the daemon cannot be asked', "watch(() => Promise.reject(new Error('gone')));", {}, 1],
  ['hangs', `await 0; for (const end = Date.now() + 1700; Date.now() < end; ); ${END}`, {}, 1],
  ['belongs to another process', '', { WATCHDOG_PID: '1' }, 0],
  ['has no watchdog', '', { WATCHDOG_USEC: '' }, 0],
])('the watchdog of a loop that %s', async (_what, program, variables, beats) => {
  const code = `const watch = manager.beginWatchdog(process.env); ${program}
    setTimeout(() => { ${END} }, 1200);`;
  const got = await sent(code, join(dir, 'notify'), { WATCHDOG_USEC: '1000000', WATCHDOG_PID: '', ...variables });
  expect(got).toEqual(Array.from({ length: beats }, () => 'WATCHDOG=1'));
});

it.each([[''], ['relative'], ['/no/such/socket'], [`/${'x'.repeat(200)}`]])(
  'NOTIFY_SOCKET=%j: nothing is sent, and nothing fails',
  async (path) => {
    const { notifyManager } = await import('../../src/host/daemon/service-manager.ts');
    notifyManager({ NOTIFY_SOCKET: path }, 'READY=1');
  },
);
