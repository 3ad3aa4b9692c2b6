import { expect, it } from 'vitest';
import { platformsPage, wholeOf } from './platforms.ts';

it('platformsPage: suites with the same cases share a list that marks what failed; others have their own, below the programs of the host', () => {
  const page = platformsPage({
    date: '2026-11-28T06:00:00.000Z',
    versions: 'Debian\nFirecracker v1.16.1\n',
    results: [
      { suite: 'Firecracker', title: 'boots', passed: true },
      { suite: 'QEMU', title: 'boots', passed: false },
      { suite: 'hosts', title: 'a user', passed: true },
    ],
  });
  expect(page).toContain('## KVM in an emulated host, 2026-11-28\n\n- Debian\n- Firecracker v1.16.1\n');
  expect(page).toContain('### Firecracker, QEMU\n\n- **failed** (QEMU): boots\n');
  expect(page).toContain('### hosts\n\n- a user\n');
});

const record = (date: string, suites: readonly string[]) => ({
  date,
  versions: date,
  results: suites.map((suite) => ({ suite, title: 'boots', passed: true })),
});

it('wholeOf: the groups of all files in order, with the oldest date', () => {
  const whole = wholeOf([
    record('2026-11-29', ['proofs of Firecracker', 'proofs of QEMU', 'hosts', 'network proofs']),
    record('2026-11-28', ['Firecracker']),
    record('2026-11-30', ['QEMU']),
  ]);
  expect(whole).toMatchObject({ date: '2026-11-28', versions: '2026-11-28' });
  expect(whole.results.map(({ suite }) => suite)).toEqual([
    'Firecracker',
    'QEMU',
    'proofs of Firecracker',
    'proofs of QEMU',
    'hosts',
    'network proofs',
  ]);
});

it('wholeOf: refuses a partial run of the layer, and names the missing groups', () => {
  expect(() => wholeOf([record('2026-11-28', ['Firecracker'])])).toThrow('without QEMU, proofs of Firecracker');
  expect(() => wholeOf([])).toThrow('without Firecracker, QEMU');
});
