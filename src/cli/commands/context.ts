/** `neurovisor login`, `logout` and `context`: which daemon the other commands use. */
import { resolve } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';
import { DAEMON_URL } from '../../base/config.ts';
import { resolveHome } from '../../base/home.ts';
import { plain } from '../../base/text/plain.ts';
import type { Cli } from '../cli.ts';
import { type Contexts, checkKey, checkName, configOf, LOCAL, readContexts, saveContexts } from '../daemon/contexts.ts';
import { UsageError } from '../failure.ts';
import { openDaemon } from '../library/daemon.ts';
import { hasQuestions } from '../output/confirm.ts';
import { table } from '../output/table.ts';

export interface LoginFlags {
  readonly name?: string;
  readonly ca?: string;
}

const KEY_BYTES_MAX = 4096;
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

/** Saves address and key, once the daemon has accepted the key. */
export async function login(cli: Cli, url: string, { name: named, ca }: LoginFlags): Promise<number> {
  if (!DAEMON_URL.test(url) || !URL.canParse(url)) {
    throw new UsageError(`invalid address "${url}"`, 'use http://HOST:PORT or https://HOST:PORT');
  }
  const { hostname, protocol } = new URL(url);
  const name = checkName(named ?? hostname);
  const isBare = protocol === 'http:' && !LOOPBACK.test(hostname);
  if (isBare && !cli.json) cli.stderr.write('warning: http:// sends the key as plain text; use https:// if you can\n');
  const key = checkKey((await readHidden(cli, 'API key: ', KEY_BYTES_MAX)).trim());
  const context = { url, key, caFile: ca === undefined ? null : resolve(ca) };
  await using _accepted = await openDaemon(configOf(cli.config, name, context));
  const { saved } = contextsOf(cli);
  await keep(cli, { current: name, saved: new Map([...saved, [name, context]]) });
  if (cli.json) cli.printJson({ name, url });
  else cli.stderr.write(`${plain(`commands now use the daemon at ${url} (context ${name})`)}\n`);
  return 0;
}

/** From a pipe, or from the terminal without showing it. */
export async function readHidden(cli: Cli, question: string, bytesMax: number): Promise<string> {
  if (!hasQuestions(cli)) {
    let text = '';
    for await (const chunk of cli.stdin) {
      text += String(chunk);
      if (text.length > bytesMax) break;
    }
    return text;
  }
  const output = new Writable({ write: (_chunk, _encoding, done) => done() });
  const lines = createInterface({ input: cli.stdin, output, terminal: true });
  lines.on('SIGINT', () => process.kill(process.pid, 'SIGINT'));
  cli.stderr.write(question);
  try {
    const closed = new Promise<string>((done) => lines.once('close', () => done('')));
    return await Promise.race([lines.question('', { signal: cli.cancelled }), closed]);
  } finally {
    lines.close();
    cli.stderr.write('\n');
  }
}

export function contextList(cli: Cli): number {
  const { current, saved } = contextsOf(cli);
  const rows = [...saved].map(([name, { url, caFile }]) => ({ name, url, caFile, isCurrent: name === current }));
  const all = [{ name: LOCAL, url: null, caFile: null, isCurrent: current === null }, ...rows];
  if (cli.json) cli.printJson(all);
  else {
    const cells = all.map((one) => [one.isCurrent ? '*' : '', one.name, one.url ?? 'this home', one.caFile ?? '-']);
    cli.stdout.write(`${table(['', 'name', 'address', 'ca'], cells)}\n`);
  }
  return 0;
}

export async function contextUse(cli: Cli, name: string): Promise<number> {
  const { saved } = contextsOf(cli);
  if (name !== LOCAL) requireSaved(saved, name);
  await keep(cli, { current: name === LOCAL ? null : name, saved });
  if (cli.json) cli.printJson({ name });
  return 0;
}

/** @param name default: the current one */
export async function contextRemove(cli: Cli, name?: string): Promise<number> {
  const { current, saved } = contextsOf(cli);
  const removed = name ?? current;
  if (removed === null) throw new UsageError('there is no current context', 'list them with: neurovisor context ls');
  requireSaved(saved, removed);
  const others = new Map([...saved].filter(([one]) => one !== removed));
  await keep(cli, { current: current === removed ? null : current, saved: others });
  if (cli.json) cli.printJson({ name: removed });
  else cli.stdout.write(`${removed}\n`);
  return 0;
}

/** @throws UsageError */
function requireSaved(saved: Contexts['saved'], name: string): void {
  if (!saved.has(name)) throw new UsageError(`unknown context "${name}"`, 'list them with: neurovisor context ls');
}

const homeOf = (cli: Cli): string => resolveHome(cli.config.home).dir;
const contextsOf = (cli: Cli): Contexts => readContexts(homeOf(cli));

async function keep(cli: Cli, contexts: Contexts): Promise<void> {
  await saveContexts(homeOf(cli), contexts);
  const isHidden = cli.config.daemonUrl !== null && !cli.json;
  if (isHidden) cli.stderr.write('note: NEUROVISOR_URL is set, and wins over contexts\n');
}
