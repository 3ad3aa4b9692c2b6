import { describe, expect, it } from 'vitest';
import { isPublicAddress } from './packages.ts';

describe('isPublicAddress', () => {
  const own = ['127.0.0.1', '8.8.4.4', '2600:1901::5', 'fe80::1'];

  it.each([
    '8.8.4.4',
    '::ffff:8.8.4.4',
    '::ffff:808:404',
    '64:ff9b::808:404',
    '2002:808:404::1',
    '2600:1901::5',
    '2600:1901:0:0:0:0:0:5',
    '127.0.0.1',
    '::ffff:7f00:1',
    '169.254.169.254',
    'not an address',
  ])('refuses %s', (address) => {
    expect(isPublicAddress(address, own)).toBe(false);
  });

  it.each(['8.8.8.8', '::ffff:8.8.8.8', '2600:1901::6'])('accepts %s', (address) => {
    expect(isPublicAddress(address, own)).toBe(true);
  });
});
