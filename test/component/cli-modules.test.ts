/** The modules that a command loads: most of its start time (docs/decisions/0039-cli-start.md). */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';

let daemon: FakeDaemon;
let dir: string;
let id: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-modules-'));
  daemon = await startFakeDaemon();
  ({ id } = await daemon.control.create({}));
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

/** Files below the checkout, and names of Node's own modules, `node:…` for imported ones. */
async function modulesOf(...words: string[]): Promise<readonly string[]> {
  const list = join(dir, 'modules.json');
  const hook = join(ROOT, 'test/fixtures/loaded-modules.ts');
  await promisify(execFile)(process.execPath, ['--import', hook, join(ROOT, 'src/cli/main.ts'), ...words], {
    env: { ...process.env, ...daemon.env, LOADED_MODULES: list },
  });
  const { urls, internal } = JSON.parse(await readFile(list, 'utf8')) as {
    readonly urls: readonly string[];
    readonly internal: readonly string[];
  };
  const root = `${pathToFileURL(ROOT)}/`;
  return [...urls.map((url) => url.replace(root, '')), ...internal];
}

/** Heavy ones that no command on a daemon needs; undici comes with `import 'node:http'`. */
const HEAVY =
  /undici|^node:(http|https|crypto)$|^(prove|bench)\/|^src\/(host\/runtime\/runtime|sys|inference\/bridge|artifacts\/oci|api\/rest\/server)|node_modules\/(koffi|fastify|diff|smol-toml|@renovatebot|node-llama-cpp|log-update)/;

describe('the command line loads only what a command needs', () => {
  it.each([
    { name: 'ls', words: () => ['ls'], most: 60, without: /\/zod\// },
    { name: 'create', words: () => ['create'], most: 75, without: /\/zod\// },
    { name: 'exec', words: () => ['exec', id, '--', 'true'], most: 73, without: /\/run\// },
    { name: 'run -c', words: () => ['run', '-c', ''], most: 105, without: /\/transfer\/copy/ },
  ])('$name: at most $most of our modules, and no heavy one', async ({ words, most, without }) => {
    const modules = await modulesOf(...words());
    expect(modules.filter((name) => HEAVY.test(name) || without.test(name))).toEqual([]);
    const own = modules.filter((name) => name.startsWith('src/'));
    expect(own.length, own.join('\n')).toBeLessThanOrEqual(most);
    expect(own.filter((name) => name.startsWith('src/cli/definitions/')).length).toBeLessThan(7);
  });
});
