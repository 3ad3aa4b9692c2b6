import { describe, expect, it } from 'vitest';
import { unwrapEnd } from './wrapped.ts';

describe('unwrapEnd', () => {
  it.each([
    [0, null, { exitCode: 0, signal: null }],
    [1, null, { exitCode: 1, signal: null }],
    [137, null, { exitCode: null, signal: 'SIGKILL' }],
    [159, null, { exitCode: null, signal: 'SIGSYS' }],
    [null, 'SIGKILL', { exitCode: null, signal: 'SIGKILL' }],
  ] as const)('unwrapEnd: interprets status %s, signal %s', (exitCode, signal, expected) => {
    expect(unwrapEnd(exitCode, signal)).toEqual(expected);
  });
  it('unwrapEnd: does not take a status of Firecracker for a signal', () => {
    for (let status = 148; status <= 157; status += 1) {
      expect(unwrapEnd(status, null)).toEqual({ exitCode: status, signal: null });
    }
  });
});
