import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { TemplateNames } from '../../../host/runtime/named-templates/names.ts';
import type { ImageInfo, SandboxEnvironment } from '../../../sandbox/contract/environment.ts';
import { DEFAULT_TEMPLATE } from '../../../sandbox/start/template.ts';
import { argvOf, isOfImage, namesProgram, stopSignalOf } from './program.ts';

const image = (entrypoint: readonly string[], cmd: readonly string[]): ImageInfo => ({
  name: 'app:1',
  digest: 'sha256:1',
  user: '',
  workdir: '/',
  entrypoint,
  cmd,
  exposedPorts: [],
  stopSignal: null,
});

describe('argvOf: as docker run chooses the program', () => {
  it.each([
    { its: [[], ['python3']], words: [], entrypoint: undefined, argv: ['python3'] },
    { its: [['/app'], ['serve']], words: [], entrypoint: undefined, argv: ['/app', 'serve'] },
    { its: [['/app'], ['serve']], words: ['-v'], entrypoint: undefined, argv: ['/app', '-v'] },
    { its: [[], ['python3']], words: ['sh', '-c'], entrypoint: undefined, argv: ['sh', '-c'] },
    { its: [['/app'], ['serve']], words: ['-l'], entrypoint: 'sh', argv: ['sh', '-l'] },
    { its: [['/app'], ['serve']], words: [], entrypoint: 'sh', argv: ['sh'] },
    { its: [['/app'], ['serve']], words: ['sh'], entrypoint: '', argv: ['sh'] },
  ] as const)('$its, $words, $entrypoint: $argv', ({ its, words, entrypoint, argv }) => {
    expect(argvOf({ words, entrypoint }, image(its[0], its[1]))).toEqual(argv);
  });

  it.each([undefined, ''])('no program at all is a usage error (entrypoint %j)', (entrypoint) => {
    expect(() => argvOf({ words: [], entrypoint }, image([], []))).toThrow(
      expect.objectContaining({
        message: 'app:1 names no program to run',
        remedy: 'name one: neurovisor run --image app:1 -- PROGRAM [ARGS]',
      }),
    );
  });
});

it('argvOf: an image that was built here is named as it was asked for', () => {
  const program = { words: [], entrypoint: undefined, option: '--build .' };
  expect(() => argvOf(program, image([], []))).toThrow(
    expect.objectContaining({ remedy: 'name one: neurovisor run --build . -- PROGRAM [ARGS]' }),
  );
});

describe('stopSignalOf', () => {
  it.each([
    ['SIGQUIT', 'SIGQUIT'],
    ['INT', 'SIGINT'],
    ['SIGRTMIN+3', undefined],
    ['9', undefined],
    [null, undefined],
  ])('%j: %j', (named, stopSignal) => {
    const info = { ...image([], []), stopSignal: named };
    expect(stopSignalOf(info).stopSignal).toBe(stopSignal);
  });
});

describe('namesProgram', () => {
  it.each([
    [[], ['run', '--image', 'x'], true],
    [['sh'], ['run', '--image', 'x', '--', 'sh'], true],
    [['sh', '--', 'a'], ['run', '--image', 'x', '--', 'sh', '--', 'a'], true],
    [['a.py'], ['run', '--image', 'x', 'a.py'], false],
    [['a.py', '-v'], ['run', '--image', 'x', 'a.py', '--', '-v'], false],
  ])('%j of %j: %s', (operands, raw, is) => {
    expect(namesProgram(operands, raw)).toBe(is);
  });
});

describe('isOfImage', () => {
  it('true only for a template of an image', async () => {
    const home = mkdtempSync(join(tmpdir(), 'nv-program-'));
    onTestFinished(() => rmSync(home, { recursive: true }));
    const { name, digest, ...rest } = image([], []);
    const environment: SandboxEnvironment = {
      ...rest,
      image: name,
      imageDigest: digest,
      digest: `sha256:${'a'.repeat(64)}`,
      env: {},
    };
    const names = new TemplateNames(home);
    await names.set('data', DEFAULT_TEMPLATE);
    await names.set('web', { ...DEFAULT_TEMPLATE, environment }, async (path) => writeFileSync(path, ''));
    writeFileSync(join(home, 'templates/damaged.json'), '{');
    const given = ['web', 'data', 'agent', 'none', 'damaged', '../web', false, undefined];
    const found = await Promise.all(given.map((template) => isOfImage(home, template)));
    expect(found).toEqual([true, ...given.slice(1).map(() => false)]);
  });
});
