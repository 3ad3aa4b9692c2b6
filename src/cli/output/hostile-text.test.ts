/** Text of a guest, a VMM or a model server on its way to the terminal: each path replaces what could steer it. */
import { Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { testCli } from '../../../test/support/test-cli.ts';
import type { HostInfo, SandboxInfo } from '../../sandbox/contract/control.ts';
import { SandboxError, startFailure } from '../../sandbox/contract/errors.ts';
import { hostTable, processTable } from '../commands/host.ts';
import { sandboxTable } from '../commands/sandboxes.ts';
import { failureText } from '../failure.ts';
import { statusOfEnd } from './loss.ts';
import { exitStatus } from './program-streams.ts';
import { progressView } from './progress.ts';
import { table } from './table.ts';

const HOSTILE = '\x1b]0;owned\x07\x9b2J';
const SAFE = '?]0;owned??2J';

const process = {
  pid: 1,
  kind: 'exec',
  argv: ['ls', HOSTILE],
  cwd: HOSTILE,
  user: HOSTILE,
  tag: null,
  pty: false,
  detached: false,
  ageMs: 1,
} as const;
const sandbox = {
  id: 'a',
  status: 'running',
  origin: 'boot',
  pausedTo: null,
  pauseReason: null,
  foreignPause: null,
  end: null,
  memoryMaxMib: null,
  metadata: { [HOSTILE]: HOSTILE },
};
const host = {
  version: '1',
  vmm: HOSTILE,
  vmmReason: HOSTILE,
  memorySharing: HOSTILE,
  upstream: HOSTILE,
  models: [HOSTILE],
  modelBudgets: [{ tenant: HOSTILE, limits: { requests: 1, windowMs: 1000 }, used: null }],
  starting: 0,
  cordoned: false,
  longTurns: [{ atMs: 0, ms: 60, cpuMs: 60, place: HOSTILE }],
};
const exit = {
  exitCode: null,
  signal: 'SIGKILL',
  timedOut: false,
  oomKilled: true,
  oomVictim: { pid: 1, name: HOSTILE, rssBytes: 1 },
  truncated: false,
  durationMs: 1,
};

/** What progress prints without a terminal. */
function progressText(): string {
  let text = '';
  const write = (chunk: Buffer, _encoding: string, done: () => void): void => {
    text += String(chunk);
    done();
  };
  const view = progressView(new Writable({ write }) as unknown as NodeJS.WriteStream);
  view.report({ kind: 'start', step: 's', title: 'T' });
  view.report({ kind: 'failed', step: 's', message: HOSTILE });
  view.close();
  return text;
}

function saidBy(say: (cli: ReturnType<typeof testCli>['cli']) => unknown): string {
  const { cli, stdout, stderr } = testCli();
  say(cli);
  return stdout() + stderr();
}

describe('hostile text', () => {
  it.each<[string, () => string]>([
    ['an error', () => failureText(new SandboxError('gone', HOSTILE))],
    ['the cause of an error', () => failureText(new Error('x', { cause: new Error(HOSTILE) }))],
    ['a remedy', () => failureText(new SandboxError('gone', 'x', { remedy: HOSTILE }))],
    ['a console in start_failed', () => failureText(startFailure(new Error('x'), HOSTILE))],
    ['a console in start_failed, of the library', () => String(startFailure(0, HOSTILE).cause)],
    ['a cell of a table', () => table(['a'], [[HOSTILE]])],
    ['a colored cell of a table', () => table(['a'], [[{ style: 'red', text: HOSTILE }]])],
    ['ps', () => processTable([process])],
    ['ls', () => sandboxTable([sandbox as unknown as SandboxInfo], 0)],
    ['host', () => hostTable(host as unknown as HostInfo, 0)],
    ['progress', progressText],
    ['a log line', () => saidBy((cli) => cli.log.warn('x', { y: HOSTILE }))],
    ['the end of a sandbox', () => saidBy((cli) => statusOfEnd(cli, { cause: 'vmm-crashed', detail: HOSTILE }, 'x'))],
    ['an OOM victim', () => saidBy((cli) => exitStatus(cli, exit, 'x'))],
  ])('%s', (_name, shown) => {
    const text = shown();
    expect(text).toContain(SAFE);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the escape sequences of our own colors
    expect(text.replaceAll(/\x1b\[\d+m/g, '')).not.toMatch(/(?![\n\t])\p{Cc}/u);
  });

  it('JSON holds the text, escaped', () => {
    const json = saidBy((cli) => cli.printJson({ text: HOSTILE }));
    expect(json).not.toMatch(/(?!\n)\p{Cc}/u);
    expect(JSON.parse(json)).toEqual({ text: HOSTILE });
  });

  it('a console in start_failed: keeps its lines', () => {
    const error = startFailure(new Error('no hello'), 'one\r\ntwo\r\n');
    expect(failureText(error)).toContain("last lines of the guest's console:\none\ntwo");
  });
});
