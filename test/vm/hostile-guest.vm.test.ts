/** What a guest can do to its host and to itself: floods, bombs, a full disk. One VM for all tests. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { exec, python, useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
let sandbox: Supervisor;

beforeAll(async () => {
  sandbox = await fixture.runtime.startVm({ memoryMib: 256, diskMib: 64 });
});
afterAll(() => sandbox.stop());

/** The sandbox still does its work. */
async function expectAlive(): Promise<void> {
  expect(await python(sandbox.guest(), 'print(6 * 7)')).toMatchObject({ exitCode: 0, stdout: '42\n' });
}

describe('a hostile guest', () => {
  it('has no network card and no key but the placeholder', async () => {
    const code = `
import os
print(sorted(os.listdir('/sys/class/net')))
print(os.environ['OPENAI_API_KEY'], os.environ['OPENAI_BASE_URL'])
print({name: os.environ[name] for name in os.environ if 'KEY' in name or 'TOKEN' in name})
`;
    const { stdout } = await python(sandbox.guest(), code);
    expect(stdout.trimEnd().split('\n')).toEqual([
      "['lo']",
      'neurovisor http://127.0.0.1:11434/v1',
      // Placeholders: the bridge takes no key from a guest.
      "{'OPENAI_API_KEY': 'neurovisor', 'ANTHROPIC_API_KEY': 'neurovisor'}",
    ]);
  });

  it('that takes all memory has its program killed, and the sandbox continues', async () => {
    const outcome = await python(sandbox.guest(), 'blocks = []\nwhile True: blocks.append(bytearray(4 << 20))');
    expect(outcome.oomKilled || outcome.stderr.includes('MemoryError')).toBe(true);
    expect(outcome.exitCode).not.toBe(0);
    await expectAlive();
  });

  it('that forks endlessly reaches the limit of processes, and the sandbox continues', async () => {
    const code = `
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError as error:
    print('stopped', error.errno, made > 10, flush=True)
`;
    const outcome = await python(sandbox.guest(), code, { timeoutMs: 60_000 });
    expect(outcome.stdout).toContain('stopped 11 True');
    await expectAlive();
  });

  it('that fills its disk gets ENOSPC, and the sandbox continues', async () => {
    const code = `
import errno
try:
    with open('/home/user/big', 'wb') as f:
        while True: f.write(b'x' * (1 << 20))
except OSError as error:
    print(errno.errorcode[error.errno])
import os
os.remove('/home/user/big')
`;
    expect((await python(sandbox.guest(), code)).stdout).toBe('ENOSPC\n');
    await expectAlive();
  });

  it('that floods its output is cut at the limit, and the host’s memory stays flat', async () => {
    const before = process.memoryUsage().rss;
    // Twice the limit. A time would not do: a busy machine takes 10 s for half of it.
    const code = "import sys\nfor _ in range(1024): sys.stdout.write('x' * 65536)";
    const outcome = await python(sandbox.guest(), code, { outputBytesMax: 32 << 20 });
    expect(outcome.exitCode).toBe(0);
    expect(outcome.truncated).toBe(true);
    expect(outcome.stdout.length).toBe(32 << 20);
    expect(process.memoryUsage().rss - before).toBeLessThan(256 << 20);
    await expectAlive();
  });

  it('that floods the console neither blocks the host nor grows its memory', async () => {
    const outcome = await exec(sandbox.guest(), ['dd', 'if=/dev/zero', 'of=/dev/ttyS0', 'bs=4k', 'count=256'], {
      user: 'root',
    });
    expect(outcome.exitCode).toBe(0);
    expect(sandbox.vm?.consoleTail().length).toBeLessThanOrEqual(64 * 1024);
    await expectAlive();
  });

  it('that dials ports without a listener is refused', async () => {
    const code = `
import socket
refused = 0
for port in (1, 1023, 1027, 5000, 65536, 4294967294):
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.settimeout(10)
    try:
        s.connect((2, port))
        print('connected', port)
    except OSError as error:
        refused += 1
print('refused', refused)
`;
    expect((await python(sandbox.guest(), code)).stdout).toBe('refused 6\n');
    await expectAlive();
  });
});
