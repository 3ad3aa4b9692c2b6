import { describe, expect, it } from 'vitest';
import type { SettleOptions } from '../../machine/guest/guest.ts';
import type { Guest } from '../../machine/guest/link.ts';
import type { RamChanges, Vm, VmSnapshot } from '../../machine/vmm/driver.ts';
import type { RamBase, Workspace } from '../contract/parts.ts';
import { fillOnce, Saving } from './saving.ts';

const SNAPSHOT: VmSnapshot = { statePath: '/s', stateSha256: 'x', machine: 'm' };

/** A VM that maps its RAM. @param failures number of first copies of the RAM that fail */
function world(failures = 0, hasEnvironment = false, savesChanges = false, ownBytes = 50, hasNoRoom = false) {
  const done: string[] = [];
  const step = async (name: string): Promise<void> => void done.push(name);
  let left = failures;
  const memory = { fd: 9, path: '/m', close: () => undefined };
  const copyInto = async (path: string): Promise<void> => {
    await step(`fill ${path}`);
    left -= 1;
    if (left >= 0) throw new Error('no memory');
  };
  const vm = {
    vsockHotplug: { unplugVsock: () => step('unplug'), plugVsock: () => step('plug') },
    savesChanges,
    saveState: async (_statePath: string, changes?: RamChanges) => {
      const path = changes && ('ramPath' in changes ? changes.ramPath : changes.difference.path);
      const room = changes && 'room' in changes && changes.room?.buffers[0]?.byteLength;
      const where = room === undefined || room === false ? '' : ` in room for ${room}`;
      await step(path === undefined ? 'devices' : `devices, changes into ${path}${where}`);
      if (changes === undefined || 'ramPath' in changes) return SNAPSHOT;
      const rest = { write: () => step('write the rest'), close: () => step('close') };
      return { ...SNAPSHOT, rest };
    },
    ownBytes: async () => ownBytes,
    makeRoom: async (bytes: number) => {
      if (hasNoRoom) throw new RangeError('Array buffer allocation failed');
      return { buffers: [new ArrayBuffer(bytes)] };
    },
    pause: () => step('pause'),
    resume: () => step('resume'),
  } as unknown as Vm;
  const settle = (options: SettleOptions = {}): Promise<void> =>
    step(
      `settle${Object.entries(options)
        .map(([name, isOn]) => (isOn === true ? `, ${name}` : ''))
        .join('')}`,
    );
  const guest = { settle, suspend: () => undefined } as unknown as Guest;
  const workspace = { overlayPath: '/o', environmentPath: '/e' } as Workspace;
  const fillMemory = fillOnce({ copyInto }, memory);
  const setSuspended = (is: boolean): void => void done.push(is ? 'end requests' : 'take requests');
  const port = { setSuspended };
  const base = { dataBytes: 100 } as RamBase;
  const mapped = { path: '/t', base };
  const saved = { vm, memory, mapped, workspace, port, cid: 3, hasEnvironment, fillMemory };
  const save = async (
    what: 'all' | 'disk' = 'all',
    commit: ((snapshot: VmSnapshot | null) => Promise<void>) | null = null,
  ): Promise<Saving> => {
    const saving = new Saving(saved, guest);
    const keep = (path: string): Promise<void> => step(`keep ${path}`);
    const keepBase = async (of: RamBase, path: string) => {
      await step(`keep base ${of === base ? path : ''}`);
      return { path: '/d', baseDigest: 'x' };
    };
    const paths = { statePath: '/s', ramPath: '/r' };
    const memory = what === 'disk' ? null : { ...paths, keepMemory: keep, keepBase };
    await saving.write({ memory, keepDisk: keep, keepEnvironment: keep }, commit);
    return saving;
  };
  return { done, save, saving: () => new Saving(saved, guest) };
}

const SAVED = ['end requests', 'settle, dropCaches, freeze', 'unplug', 'devices', 'keep /m', 'keep /o'];

describe('Saving', () => {
  it('write: mapped RAM is copied before the first save, and only then', async () => {
    const { done, save } = world();
    await save();
    expect(done.splice(0)).toEqual(['fill /m', ...SAVED]);
    await save();
    expect(done).toEqual(SAVED);
  });

  it('write: a VM that has changed at most half of what it maps writes a difference, each time', async () => {
    const { done, save } = world(0, false, true);
    const steps = [
      ...['keep base /t', ...SAVED.slice(0, 3), 'pause'],
      ...['devices, changes into /d in room for 50', 'keep /o'],
    ];
    for (const _time of [1, 2]) {
      await save();
      expect(done.splice(0)).toEqual(steps);
    }
  });

  it('write: without room for the changes, which is reserved early, the VM is saved nevertheless', async () => {
    const { done, save } = world(0, false, true, 50, true);
    await save();
    expect(done.slice(-2)).toEqual(['devices, changes into /d', 'keep /o']);
  });

  it('finish: the rest is written before the commit, or when the VM may run again', async () => {
    const { done, save } = world(0, false, true);
    const paused = await save('all', async (snapshot) => {
      expect(snapshot).toEqual(SNAPSHOT);
      done.push('commit');
    });
    await paused.close();
    expect(done.splice(0).slice(-4)).toEqual(['keep /o', 'write the rest', 'commit', 'close']);
    const forked = await save();
    expect(done.at(-1)).toBe('keep /o');
    await forked.resumeAfterSave();
    await forked.finish();
    await forked.close();
    await forked.close();
    expect(done.slice(-4)).toEqual(['resume', 'plug', 'write the rest', 'close']);
  });

  it('write: if more has changed, all RAM is kept while the guest runs, and gets the changes later', async () => {
    const { done, save } = world(0, false, true, 51);
    const steps = [...['keep /t', ...SAVED.slice(0, 3), 'pause'], ...['devices, changes into /r', 'keep /o']];
    for (const _time of [1, 2]) {
      await save();
      expect(done.splice(0)).toEqual(steps);
    }
  });

  it('write: a failed copy leaves the guest connected; the next save copies again', async () => {
    const { done, save, saving } = world(1);
    const first = saving();
    const keep = async () => {};
    const memory = { keepMemory: keep, statePath: '/s', ramPath: '/r' };
    const target = { memory, keepDisk: keep, keepEnvironment: keep };
    await expect(first.write(target, null)).rejects.toThrow('no memory');
    expect([first.isLinked, done.splice(0)]).toEqual([true, ['fill /m']]);
    await save();
    expect(done).toEqual(['fill /m', ...SAVED]);
  });

  it('write: without memory neither RAM nor devices are written, and programs must stop', async () => {
    const { done, save } = world(0, true);
    const saving = await save('disk');
    const settled = 'settle, freeze, mustFreeze';
    expect(done.splice(0)).toEqual(['end requests', settled, ...['unplug', 'pause', 'keep /o', 'keep /e']]);
    await saving.resumeAfterSave();
    expect([done, saving.isLinked]).toEqual([['take requests', 'resume', 'plug'], false]);
  });

  it('write: the environment’s file is kept, too', async () => {
    const { done, save } = world(0, true);
    await save();
    expect(done).toEqual(['fill /m', ...SAVED, 'keep /e']);
  });
});
