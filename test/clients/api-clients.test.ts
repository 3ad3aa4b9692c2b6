/**
 * Clients that common generators make of `spec/openapi.json`: generated without a warning and with nothing left out,
 * compiled as strictly as the language can, and used on a live server.
 */
import { execFile } from 'node:child_process';
import { cpSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NO_EVIDENCE } from '../../src/sandbox/contract/ending.ts';
import { OPENAPI_FILE } from '../../tools/openapi.ts';
import { CLIENTS_DIR, goGenerator, nodePackages, pythonPackages } from '../support/api-generators.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';
import { requires } from '../support/requires.ts';

const { paths, components } = JSON.parse(readFileSync(OPENAPI_FILE, 'utf8')) as {
  readonly paths: Record<string, Record<string, { readonly operationId: string }>>;
  readonly components: { readonly schemas: Record<string, { readonly type?: string }> };
};
const operations = Object.values(paths).flatMap((path) => Object.values(path).map(({ operationId }) => operationId));
const schemas = Object.keys(components.schemas);
const objects = schemas.filter((name) => components.schemas[name]?.type === 'object');
/** `listFiles`: `list_files`, as openapi-python-client names files. */
const snake = (name: string): string => name.replaceAll(/(?<=[a-z])[A-Z]/g, '_$&').toLowerCase();
const pascal = (name: string): string => name.charAt(0).toUpperCase() + name.slice(1);

let dir: string;
let daemon: FakeDaemon;
let env: Readonly<Record<string, string>>;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'nv-clients-'));
  daemon = await startFakeDaemon();
  const workDir = join(dir, 'work');
  mkdirSync(workDir);
  env = { ...(await daemon.listenOnPort()), WORK_DIR: workDir };
  const sandbox = 'aaaaaaaaaaaaaaaaaaaa';
  const near = { type: 'near_oom', source: 'guest', memoryBytes: 95, limitBytes: 100 } as const;
  const oom = { source: 'host', victim: { pid: 7, name: 'python3', rssBytes: 9 }, detail: '' } as const;
  const atMs = Date.now();
  const end = { cause: 'stopped', detail: '', atMs, evidence: NO_EVIDENCE } as const;
  daemon.events.push(
    { ...near, sandbox, seq: 1, atMs },
    { type: 'oom', ...oom, sandbox, seq: 2, atMs },
    { type: 'end', end, sandbox, seq: 3, atMs },
  );
  daemon.loads.push({
    id: sandbox,
    state: 'ready',
    memoryBytes: null,
    modelRequests: 0,
    tokens: 0,
    lastPressure: { ...near, atMs },
    lastOom: { ...oom, atMs },
  });
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true });
});

/** A copy of a fixture to generate into. */
function project(name: string): string {
  const to = join(dir, name);
  cpSync(join(CLIENTS_DIR, name), to, { recursive: true });
  return to;
}

/** What a program prints, all of it. @throws if it fails */
function output(
  program: string,
  args: readonly string[],
  options: { readonly cwd: string; readonly env?: Readonly<Record<string, string>> },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const all = { cwd: options.cwd, env: { ...process.env, ...env, ...options.env } };
    execFile(program, args, all, (error, stdout, stderr) => {
      if (error === null) resolve(stdout + stderr);
      else reject(new Error(`${program} ${args.join(' ')}: ${stdout}${stderr}`));
    });
  });
}

describe('clients generated from the OpenAPI document', () => {
  it('the document has operations and schemas', () => {
    expect(operations.length).toBeGreaterThan(30);
    expect(objects.length).toBeGreaterThan(60);
  });

  requires('generators', nodePackages()).describe('TypeScript', ({ dir: packages }) => {
    it('openapi-typescript, openapi-fetch: whole, strictly typed, and working', async () => {
      const cwd = project('typescript');
      symlinkSync(join(packages, 'node_modules'), join(cwd, 'node_modules'));
      const bin = (name: string): string => join(packages, 'node_modules/.bin', name);
      const told = await output(bin('openapi-typescript'), [OPENAPI_FILE, '-o', 'schema.ts'], { cwd });
      expect(told).not.toMatch(/warn|⚠/i);
      const made = readFileSync(join(cwd, 'schema.ts'), 'utf8');
      expect(operations.filter((id) => !made.includes(`\n    ${id}: {`))).toEqual([]);
      expect(schemas.filter((name) => !made.includes(`\n        ${name}: `))).toEqual([]);
      await output(bin('tsc'), ['-p', '.'], { cwd });
      expect(await output(process.execPath, ['use.ts'], { cwd })).toBe('');
    });
  });

  requires('generators', pythonPackages()).describe('Python', ({ python, env: packages }) => {
    it('openapi-python-client: whole, strictly typed, and working', async () => {
      const cwd = project('python');
      const options = { cwd, env: packages };
      const to = ['--meta', 'none', '--output-path', 'neurovisor_client', '--overwrite'];
      const generate = ['-m', 'openapi_python_client', 'generate', '--path', OPENAPI_FILE, ...to];
      const told = await output(python, generate, options);
      expect(told.trim()).toBe('Generating neurovisor_client');
      // A trailing underscore where Python has that word already.
      const files = globSync('neurovisor_client/**/*.py', { cwd }).map((path) =>
        basename(path, '.py').replace(/_$/, ''),
      );
      expect(operations.filter((id) => !files.includes(snake(id)))).toEqual([]);
      expect(objects.filter((name) => !files.includes(snake(name)))).toEqual([]);
      const mypy = ['-m', 'mypy', 'use.py', 'neurovisor_client'];
      expect(await output(python, mypy, options)).toContain('Success: no issues found');
      expect(await output(python, ['use.py'], options)).toBe('');
    });
  });

  requires('generators', goGenerator()).describe('Go', ({ generator }) => {
    it('oapi-codegen: whole, vetted, and working', async () => {
      const cwd = project('go');
      mkdirSync(join(cwd, 'client'));
      const told = await output(generator, ['-config', 'oapi-codegen.yaml', OPENAPI_FILE], { cwd });
      expect(told).toBe('');
      const made = readFileSync(join(cwd, 'client/client.gen.go'), 'utf8');
      const called = (id: string): boolean =>
        ['(', 'WithBody('].some((end) => made.includes(`) ${pascal(id)}${end}ctx`));
      expect(operations.filter((id) => !called(id))).toEqual([]);
      expect(schemas.filter((name) => !made.includes(`\ntype ${name} `))).toEqual([]);
      expect(made).not.toContain('float32');
      await output('go', ['build', '-o', 'use', '.'], { cwd });
      expect(await output(join(cwd, 'use'), [], { cwd })).toBe('');
    });
  });
});
