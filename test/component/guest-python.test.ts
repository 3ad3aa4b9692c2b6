/** Scripts in forks of the warmed interpreter, compared with a plain `python3` on this machine. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sleep } from '../../src/base/clock.ts';
import type { GuestEvent, PythonSpec } from '../../src/machine/guest/link.ts';
import { agentPython, type Outcome, outcome, type RunningAgent, startAgent } from '../support/guest-agent.ts';

const plain = async (args: string[], cwd: string): Promise<Omit<Outcome, 'exit'> & { code: number }> => {
  try {
    const running = promisify(execFile)(agentPython, args, { cwd });
    running.child.stdin?.end();
    const done = await running;
    return { stdout: done.stdout, stderr: done.stderr, code: 0 };
  } catch (error) {
    const failed = error as { stdout: string; stderr: string; code: number };
    return { stdout: failed.stdout, stderr: failed.stderr, code: failed.code };
  }
};

describe('python', () => {
  let agent: RunningAgent;
  const warmed: GuestEvent[] = [];
  const run = async (spec: PythonSpec): Promise<Outcome> => outcome(await agent.guest.python(spec));
  const code = (text: string, more: Partial<PythonSpec> = {}): Promise<Outcome> =>
    run({ script: { code: text }, ...more });

  beforeAll(async () => {
    agent = await startAgent({ identity: { warm: ['json', 'decimal', 'no_such_module', 'os.path'] } });
    agent.guest.events((event) => {
      if (event.type === 'warm') warmed.push(event);
    });
  });
  afterAll(async () => {
    expect(agent.console()).not.toContain('Traceback');
    await agent[Symbol.asyncDispose]();
  });

  it('warm: modules are imported; a failed one is reported, and the others follow', async () => {
    const process = await agent.guest.python({
      script: { code: 'import sys; print("decimal" in sys.modules, "json" in sys.modules)' },
    });
    expect(process.warm).toBe(true);
    expect((await outcome(process)).stdout).toBe('True True\n');
    expect(warmed).toHaveLength(1);
    expect(warmed[0]).toMatchObject({
      modules: [
        { name: 'json', error: null },
        { name: 'decimal', error: null },
        { name: 'no_such_module', error: expect.stringContaining('ModuleNotFoundError') },
        { name: 'os.path', error: null },
      ],
    });
  });

  it('waitWarm: false starts from a cold interpreter while the warm list is imported', async () => {
    const slow = join(agent.dir, 'slow');
    mkdirSync(slow);
    writeFileSync(join(slow, 'slow_module.py'), 'import time; time.sleep(3)\n');
    await using other = await startAgent({ identity: { warm: ['slow_module'], env: { PYTHONPATH: slow } } });
    const script = { code: 'import sys; print("slow_module" in sys.modules)' };
    const cold = await other.guest.python({ script, waitWarm: false });
    expect(cold.warm).toBe(false);
    expect((await outcome(cold)).stdout).toBe('False\n');
    const warm = await other.guest.python({ script });
    expect(warm.warm).toBe(true);
    expect((await outcome(warm)).stdout).toBe('True\n');
  });

  // Each runs as a file on both sides; paths differ and are masked.
  const cases: Readonly<Record<string, string>> = {
    'a traceback with its source lines':
      'def f(x):\n    return 1 / x\n\ntry:\n    f(0)\nexcept ZeroDivisionError as e:\n    raise KeyError("k") from e\n',
    'a syntax error': 'print("never")\ndef f(:\n    pass\n',
    'sys.exit with a number': 'import sys\nprint("x")\nsys.exit(5)\n',
    'sys.exit with a text': 'import sys\nsys.exit("bad thing")\n',
    'sys.exit without a value': 'import sys\nsys.exit()\n',
    'os._exit': 'import os\nos._exit(9)\n',
    '__main__ and its attributes':
      'import sys, __main__\nprint(__name__, __main__.__dict__ is globals(), sys.argv[1:], __spec__ is None, __builtins__.__name__, __cached__, __doc__, __package__)\nif __name__ == "__main__": print("main")\n',
    'sys.path[0] and flags':
      'import sys, os\nprint(os.path.dirname(os.path.abspath(__file__)) == sys.path[0], sys.flags.isolated, sys.flags.no_site, len(sys.orig_argv))\nprint("site" in sys.modules, [p for p in sys.path if "neurovisor" in p])\n',
    'atexit, threads and finalizers':
      'import atexit, threading, time\nclass A:\n    def __del__(self): print("del")\na = A()\natexit.register(lambda: print("atexit"))\nthreading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()\nprint("end")\n',
    'an exception in a thread':
      'import threading\nt = threading.Thread(target=lambda: 1/0, name="T")\nt.start(); t.join()\n',
    'pickle of a class in __main__': 'import pickle\nclass P:\n    v = 3\nprint(pickle.loads(pickle.dumps(P())).v)\n',
    multiprocessing:
      'import multiprocessing as m\ndef f(x): return x * x\nif __name__ == "__main__":\n    m.set_start_method("spawn")\n    with m.Pool(1) as p: print(p.map(f, [1, 2, 3]))\n',
    'asyncio and subprocess':
      'import asyncio\nasync def main():\n    p = await asyncio.create_subprocess_exec("echo", "hi", stdout=-1)\n    print(await p.communicate())\nasyncio.run(main())\n',
    'input at its end': 'print(repr(input()))\n',
    'a warning': 'import warnings\nwarnings.warn("careful")\n',
    'dataclasses and typing in __main__':
      'from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import get_type_hints\n@dataclass\nclass D:\n    x: int\nprint(D(1), get_type_hints(D))\n',
    'inspect and linecache': 'import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))\n',
    'a BOM and an encoding': '# -*- coding: latin-1 -*-\nprint("ok")\n',
  };
  for (const [name, text] of Object.entries(cases)) {
    it(`same as python3 FILE: ${name}`, async () => {
      const dir = join(agent.dir, 'plain');
      mkdirSync(dir, { recursive: true });
      writeFileSync(join(dir, 'case.py'), text);
      const want = await plain([join(dir, 'case.py'), 'a', 'b'], dir);
      const got = await run({ script: { code: text, name: 'case.py' }, args: ['a', 'b'], stdin: false });
      const mask = (out: string): string =>
        out.replaceAll(/"?[^" \n]*\/case\.py/g, 'case.py').replaceAll(/0x[0-9a-f]+/g, '0x');
      expect(mask(got.stdout)).toBe(mask(want.stdout));
      expect(mask(got.stderr)).toBe(mask(want.stderr));
      expect(got.exit.exitCode).toBe(want.code);
    });
  }

  it('same as python3 -c: argv, path and traceback', async () => {
    const text = 'import sys\nprint(sys.argv, repr(sys.path[0]), "__file__" in globals())\n1/0';
    const want = await plain(['-c', text, 'x'], agent.dir);
    const got = await code(text, { args: ['x'] });
    expect(got).toMatchObject({ stdout: want.stdout, stderr: want.stderr, exit: { exitCode: 1 } });
  });

  it('path: a file of the guest, relative to the working directory', async () => {
    writeFileSync(join(agent.dir, 'there.py'), 'import sys; print(sys.argv)\n');
    const got = await run({ script: { path: 'there.py' }, cwd: agent.dir, args: ['q'] });
    expect(got.stdout).toBe(`['${agent.dir}/there.py', 'q']\n`);
    await expect(agent.guest.python({ script: { path: '/no/such.py' } })).rejects.toMatchObject({ code: 'not_found' });
  });

  it('streaming: a printed line arrives before the script ends', async () => {
    const process = await agent.guest.python({ script: { code: 'print("first")\ninput()\nprint("second")' } });
    const [chunk] = await once(process.stdout, 'data');
    expect(String(chunk)).toBe('first\n');
    process.stdin.end('\n');
    expect((await process.exit).exitCode).toBe(0);
  });

  it('randomness: two forks share neither random nor uuid nor urandom', async () => {
    const text =
      'import random, uuid, os, secrets\nprint(random.random(), uuid.uuid4(), os.urandom(8).hex(), secrets.token_hex())';
    const [a, b] = await Promise.all([code(text), code(text)]);
    const first = a.stdout.trim().split(' ');
    const second = b.stdout.trim().split(' ');
    expect(first).toHaveLength(4);
    for (const [index, value] of first.entries()) expect(value).not.toBe(second[index]);
  });

  it('hygiene: a script has no descriptor of agent or fork server, and its own environment', async () => {
    const got = await code(
      'import os\nprint(sorted(os.listdir("/proc/self/fd"))[:-1], os.environ["MINE"], os.getsid(0) == os.getpid())',
      { env: { MINE: 'x' } },
    );
    expect(got.stdout).toBe("['0', '1', '2'] x True\n");
  });

  it('pty: a script on a terminal', async () => {
    const got = await code('import sys, os\nprint(sys.stdout.isatty(), os.get_terminal_size())', {
      pty: { cols: 77, rows: 11 },
    });
    expect(got.stdout).toBe('True os.terminal_size(columns=77, lines=11)\r\n');
  });

  it('signals: SIGINT is a KeyboardInterrupt, and the script ends by that signal', async () => {
    const process = await agent.guest.python({ script: { code: 'import time\nprint("up")\ntime.sleep(100)' } });
    await once(process.stdout, 'data');
    process.kill('SIGINT');
    const { exit, stderr } = await outcome(process);
    expect(exit).toMatchObject({ exitCode: null, signal: 'SIGINT' });
    expect(stderr).toContain('KeyboardInterrupt');
  });

  it('timeoutMs: a busy script is killed, and the exit says timedOut', async () => {
    const { exit } = await code('while True: pass', { timeoutMs: 200 });
    expect(exit).toMatchObject({ signal: 'SIGTERM', timedOut: true });
  });

  it('size: a script of 3 MiB runs, one above the limit is too_large', async () => {
    const filler = `# ${'x'.repeat(77)}\n`.repeat(40_000);
    expect((await code(`${filler}print("end")`)).stdout).toBe('end\n');
    await expect(agent.guest.python({ script: { code: ' '.repeat(17 * 1024 * 1024) } })).rejects.toMatchObject({
      code: 'too_large',
    });
  });

  it('NUL and binary scripts: an error from Python, not from the agent', async () => {
    const { exit, stderr } = await run({ script: { code: Buffer.from([0, 1, 2, 255, 0]), name: 'binary.py' } });
    expect(exit.exitCode).toBe(1);
    expect(stderr).not.toBe('');
  });

  it('fork server: it is restarted when killed, and a script in between runs cold', async () => {
    const text = 'import os; print(os.getppid())';
    const server = Number((await code(text)).stdout);
    expect(server).not.toBe(agent.child.pid);
    globalThis.process.kill(server, 'SIGKILL');
    await sleep(50);
    const during = await agent.guest.python({ script: { code: 'print("still")' } });
    expect((await outcome(during)).stdout).toBe('still\n');
    let warm = false;
    for (let tries = 0; !warm && tries < 100; tries += 1) {
      await sleep(50);
      const process = await agent.guest.python({ script: { code: text } });
      warm = process.warm;
      if (warm) expect(Number((await outcome(process)).stdout)).not.toBe(server);
      else await outcome(process);
    }
    expect(warm).toBe(true);
  });

  it('fork server: killed under a running script, the exit is unknown or the connection ends', async () => {
    const server = Number((await code('import os; print(os.getppid())')).stdout);
    expect(server).not.toBe(agent.child.pid);
    const process = await agent.guest.python({ script: { code: 'print("up")\nimport time\ntime.sleep(0.5)' } });
    await once(process.stdout, 'data');
    globalThis.process.kill(server, 'SIGKILL');
    expect(await process.exit).toMatchObject({ exitCode: null, signal: null, timedOut: false });
  });

  it('scripts directory: removed after a script that wrote nothing', async () => {
    await run({ script: { code: 'pass', name: 'a.py' } });
    const got = await run({
      script: { code: 'import os; print(len(os.listdir("..")))', name: 'b.py' },
      cwd: agent.dir,
    });
    expect(got.exit.exitCode).toBe(0);
    expect(agent.console()).not.toContain('Traceback');
  });
});
