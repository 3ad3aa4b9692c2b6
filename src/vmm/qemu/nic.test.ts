import { describe, expect, it } from 'vitest';
import { NicSlot } from './nic.ts';
import type { QmpClient, QmpEvent } from './qmp.ts';

const NIC = { tapFd: 7, mac: 'aa:fc:00:00:00:01' };

/** QMP that notes what it is told, refuses the command `refuse`, and answers `device_del` when `obeys`. */
function qmp(options: { refuse?: string; obeys?: boolean } = {}) {
  const told: string[] = [];
  const listeners = new Set<(event: QmpEvent) => void>();
  const emit = (device: string): void => {
    for (const tell of [...listeners]) tell({ name: 'DEVICE_DELETED', data: { device } });
  };
  const execute = async (command: string, args: Record<string, unknown>): Promise<void> => {
    told.push(`${command} ${Object.values(args).join(' ')}`);
    if (command === options.refuse) throw new Error(`${command} refused`);
    if (command === 'device_del' && options.obeys !== false) {
      // Of a part of the device, and of another: neither is what is waited for.
      emit('');
      emit('vsock');
      emit('nic');
    }
  };
  const client = {
    execute,
    passFd: async (name: string, fd: number) => void told.push(`getfd ${name} ${fd}`),
    onEvent: (listener: (event: QmpEvent) => void) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    event: (matches: (event: QmpEvent) => boolean) =>
      new Promise<QmpEvent>((resolve, reject) => {
        if (options.obeys === false) reject(new Error('no answer in time'));
        listeners.add((event) => {
          if (matches(event)) resolve(event);
        });
      }),
  } as unknown as QmpClient;
  return { slot: new NicSlot(client), told, emit };
}

const GETFD = 'getfd nic-tap 7';
const NETDEV = 'netdev_add tap tap nic-tap false';
const DEVICE = 'device_add virtio-net-pci nic tap aa:fc:00:00:00:01 false  6';

describe('NicSlot', () => {
  it('plugNic, withdrawNic, returnNic, unplugNic: handle backend and device once each', async () => {
    const { slot, told } = qmp();
    await slot.unplugNic();
    await slot.withdrawNic();
    await slot.returnNic();
    expect(told.splice(0)).toEqual([]);
    await slot.plugNic(NIC);
    expect(slot.isPlugged).toBe(true);
    expect(told.splice(0)).toEqual([GETFD, NETDEV, DEVICE]);
    await slot.withdrawNic();
    await slot.withdrawNic();
    expect(slot.isPlugged).toBe(false);
    await slot.returnNic();
    await slot.returnNic();
    expect(told.splice(0)).toEqual(['device_del nic', DEVICE]);
    await slot.unplugNic();
    expect(told.splice(0)).toEqual(['device_del nic', 'netdev_del tap']);
    await slot.plugNic(NIC);
  });

  it('plugNic: refuses a second NIC without asking QEMU', async () => {
    const { slot, told } = qmp();
    await slot.plugNic(NIC);
    told.splice(0);
    await expect(slot.plugNic(NIC)).rejects.toMatchObject({ code: 'vm_unsupported' });
    expect(told).toEqual([]);
  });

  it('plugNic: if QEMU refuses, removes descriptor and backend', async () => {
    const one = qmp({ refuse: 'netdev_add' });
    await expect(one.slot.plugNic(NIC)).rejects.toThrow('netdev_add refused');
    expect(one.told).toEqual([GETFD, NETDEV, 'closefd nic-tap']);
    const two = qmp({ refuse: 'device_add' });
    await expect(two.slot.plugNic(NIC)).rejects.toThrow('device_add refused');
    expect(two.told).toEqual([GETFD, NETDEV, DEVICE, 'netdev_del tap']);
    expect(two.slot.isPlugged).toBe(false);
  });

  it('unplugNic: a NIC that the guest releases late is unplugged all the same', async () => {
    const { slot, told, emit } = qmp({ obeys: false });
    await slot.plugNic(NIC);
    await expect(slot.unplugNic()).rejects.toThrow('no answer');
    expect(slot.isPlugged).toBe(true);
    emit('nic');
    expect(slot.isPlugged).toBe(false);
    told.splice(0);
    await slot.unplugNic();
    expect(told).toEqual(['netdev_del tap']);
  });

  it('returnNic: plugs a NIC again at once if the guest releases it late', async () => {
    const { slot, told, emit } = qmp({ obeys: false });
    await slot.plugNic(NIC);
    await expect(slot.withdrawNic()).rejects.toThrow('no answer');
    told.splice(0);
    await slot.returnNic();
    expect(told).toEqual([]);
    emit('nic');
    await expect.poll(() => slot.isPlugged).toBe(true);
    expect(told).toEqual([DEVICE]);
    // Nobody waits for one that is not wanted any more.
    await expect(slot.unplugNic()).rejects.toThrow('no answer');
    emit('nic');
    expect(slot.isPlugged).toBe(false);
    expect(told).toEqual([DEVICE, 'device_del nic']);
  });

  it('returnNic: if QEMU refuses the late NIC, the next return tries again', async () => {
    const options: { refuse?: string; obeys: boolean } = { obeys: false };
    const { slot, told, emit } = qmp(options);
    await slot.plugNic(NIC);
    await expect(slot.withdrawNic()).rejects.toThrow('no answer');
    await slot.returnNic();
    options.refuse = 'device_add';
    emit('nic');
    await expect.poll(() => told.filter((each) => each === DEVICE)).toHaveLength(2);
    expect(slot.isPlugged).toBe(false);
    delete options.refuse;
    await slot.returnNic();
    expect(slot.isPlugged).toBe(true);
  });
});
