import { describe, expect, it } from 'vitest';
import { networkOptions } from './network.ts';

describe('networkOptions', () => {
  it('removes allowed addresses from denied blocks', () => {
    const lists = { allowOut: ['10.0.0.1', '192.0.2.9'], denyOut: ['10.0.0.0/30', '192.0.2.9'] };
    expect(networkOptions(lists, true)).toEqual({ mode: 'open', allow: [], deny: ['10.0.0.0/32', '10.0.0.2/31'] });
  });

  it('refuses lists that would need more rules than a sandbox may have', () => {
    // As far apart as possible, so that each allowed address splits the block into many.
    const allowOut = Array.from({ length: 64 }, (_, n) => `${n}.1.2.3`);
    expect(() => networkOptions({ allowOut, denyOut: ['0.0.0.0/2'] }, true)).toThrow(
      'the allowed addresses split the denied blocks too often',
    );
  });

  it('splits a block only once, however often it is denied', () => {
    const denyOut = ['10.0.0.0/30', '10.0.0.1/30', '10.0.0.0/30'];
    const { deny } = networkOptions({ allowOut: ['10.0.0.0/31'], denyOut }, true) ?? {};
    expect(deny).toEqual(['10.0.0.2/31']);
  });
});
