import { describe, expect, it } from 'vitest';
import { readConfig } from './config.ts';

describe('NEUROVISOR_PROBES', () => {
  const none = { latency: false, processes: false, syscalls: false };
  it.each([
    [undefined, { ...none, latency: true, processes: true, isAsked: false }],
    ['auto', { ...none, latency: true, processes: true, isAsked: false }],
    ['off', { ...none, isAsked: true }],
    ['syscalls', { ...none, syscalls: true, isAsked: true }],
    ['latency,syscalls', { ...none, latency: true, syscalls: true, isAsked: true }],
  ])('%s', (NEUROVISOR_PROBES, expected) => {
    expect(readConfig({ NEUROVISOR_PROBES }).probes).toEqual(expected);
  });

  it.each(['on', 'latency,', 'latency,auto', 'latency processes'])('"%s" is refused', (text) => {
    expect(() => readConfig({ NEUROVISOR_PROBES: text })).toThrowError(
      expect.objectContaining({ code: 'config_invalid' }),
    );
  });
});
