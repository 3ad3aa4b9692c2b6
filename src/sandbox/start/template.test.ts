import { describe, expect, it } from 'vitest';
import type { SandboxEnvironment } from '../contract/environment.ts';
import { canBeCloned, DEFAULT_TEMPLATE, needsCard, type TemplateInputs, templateKey } from './template.ts';

const inputs: TemplateInputs = {
  spec: DEFAULT_TEMPLATE,
  kernelDigest: 'k'.repeat(64),
  rootImageDigest: 'r'.repeat(64),
  machine: 'QEMU 7.2.22 tcg, a processor, 0123456789abcdef',
  env: { OPENBLAS_L2_SIZE: '256', A: 'b' },
  packageIndex: 'a',
};
const { spec } = inputs;

describe('templateKey', () => {
  it('the same inputs give the same key, in any order of variables', () => {
    const env = { A: 'b', OPENBLAS_L2_SIZE: '256' };
    expect(templateKey({ ...inputs, env })).toBe(templateKey(inputs));
    expect(templateKey(inputs)).toMatch(/^[0-9a-f]{64}$/);
  });

  const changes: [string, TemplateInputs][] = [
    ['kernel', { ...inputs, kernelDigest: 'x'.repeat(64) }],
    ['image or agent', { ...inputs, rootImageDigest: 'x'.repeat(64) }],
    ['VMM, version or processor', { ...inputs, machine: `${inputs.machine}0` }],
    ['number of CPUs', { ...inputs, spec: { ...spec, cpus: 2 } }],
    ['memory', { ...inputs, spec: { ...spec, memoryMib: 513 } }],
    ['maximum of memory', { ...inputs, spec: { ...spec, memoryMaxMib: 512 } }],
    ['disk', { ...inputs, spec: { ...spec, diskMib: 2049 } }],
    ['module', { ...inputs, spec: { ...spec, warm: [...spec.warm, 'os'] } }],
    ['network card', { ...inputs, spec: { ...spec, card: true } }],
    ['order of modules', { ...inputs, spec: { ...spec, warm: spec.warm.toReversed() } }],
    ['variable', { ...inputs, env: { ...inputs.env, A: 'c' } }],
  ];
  it.each(changes)('a different %s gives a different key', (_what, changed) => {
    expect(templateKey(changed)).not.toBe(templateKey(inputs));
  });

  it('with packages, a different index or minimum age gives a different key; without, the index is ignored', () => {
    const packageIndex = 'b';
    expect(templateKey({ ...inputs, packageIndex })).toBe(templateKey(inputs));
    const installed = { ...inputs, spec: { ...spec, requirements: ['six'] } };
    const keys = [
      installed,
      { ...installed, packageIndex },
      { ...installed, spec: { ...installed.spec, packagesMinAgeMs: 1 } },
    ].map(templateKey);
    expect(new Set(keys).size).toBe(3);
  });

  const environment = {
    image: 'app:1',
    imageDigest: 'sha256:1',
    digest: 'sha256:2',
    user: '',
    workdir: '/',
    env: { PATH: '/bin', A: 'b' },
    entrypoint: [],
    cmd: ['sh'],
    exposedPorts: [],
    stopSignal: null,
  };
  const keyWith = (change: Partial<SandboxEnvironment>): string =>
    templateKey({ ...inputs, spec: { ...spec, environment: { ...environment, ...change } } });

  it.each([
    ['disk', { digest: 'sha256:3' }],
    ['user', { user: 'app' }],
    ['working directory', { workdir: '/srv' }],
    ['variable', { env: { PATH: '/bin', A: 'c' } }],
  ])('an image with a different %s gives a different key', (_what, change) => {
    expect(keyWith(change)).not.toBe(keyWith({}));
    expect(keyWith(change)).not.toBe(templateKey(inputs));
  });

  it('images that differ only in what no guest sees have the same key', () => {
    const env = { A: 'b', PATH: '/bin' };
    expect(keyWith({ image: 'app:2', imageDigest: 'sha256:9', cmd: ['x'], env })).toBe(keyWith({}));
  });

  it('a different start command gives a different key; a different timeout does not', () => {
    const start = { command: 'serve', ready: 'probe', readyTimeoutMs: 5_000 };
    const keyOf = (more: object) => templateKey({ ...inputs, spec: { ...spec, start: { ...start, ...more } } });
    const keys = [keyOf({}), keyOf({ command: 'x' }), keyOf({ ready: 'x' }), templateKey(inputs)];
    expect(new Set(keys).size).toBe(4);
    expect(keyOf({ readyTimeoutMs: 1_000 })).toBe(keyOf({}));
  });

  it('no network card, explicit or by default, gives the same key', () => {
    expect(templateKey({ ...inputs, spec: { ...spec, card: false } })).toBe(templateKey(inputs));
  });

  it('a value moved to another field gives a different key', () => {
    const kernelDigest = `${inputs.kernelDigest}r`;
    const rootImageDigest = inputs.rootImageDigest.slice(1);
    expect(templateKey({ ...inputs, kernelDigest, rootImageDigest })).not.toBe(templateKey(inputs));
  });
});

it('canBeCloned: a sandbox with a terminal boots', () => {
  expect(canBeCloned({ console: 'interactive' })).toBe(false);
  expect(canBeCloned({ network: { mode: 'open' } })).toBe(true);
});

describe('needsCard', () => {
  it.each([
    ['a network', { network: { mode: 'open' } }, true],
    ['a network that passes nothing', { network: { mode: 'none' } }, true],
    ['secrets', { secrets: [{ name: 'KEY', value: 'x', hosts: ['api.example.com'] }] }, true],
    ['no network', { network: null, secrets: [] }, false],
    ['no options', {}, false],
  ] as const)('a sandbox with %s needs a card only if the VMM can not plug one', (_what, options, needed) => {
    expect(needsCard(options, { hotplugNic: false })).toBe(needed);
    expect(needsCard(options, { hotplugNic: true })).toBe(false);
  });
});
