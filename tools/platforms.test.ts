import { expect, it } from 'vitest';
import { checkWhole, platformsPage } from './platforms.ts';

it('platformsPage: a table for each suite, with the programs of the host', () => {
  const page = platformsPage({
    date: '2026-11-28T06:00:00.000Z',
    versions: 'Debian\nFirecracker v1.16.1\n',
    results: [
      { suite: 'Firecracker', title: 'boots', passed: true },
      { suite: 'QEMU', title: 'boots', passed: false },
    ],
  });
  expect(page).toContain(
    '## KVM in an emulated host, 2026-11-28\n\n- Debian\n- Firecracker v1.16.1\n',
  );
  expect(page).toContain('### Firecracker\n\n| case | result |\n|---|---|\n| boots | passed |\n');
  expect(page).toContain('### QEMU\n\n| case | result |\n|---|---|\n| boots | **failed** |\n');
});

it('checkWhole: refuses a run of a part of the layer, and names the rest', () => {
  const results = [{ suite: 'Firecracker', title: 'boots', passed: true }];
  expect(() => checkWhole({ results })).toThrow('without QEMU, proofs of Firecracker');
});
