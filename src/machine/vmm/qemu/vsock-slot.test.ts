import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type HotplugOptions, hotplugQmp } from '../../../../test/support/hotplug-qmp.ts';
import { VsockSlot } from './vsock-slot.ts';

let dir: string;
const backend = createServer((socket) => socket.on('error', () => socket.destroy()));
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-slot-'));
  await new Promise<void>((resolve) => backend.listen(join(dir, 'vhost'), resolve));
});
afterAll(async () => {
  await new Promise((resolve) => backend.close(resolve));
  await rm(dir, { recursive: true });
});

function slotOf(options: HotplugOptions) {
  const { client, commands, release, free } = hotplugQmp(options);
  const detached: number[] = [];
  const slot = new VsockSlot({
    qmp: client,
    attachVsock: async ({ guestCid }) => ({
      setProcessMemory: () => undefined,
      setLimits: async () => undefined,
      stats: () => Promise.reject(new Error('not asked for here')),
      detach: async () => void detached.push(guestCid),
    }),
    place: { id: 's', vhostSocketPath: join(dir, 'vhost'), channelPath: join(dir, 'channel') },
    limits: undefined,
    memory: undefined,
    copiedProcess: undefined,
  });
  /** The commands since the last call, without the connection that QEMU gets. */
  const told = (): string[] => commands.splice(0).filter((command) => !command.startsWith('getfd'));
  return { slot, told, release, free, detached };
}
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const plugged = (plug: number): string[] => [
  `chardev-add vsock-${plug} [object Object]`,
  `device_add vhost-user-vsock-pci vsock-${plug} vsock-${plug} 5`,
];

describe('VsockSlot', () => {
  it('replace: a device of a killed process goes, with what is left of its unplugs; ids are new', async () => {
    const answers = {
      'qom-list': [{ name: 'vsock-3' }, { name: 'nic-0' }, { name: 'type' }, 7, null].filter((one) => one !== null),
      'query-chardev': [{ label: 'vsock-3' }, { label: 'vsock-4' }, { label: 'serial0' }],
    };
    const { slot, told } = slotOf({ answers });
    await slot.replace(9);
    expect(told()).toEqual([
      'qom-list /machine/peripheral',
      'query-chardev ',
      'device_del vsock-3',
      'chardev-remove vsock-3',
      'chardev-remove vsock-4',
      ...plugged(5),
    ]);
    expect(slot.isPlugged).toBe(true);
  });

  it('replace: between an unplug and the next plug there is no device', async () => {
    const { slot, told } = slotOf({ answers: { 'qom-list': 'nonsense', 'query-chardev': [] } });
    await slot.replace(9);
    expect(told().slice(2)).toEqual(plugged(0));
  });

  it('unplugVsock waits until the guest has released the device; QEMU’s part is removed later', async () => {
    const { slot, told, release, free, detached } = slotOf({ gone: 'by-test' });
    await slot.plugVsock(3);
    expect(told()).toEqual(plugged(0));
    let isUnplugged = false;
    const unplugging = slot.unplugVsock().then(() => {
      isUnplugged = true;
    });
    await turn();
    expect([isUnplugged, slot.isPlugged]).toEqual([false, true]);
    release('vsock-0');
    await unplugging;
    expect([slot.isPlugged, detached]).toEqual([false, [3]]);
    expect(told()).toEqual(['device_del vsock-0']);
    await slot.plugVsock(4);
    expect(told()).toEqual(plugged(1));
    free('vsock-0');
    await turn();
    expect(told()).toEqual(['chardev-remove vsock-0']);
    expect([slot.isPlugged, detached]).toEqual([true, [3]]);
  });

  it('unplugVsock: fails if the guest does not release the device in time', async () => {
    const { slot, detached } = slotOf({ gone: 'late' });
    await slot.plugVsock(3);
    await expect(slot.unplugVsock()).rejects.toThrow('no answer');
    expect([slot.isPlugged, detached]).toEqual([true, []]);
  });

  it('unplugVsock: a connection that can’t be removed does not block the next', async () => {
    const { slot, told } = slotOf({ refuse: 'chardev-remove' });
    await slot.plugVsock(3);
    await slot.unplugVsock();
    await turn();
    told();
    await slot.plugVsock(3);
    expect(told()).toEqual(plugged(1));
  });
});
