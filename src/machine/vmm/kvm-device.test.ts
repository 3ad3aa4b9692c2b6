import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VmmError } from './errors.ts';
import { explainKvm, findKvmObstacle, groupName, remedyForRights } from './kvm-device.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-kvm-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const GROUPS = 'root:x:0:\nkvm:x:104:ann\nvm-users:x:2000:\nbroken\n';

describe('findKvmObstacle', () => {
  it('findKvmObstacle: none for a device that can be opened', async () => {
    expect(await findKvmObstacle('/dev/null')).toBeNull();
  });
  it('findKvmObstacle: a missing device, with the module to load', async () => {
    expect(await findKvmObstacle(join(dir, 'kvm'))).toEqual({
      reason: `${join(dir, 'kvm')} does not exist`,
      remedy: expect.stringMatching(/modprobe kvm_intel, or kvm_amd/),
    });
  });
  it('findKvmObstacle: a file that is no device', async () => {
    const { reason } = (await findKvmObstacle(dir)) ?? {};
    expect(reason).toMatch(/can't be opened: EISDIR/);
  });
});

describe('remedyForRights', () => {
  it.each([
    ['its group may open it', { mode: 0o20660, gid: 104 }, /its group, kvm: sudo usermod -aG kvm/],
    ['a group of another name', { mode: 0o20660, gid: 2000 }, /usermod -aG vm-users/],
    ['a group without a name', { mode: 0o20660, gid: 77 }, /usermod -aG 77/],
    ['only root may', { mode: 0o20600, gid: 0 }, /chgrp kvm .*chmod 660 .*usermod -aG kvm/],
    ["root's group may", { mode: 0o20660, gid: 0 }, /chgrp kvm/],
    ['its group may only read', { mode: 0o20640, gid: 104 }, /chmod 660/],
    ['unknown', null, /chgrp kvm/],
  ])('remedyForRights: %s', (_, owner, remedy) => {
    expect(remedyForRights('/dev/kvm', owner, GROUPS)).toMatch(remedy);
  });
  it('groupName: the number of a group without a name', () => {
    expect([groupName(104, GROUPS), groupName(5, '')]).toEqual(['kvm', '5']);
  });
});

describe('explainKvm', () => {
  const failure = new VmmError('vmm_command_failed', 'PUT /actions', { cause: 'Kvm error: …' });
  it('explainKvm: names the device as the cause if the VMM complains of KVM', async () => {
    expect(await explainKvm(failure, join(dir, 'kvm'))).toMatchObject({
      code: 'vmm_start_failed',
      message: expect.stringContaining('does not exist'),
      cause: failure,
    });
  });
  it('explainKvm: leaves other failures, and those with an accessible device, unchanged', async () => {
    const other = new VmmError('vmm_command_failed', 'PUT /actions', { cause: 'no such file' });
    writeFileSync(join(dir, 'there'), '');
    expect(await explainKvm(other, join(dir, 'kvm'))).toBe(other);
    expect(await explainKvm(failure, join(dir, 'there'))).toBe(failure);
    const bug = new Error('kvm');
    expect(await explainKvm(bug, join(dir, 'kvm'))).toBe(bug);
  });
});
