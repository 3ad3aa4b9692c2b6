/**
 * The most common faults of E2B's clients: what the daemon answers and what the JavaScript client raises, as the table in
 * docs/e2b.md says.
 */
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { Sandbox, Template } from 'e2b';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { BuildFailure } from '../../src/api/e2b/errors.ts';
import { QuotaError } from '../../src/api/tenants/errors.ts';
import { BusyError } from '../../src/sandbox/contract/errors.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

const UNKNOWN = 'i'.repeat(20);
const MISSING = '/nowhere/at-all';
const NOBODY = 'nobody-here';
const PID = 99_999;

let world: E2bWorld;
let tap: Tap;
let sandbox: Sandbox;
let beforeCreate = (): void => undefined;

type Options = Tap['client'];

/** By `method: fault`, as in the table. Each resolves with what the client gives instead of an error, or rejects. */
const FAULTS: Readonly<Record<string, (options: Options) => Promise<unknown>>> = {
  'create: wrong API key': (options) => Sandbox.create('agent', { ...options, apiKey: `e2b_${'f'.repeat(40)}` }),
  'create: unknown template': (options) => Sandbox.create('nothing:v1', options),
  'create: timeout over 7 days': (options) => Sandbox.create('agent', { ...options, timeoutMs: 8 * 86_400_000 }),
  'create: quota used up': (options) => refusedCreation(options, new QuotaError('acme', 'sandboxes', 'used up')),
  'create: host full': (options) => refusedCreation(options, new BusyError('no place is free', 1)),
  'connect: unknown id': (options) => Sandbox.connect(UNKNOWN, options),
  'getInfo: unknown id': (options) => Sandbox.getInfo(UNKNOWN, options),
  'setTimeout: unknown id': (options) => Sandbox.setTimeout(UNKNOWN, 1000, options),
  'pause: unknown id': (options) => Sandbox.pause(UNKNOWN, options),
  'getMetrics: unknown id': (options) => Sandbox.getMetrics(UNKNOWN, options),
  'createSnapshot: unknown id': (options) => Sandbox.createSnapshot(UNKNOWN, options),
  'kill: unknown id': (options) => Sandbox.kill(UNKNOWN, options),
  'deleteSnapshot: unknown id': (options) => Sandbox.deleteSnapshot(UNKNOWN, options),
  'pause: paused': async (options) => await Sandbox.pause(await paused(options), options),
  'setTimeout: paused': async (options) => await Sandbox.setTimeout(await paused(options), 1000, options),
  'updateNetwork: name without denyOut': () => sandbox.updateNetwork({ allowOut: ['example.com'] }),
  'build: invalid name': (options) => Template.build(template(), 'A b', options),
  'build: failing step': (options) => {
    world.builds.onBuild = () => Promise.reject(new BuildFailure(1, 'the command failed: false'));
    return Template.build(template().runCmd('false'), 'web', options);
  },
  'getBuildStatus: unknown build': (options) =>
    Template.getBuildStatus({ templateId: 'none', buildId: 'none' }, options),
  'read: missing': () => sandbox.files.read(MISSING),
  'read: a directory': () => sandbox.files.read('/tmp'),
  'read: unknown user': () => sandbox.files.read('/etc/passwd', { user: NOBODY }),
  'read: wrong token': async () => await (await withWrongToken()).files.read('/etc/passwd'),
  'list: wrong token': async () => await (await withWrongToken()).files.list('/tmp'),
  'read: ended sandbox': async (options) => await (await ended(options)).files.read('/etc/passwd'),
  'write: a directory': () => sandbox.files.write('/tmp', 'x'),
  'write: below a file': () => sandbox.files.write('/etc/passwd/x', 'x'),
  'write: unknown user': () => sandbox.files.write('/tmp/nv-x', 'x', { user: NOBODY }),
  'list: missing': () => sandbox.files.list(MISSING),
  'list: a file': () => sandbox.files.list('/etc/passwd'),
  'list: unknown user': () => sandbox.files.list('/tmp', { user: NOBODY }),
  'list: ended sandbox': async (options) => await (await ended(options)).files.list('/tmp'),
  'files.getInfo: missing': () => sandbox.files.getInfo(MISSING),
  'exists: missing': () => sandbox.files.exists(MISSING),
  'makeDir: existing': () => sandbox.files.makeDir('/tmp'),
  'makeDir: a file': () => sandbox.files.makeDir('/etc/passwd'),
  'rename: missing': () => sandbox.files.rename(MISSING, '/tmp/nv-y'),
  'watchDir: missing': () => sandbox.files.watchDir(MISSING, () => undefined),
  'watchDir: a file': () => sandbox.files.watchDir('/etc/passwd', () => undefined),
  'run: missing cwd': () => sandbox.commands.run('true', { cwd: MISSING }),
  'run: unknown user': () => sandbox.commands.run('true', { user: NOBODY, cwd: '/tmp' }),
  'run: status 3': () => sandbox.commands.run('exit 3'),
  'run: too long': () => sandbox.commands.run('sleep 9', { timeoutMs: 300 }),
  'run: ended sandbox': async (options) => await (await ended(options)).commands.run('true'),
  'run: killed meanwhile': async (options) => {
    const own = await Sandbox.create('agent', options);
    const command = await own.commands.run('sleep 9', { background: true });
    await own.kill();
    return await command.wait();
  },
  'commands.connect: unknown pid': () => sandbox.commands.connect(PID),
  'sendStdin: unknown pid': () => sandbox.commands.sendStdin(PID, 'x'),
  'closeStdin: unknown pid': () => sandbox.commands.closeStdin(PID),
  'pty.resize: unknown pid': () => sandbox.pty.resize(PID, { cols: 80, rows: 24 }),
  'commands.kill: unknown pid': () => sandbox.commands.kill(PID),
  'pty.kill: unknown pid': () => sandbox.pty.kill(PID),
};

const template = () => Template().fromTemplate('agent');

function refusedCreation(options: Options, error: Error): Promise<unknown> {
  beforeCreate = () => {
    throw error;
  };
  return Sandbox.create('agent', options);
}

async function paused(options: Options): Promise<string> {
  const { sandboxId } = await Sandbox.create('agent', options);
  await Sandbox.pause(sandboxId, options);
  return sandboxId;
}

/** The client of a sandbox, with another token. */
async function withWrongToken(): Promise<Sandbox> {
  const { sandboxId, sandboxDomain } = sandbox;
  return new Sandbox({
    ...tap.client,
    sandboxId,
    ...(sandboxDomain === undefined ? {} : { sandboxDomain }),
    envdVersion: '0.5.7',
    envdAccessToken: 'wrong',
  });
}

async function ended(options: Options): Promise<Sandbox> {
  const own = await Sandbox.create('agent', options);
  await own.kill();
  return own;
}

interface Tap {
  readonly client: { readonly apiKey: string; readonly apiUrl: string; readonly sandboxUrl: string };
  /** Answers since the last call, complete ones. */
  take(): readonly { readonly status: number; readonly body: string }[];
  close(): void;
}

/** Passes everything on to the server, and keeps its answers. */
async function openTap(): Promise<Tap> {
  let answers: { status: number; body: string }[] = [];
  const server = createServer((incoming: IncomingMessage, outgoing: ServerResponse) => {
    const { method, url, headers } = incoming;
    const passed = request(new URL(url ?? '/', world.url), { method, headers }, (answer) => {
      const kept = { status: answer.statusCode ?? 0, body: '' };
      answers.push(kept);
      outgoing.writeHead(kept.status, answer.headers);
      answer.on('data', (bytes: Buffer) => {
        kept.body += bytes.toString('latin1');
      });
      answer.pipe(outgoing);
      answer.on('error', () => outgoing.destroy());
    });
    passed.on('error', () => outgoing.destroy());
    outgoing.on('close', () => passed.destroy());
    incoming.pipe(passed);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    client: { ...world.client, apiUrl: url, sandboxUrl: url },
    take() {
      const taken = answers;
      answers = [];
      return taken;
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

beforeAll(async () => {
  world = await openE2bWorld({ beforeCreate: () => beforeCreate() });
  tap = await openTap();
  sandbox = await Sandbox.create('agent', tap.client);
});
afterEach(() => {
  beforeCreate = () => undefined;
});
afterAll(async () => {
  tap.close();
  await world[Symbol.asyncDispose]();
});

/** The first answer that is an error: its status or name of Connect's, and its message. */
function refusalOf(answers: ReturnType<Tap['take']>): string {
  for (const { status, body } of answers) {
    const code = /"code":"?(\w+)/.exec(body)?.[1];
    const message = /"message":("(?:[^"\\]|\\.)*")/.exec(body)?.[1];
    if (code !== undefined && message !== undefined) return `${code} ${JSON.parse(message)}`;
    if (status >= 400) return `${status}`;
  }
  return '–';
}

/** `method: fault` → answer and what the client raises. */
function tableOf(text: string): ReadonlyMap<string, readonly [answer: string, raised: string]> {
  const [, section = ''] = text.split('\n## Faults\n');
  const rows = section.split('\n## ')[0]?.matchAll(/^\|(`.*?): (.*?)\|(.*?)\|(.*?)\|$/gm) ?? [];
  return new Map(
    [...rows].flatMap(([, methods = '', fault = '', answer = '', raised = '']) =>
      methods.split(', ').map((method) => [`${method.replaceAll('`', '')}: ${fault}`, [answer, raised]] as const),
    ),
  );
}

/** `…` stands for any text. */
function fits(text: string, pattern: string): boolean {
  const [first = '', ...others] = pattern.split('…');
  if (others.length === 0) return text === first;
  if (!text.startsWith(first)) return false;
  const last = others.pop() ?? '';
  let at = first.length;
  for (const other of others) {
    const found = text.indexOf(other, at);
    if (found < 0) return false;
    at = found + other.length;
  }
  return text.endsWith(last) && text.length - last.length >= at;
}

const TABLE = tableOf(readFileSync(join(import.meta.dirname, '../../docs/e2b.md'), 'utf8'));

it('docs/e2b.md has each fault, and no other', () => {
  expect([...TABLE.keys()].toSorted()).toEqual(Object.keys(FAULTS).toSorted());
});

it.each(Object.keys(FAULTS))('%s', async (name) => {
  tap.take();
  const raised = await (FAULTS[name] as (typeof FAULTS)[string])(tap.client).then(
    (value) => `\`${String(value)}\``,
    (error: Error) => `\`${error.constructor.name}\``,
  );
  const answer = refusalOf(tap.take());
  const [pattern, expected] = TABLE.get(name) ?? ['', ''];
  expect({ answer: fits(answer, pattern) ? pattern : answer, raised }).toEqual({ answer: pattern, raised: expected });
});
