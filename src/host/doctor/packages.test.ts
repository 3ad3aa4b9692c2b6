import { expect, it } from 'vitest';
import type { HostPackage } from '../../artifacts/image/host-packages.ts';
import { judgePackages } from './packages.ts';

const one = (name: string, more: Partial<HostPackage> = {}): HostPackage => ({
  name,
  reason: 'for a test',
  check: { kind: 'program', program: name },
  ...more,
});

it('judgePackages: missing only if set-up can’t work without the package', () => {
  const optional = one('libbpf1', { isOptional: true });
  expect(judgePackages([optional], [])).toMatchObject({ verdict: 'limited', detail: 'libbpf1' });
  expect(judgePackages([optional, one('bubblewrap')], [])).toMatchObject({
    verdict: 'missing',
    remedy: expect.stringContaining('apt-get install -y --no-install-recommends libbpf1 bubblewrap'),
  });
  expect(judgePackages([], [])).toEqual({ verdict: 'ok', detail: 'all installed', remedy: null });
});

it('judgePackages: names the command that installs the compilers of proofs', () => {
  const found = judgePackages([], [one('gcc'), one('libc6-dev')]);
  expect(found).toMatchObject({ verdict: 'ok', remedy: null });
  expect(found.detail).toContain('apt-get install -y --no-install-recommends gcc libc6-dev');
});
