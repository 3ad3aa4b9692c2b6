/** Errors of the library: their classes are exported, name a remedy, and an abort is always the signal's reason. */
import { once } from 'node:events';
import { globSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as library from '../../src/index.ts';
import {
  ClientError,
  CodedError,
  ConfigError,
  ForwardError,
  GuestError,
  Sandbox,
  SandboxError,
} from '../../src/index.ts';
import { ROOT } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';
import { settle } from '../support/fake-members.ts';

let daemon: FakeDaemon;
let sandbox: Sandbox;
let dir: string;
const before = { ...process.env };
beforeAll(async () => {
  daemon = await startFakeDaemon();
  Object.assign(process.env, daemon.env);
  sandbox = await Sandbox.create();
  dir = await daemon.control.dirOf(sandbox.id);
});
afterAll(async () => {
  process.env = before;
  await daemon[Symbol.asyncDispose]();
});

async function rejection(work: Promise<unknown>): Promise<unknown> {
  return await work.then(
    () => expect.fail('it should be rejected'),
    (error: unknown) => error,
  );
}

describe('library, errors', () => {
  it('exports each error class of the folders that it uses', () => {
    const rooms = [
      ...['inference/bridge', 'inference/engine', 'api/client', 'machine/guest', 'machine/jail', 'machine/vmm'],
      ...['machine/vsock', 'artifacts/image', 'cli/library', 'host/runtime', 'sandbox/contract', 'sandbox/store'],
    ];
    const files = globSync([`src/{${rooms.join(',')}}/*.ts`, 'src/egress/net/errors.ts', 'src/base/{config,home}.ts'], {
      cwd: ROOT,
    });
    const classes = files.flatMap((path) => {
      const source = readFileSync(join(ROOT, path), 'utf8');
      return [...source.matchAll(/^export class (\w+) extends (?:Coded|Sandbox)Error/gm)];
    });
    expect(classes.length).toBeGreaterThan(12);
    expect(classes.map(([, name = '']) => name).filter((name) => !(name in library))).toEqual([]);
  });

  it('rejects with the class of the fault, with its code and a remedy', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const { port } = taken.address() as { port: number };
    const ended = await Sandbox.create();
    await ended.kill();
    const key = process.env['NEUROVISOR_LOG'];
    const cases: [() => Promise<unknown>, abstract new (...args: never) => Error, string][] = [
      [() => Sandbox.create({ cpus: 999 }), SandboxError, 'spec_invalid'],
      [() => Sandbox.connect('z'.repeat(20)), SandboxError, 'not_found'],
      [() => ended.exec(['true']), SandboxError, 'gone'],
      [() => sandbox.exec(['/no/such/program']), GuestError, 'not_found'],
      [() => sandbox.files.readAll('/no/such/file'), GuestError, 'not_found'],
      [() => sandbox.forward(80, { localPort: port }), ForwardError, 'port_in_use'],
      [() => Sandbox.create({ daemon: 'http://127.0.0.1:1' }), ClientError, 'daemon_unreachable'],
      [
        async () => {
          process.env['NEUROVISOR_LOG'] = 'loud';
          return await Sandbox.create();
        },
        ConfigError,
        'config_invalid',
      ],
    ];
    for (const [work, type, code] of cases) {
      const error = await rejection(work());
      expect(error).toBeInstanceOf(type);
      expect(error).toBeInstanceOf(CodedError);
      expect(error).toMatchObject({ code });
      if (code !== 'spec_invalid') expect((error as CodedError).remedy).toMatch(/\w/);
    }
    if (key === undefined) delete process.env['NEUROVISOR_LOG'];
    taken.close();
  });
});

describe('library, an abort', () => {
  const ways: [string, (signal: AbortSignal) => Promise<unknown>][] = [
    ['create', (signal) => Sandbox.create({ signal })],
    ['connect', (signal) => Sandbox.connect(sandbox.id, { signal })],
    ['list', (signal) => Sandbox.list({ signal })],
    ['runCode', (signal) => sandbox.runCode('import time; time.sleep(60)', { signal })],
    ['exec', (signal) => sandbox.exec(['sleep', '60'], { signal })],
    ['start', (signal) => sandbox.start(['sleep', '60'], { signal })],
    ['files.readAll', (signal) => sandbox.files.readAll('/proc/version', { signal })],
    ['files.write', (signal) => sandbox.files.write(join(dir, 'long'), never(), { signal })],
  ];

  it.each(ways)('%s: rejects with the reason, whenever it comes', async (_name, work) => {
    const reason = new Error('the reason of this test');
    const early = await rejection(work(AbortSignal.abort(reason)));
    expect(early).toBe(reason);
    let isLate = false;
    for (let turn = 0; turn < 12 && !isLate; turn++) {
      const aborter = new AbortController();
      const working = work(aborter.signal);
      const outcome = working.then(
        () => 'done',
        (error: unknown) => error,
      );
      for (let waited = 0; waited < turn; waited++) await settle();
      aborter.abort(reason);
      const result = await outcome;
      isLate = result === 'done';
      if (!isLate) expect(result).toBe(reason);
    }
  });
});

async function* never(): AsyncGenerator<Uint8Array> {
  for (;;) {
    await settle();
    yield Buffer.from('x');
  }
}
