import { describe, expect, it } from 'vitest';
import { canBeCloned, DEFAULT_TEMPLATE, type TemplateInputs, templateKey } from './template.ts';

const inputs: TemplateInputs = {
  spec: DEFAULT_TEMPLATE,
  kernelDigest: 'k'.repeat(64),
  rootImageDigest: 'r'.repeat(64),
  machine: 'QEMU 7.2.22 tcg, a processor, 0123456789abcdef',
  env: { OPENBLAS_L2_SIZE: '256', A: 'b' },
};
const { spec } = inputs;

describe('templateKey', () => {
  it('the same inputs give the same key, whatever the order of variables', () => {
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
    ['order of modules', { ...inputs, spec: { ...spec, warm: spec.warm.toReversed() } }],
    ['variable', { ...inputs, env: { ...inputs.env, A: 'c' } }],
  ];
  it.each(changes)('another %s is another key', (_what, changed) => {
    expect(templateKey(changed)).not.toBe(templateKey(inputs));
  });

  it('a value moved to another field gives another key', () => {
    const kernelDigest = `${inputs.kernelDigest}r`;
    const rootImageDigest = inputs.rootImageDigest.slice(1);
    expect(templateKey({ ...inputs, kernelDigest, rootImageDigest })).not.toBe(templateKey(inputs));
  });
});

describe('canBeCloned', () => {
  const network = { mode: 'open' } as const;
  const secrets = [{ name: 'KEY', value: 'x', hosts: ['api.example.com'] }];
  it.each([
    ['a plain one', {}, true, true],
    ['one with a network', { network }, true, false],
    ['one with secrets', { secrets }, true, false],
    ['one that says that it wants no network', { network: null, secrets: [] }, true, true],
    ['one with a terminal', { console: 'interactive' as const }, false, false],
  ])('%s, with and without a VMM that plugs cards', (_what, options, plugs, plugsNone) => {
    expect(canBeCloned(options, { hotplugNic: true })).toBe(plugs);
    expect(canBeCloned(options, { hotplugNic: false })).toBe(plugsNone);
  });
});
