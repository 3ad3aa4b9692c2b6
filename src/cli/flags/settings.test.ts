import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VARIABLE_NAMES } from '../../base/config.ts';
import { addDaemon } from '../definitions/daemon.ts';
import { UsageError } from '../failure.ts';
import { applySettings, keysOf } from './settings.ts';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-settings-'));
});
afterEach(() => rmSync(home, { recursive: true }));

function serveWith(...words: string[]): Command {
  const program = new Command('neurovisor');
  addDaemon(program);
  const serve = program.commands.find((one) => one.name() === 'serve');
  if (serve === undefined) throw new Error('no serve');
  serve.action(() => undefined);
  program.parse(['serve', ...words], { from: 'user' });
  return serve;
}

async function apply(text: string, words: readonly string[] = [], variables: Record<string, string> = {}) {
  writeFileSync(join(home, 'neurovisor.toml'), text);
  const serve = serveWith(...words);
  const env: Record<string, string | undefined> = { NEUROVISOR_HOME: home, ...variables };
  const { all } = await applySettings(serve, env);
  const from = (name: string) => {
    const its = all.find((one) => one.name === name);
    return [its?.shown, its?.origin];
  };
  return { flags: serve.opts(), env, from };
}

async function refusal(text: string, words: readonly string[] = []): Promise<string> {
  const error: unknown = await apply(text, words).catch((thrown: unknown) => thrown);
  if (!(error instanceof UsageError)) throw new Error(`accepted: ${text}`);
  return `${error.message} | ${error.remedy ?? ''}`.replaceAll(`${home}/`, '');
}

describe('keysOf', () => {
  const keys = keysOf(serveWith());
  const names = keys.map(({ name }) => name);

  it('each option of serve is a key, except --config and --output', () => {
    const options = serveWith().options.map((option) => option.name());
    const expected = options.filter((name) => name !== 'config' && name !== 'output');
    expect(names.slice(0, expected.length)).toEqual(expected.map((name) => name.replaceAll('-', '_')));
    expect(expected.length).toBeGreaterThan(19);
  });

  it('each variable belongs to one key, except those of clients and secrets', () => {
    const own = VARIABLE_NAMES.filter((name) => name.startsWith('NEUROVISOR_'));
    const unused = own.filter((name) => !keys.some(({ variable }) => variable === name));
    expect(unused).toEqual([
      'NEUROVISOR_HOME',
      'NEUROVISOR_UPSTREAM_KEY',
      'NEUROVISOR_URL',
      'NEUROVISOR_API_KEY',
      'NEUROVISOR_CA',
      'NEUROVISOR_DAEMON_WAIT',
    ]);
    expect(new Set(names).size).toBe(names.length);
    expect(keys.find(({ name }) => name === 'allow_field')?.variable).toBe('NEUROVISOR_ALLOW_FIELDS');
  });
});

describe('applySettings', () => {
  it('options win over the environment, and both over the file', async () => {
    const text = 'pool = "2:8"\njail = "log"\non_stop = "end"\nport = 7070\n';
    const { flags, env, from } = await apply(text, ['--pool', '3'], { NEUROVISOR_JAIL: 'off' });
    expect([flags['pool'], flags['port'], env['NEUROVISOR_JAIL'], env['NEUROVISOR_ON_STOP']]).toEqual([
      '3',
      7070,
      'off',
      'end',
    ]);
    expect(['pool', 'jail', 'on_stop', 'port', 'vmm', 'host'].map(from)).toEqual([
      ['3', 'flag'],
      ['off', 'environment'],
      ['end', 'file'],
      ['7070', 'file'],
      ['auto', 'default'],
      [null, 'default'],
    ]);
  });

  it('reads switches, lists, sizes and variables', async () => {
    const text = `port = 0
open_metrics = true
model_cache_size = "64M"
model_budget = ["output=10M", "per=1d"]
allow_field = ["a", "b.c"]
encrypt = true
image_quota_gib = 8
probes = ["latency", "syscalls"]
log_level = "debug"
`;
    const { flags, env } = await apply(text);
    expect(flags).toMatchObject({
      openMetrics: true,
      modelCacheSize: 64 * 2 ** 20,
      modelBudget: ['output=10M', 'per=1d'],
    });
    expect(env).toMatchObject({
      NEUROVISOR_ALLOW_FIELDS: 'a,b.c',
      NEUROVISOR_ENCRYPT: '1',
      NEUROVISOR_IMAGE_QUOTA_GIB: '8',
      NEUROVISOR_PROBES: 'latency,syscalls',
      NEUROVISOR_LOG: 'debug',
    });
  });

  it('paths begin at the folder of the file', async () => {
    const text = 'record = "tape"\nmodels = "m.toml"\nmodel = "./a.gguf"\nfirecracker = "fc"\njailer = "bin/j"\n';
    const { flags, env } = await apply(text);
    expect(flags['model']).toBe(join(home, 'a.gguf'));
    expect(env).toMatchObject({
      NEUROVISOR_RECORD: join(home, 'tape'),
      NEUROVISOR_MODELS: join(home, 'm.toml'),
      NEUROVISOR_FIRECRACKER: 'fc',
      NEUROVISOR_JAILER: join(home, 'bin/j'),
    });
  });

  it('--log-level wins over NEUROVISOR_LOG', async () => {
    const { env } = await apply('', ['--log-level', 'info'], { NEUROVISOR_LOG: 'debug' });
    expect(env['NEUROVISOR_LOG']).toBe('info');
  });

  it('an option or variable overrules its opposite in the file', async () => {
    const { env, from } = await apply('upstream = "engine"\nrecord = "x"\n', ['--record', 'y'], {
      NEUROVISOR_MODELS: 'm.toml',
      NEUROVISOR_REPLAY: 'r',
    });
    expect([env['NEUROVISOR_UPSTREAM'], env['NEUROVISOR_RECORD']]).toEqual([undefined, undefined]);
    expect(from('upstream')).toEqual(['auto', 'default']);
  });

  it('shows no credentials of a URL', async () => {
    const { from } = await apply('upstream = "http://me:secret@127.0.0.1:1"\n');
    expect(from('upstream')).toEqual(['http://***@127.0.0.1:1', 'file']);
  });

  it.each([
    ['# x\nprot = 1\n', [], 'neurovisor.toml:2: unknown key "prot" | did you mean port?'],
    ['tls-cert = "a"\n', [], 'neurovisor.toml:1: unknown key "tls-cert" | did you mean tls_cert?'],
    ['\n[serve]\nport = 1\n', [], 'neurovisor.toml:2: unknown key "serve" | neurovisor config show lists all keys'],
    ['pool = "1"\n  "zz" = 1\n', [], 'neurovisor.toml:2: unknown key "zz"'],
    ['port = 1\nx.y = 1\n', [], 'neurovisor.toml:2: unknown key "x"'],
    ['record = ""\n', [], 'neurovisor.toml:1: record: the text is empty'],
    ['port = 70700\n', [], 'neurovisor.toml:1: --port: 70700 is out of range (0 to 65535)'],
    ['port = [1]\n', [], 'neurovisor.toml:1: port: expected a text or a number'],
    ['pool = "9:1"\n', [], 'neurovisor.toml:1: invalid pool size "9:1"'],
    ['vmm = "kvm"\n', [], 'neurovisor.toml:1: vmm = "kvm": Allowed choices are auto, firecracker, qemu.'],
    ['gpu = "x"\n', [], 'neurovisor.toml:1: gpu = "x": expected one of auto, cpu, cuda, vulkan'],
    ['open_metrics = "yes"\n', [], 'neurovisor.toml:1: open_metrics: expected true or false'],
    ['model_budget = [1]\n', [], 'neurovisor.toml:1: model_budget: expected a list of texts'],
    ['vmm = ""\n', [], 'neurovisor.toml:1: vmm: the text is empty | omit the key'],
    ['port = 1979-05-27\n', [], 'neurovisor.toml:1: port: expected a text or a number'],
    ['port = 1\nport = 2\n', [], 'neurovisor.toml:2: not TOML: '],
    // Several settings together.
    ['\nhost = "0.0.0.0"\n', [], 'neurovisor.toml:2: --host has no effect without --port'],
    ['\nhost = "0.0.0.0"\n', ['--port', '1'], 'neurovisor.toml:2: --host 0.0.0.0 without TLS'],
    ['model_budget = "x=1"\n', [], 'neurovisor.toml:1: --model-budget'],
    [
      'models = "a"\nupstream = "engine"\n',
      [],
      'neurovisor.toml:1: NEUROVISOR_MODELS and NEUROVISOR_UPSTREAM are both',
    ],
    ['record = "a"\nreplay = "b"\n', [], 'neurovisor.toml:1: NEUROVISOR_RECORD and NEUROVISOR_REPLAY are mutually'],
  ])('refuses %j %j: %s', async (text, words, expected) => {
    expect(await refusal(text, words)).toContain(expected);
  });

  it('refuses a file that is missing, a folder or too large', async () => {
    const env = { NEUROVISOR_HOME: home };
    await expect(applySettings(serveWith(), env)).resolves.toMatchObject({ path: null });
    await expect(applySettings(serveWith('--config', join(home, 'x')), env)).rejects.toThrow('no such file');
    await expect(applySettings(serveWith('--config', home), env)).rejects.toThrow('not a file');
    expect(await refusal('#'.repeat(2 ** 20 + 1))).toContain('larger than 1 MiB');
  });
});
