import { describe, expect, it } from 'vitest';
import { CERTIFICATES, CertificateAuthority, HOSTS_MAX } from './authority.ts';

describe('CertificateAuthority', () => {
  it('keeps the most recently used certificates, and no more for a guest that invents names', async () => {
    const authority = new CertificateAuthority({ wall: () => Date.UTC(2026, 0) });
    const first = authority.contextFor('first.example');
    const used = authority.contextFor('used.example');
    const others = Array.from({ length: HOSTS_MAX - 1 }, (_, n) => {
      expect(authority.contextFor('used.example')).toBe(used);
      return authority.contextFor(`h${n}.example`);
    });
    expect(authority.contextFor('used.example')).toBe(used);
    expect(authority.contextFor(`h${HOSTS_MAX - 2}.example`)).toBe(others.at(-1));
    const again = authority.contextFor('first.example');
    expect(again).not.toBe(first);
    await Promise.all([first, used, again, ...others]);
  });
  it('limits the rate of new certificates, and meanwhile serves hosts that have one', async () => {
    let now = Date.UTC(2026, 0);
    const authority = new CertificateAuthority({ wall: () => now });
    const made = Array.from({ length: CERTIFICATES.size }, (_, n) => authority.contextFor(`h${n}.example`));
    await expect(authority.contextFor('more.example')).rejects.toThrow('too many different hosts');
    expect(authority.contextFor(`h${CERTIFICATES.size - 1}.example`)).toBe(made.at(-1));
    now += 1000;
    made.push(authority.contextFor('more.example'));
    await Promise.all(made);
  });
});
