/** What a daemon sends to systemd; Python listens in its place. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
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

/** Passes a socket as systemd does to a program that listens at it. @returns what it prints */
async function activated(port: string, variables: Record<string, string> = {}): Promise<string> {
  const pass = `import os, socket, sys
s = socket.create_server(('127.0.0.1', 0))
if s.fileno() != 3: os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
port = str(s.getsockname()[1])
env = {**os.environ, 'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1', 'PORT': port, **{k: v for k, v in (one.split('=') for one in sys.argv[3:])}}
os.execve(sys.argv[1], [sys.argv[1], '--input-type=module', '-e', sys.argv[2]], env)`;
  const code = `import { createServer } from 'node:http';
    import { activatedSocket } from '${ROOT}/src/host/daemon/service-manager.ts';
    import { listenAt } from '${ROOT}/src/api/rest/listener.ts';
    const fd = activatedSocket(process.env);
    const server = createServer((_, answer) => answer.end('hello'));
    try {
      if (fd === null) throw new Error('none');
      await listenAt(server, { port: ${port}, fd });
      console.log(await (await fetch('http://127.0.0.1:' + process.env.PORT)).text());
    } catch (error) {
      console.log(error.message);
    }
    process.exit();`;
  const more = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
  return (await promisify(execFile)('python3', ['-c', pass, process.execPath, code, ...more])).stdout.trim();
}

describe('activatedSocket', () => {
  it.each([['Number(process.env.PORT)'], ['0']])(
    'a server answers at the socket of a unit, for port %s',
    async (port) => {
      expect(await activated(port)).toBe('hello');
    },
  );

  it('refuses a socket at another address than the settings', async () => {
    expect(await activated('1')).toMatch(/^the inherited socket listens at 127\.0\.0\.1:\d+$/);
    expect(await activated("0, host: '0.0.0.0'")).toMatch(/^the inherited socket listens at 127/);
  });

  it.each([[{ LISTEN_PID: '1' }], [{ LISTEN_PID: '' }], [{ LISTEN_FDS: '0' }]])(
    'takes none that is not meant for it: %j',
    async (variables) => {
      expect(await activated('0', variables)).toBe('none');
    },
  );
});
