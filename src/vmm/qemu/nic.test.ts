import { describe, expect, it } from 'vitest';
import { NicSlot } from './nic.ts';
import type { QmpClient, QmpEvent } from './qmp.ts';

const NIC = { tapFd: 7, mac: 'aa:fc:00:00:00:01' };

/** A QMP client that records commands, refuses the command `refuse`, and completes `device_del` if `obeys`. */
function qmp(options: { refuse?: string; obeys?: boolean } = {}) {
  const commands: string[] = [];
  const listeners = new Set<(event: QmpEvent) => void>();
  const emit = (device: string): void => {
    for (const tell of [...listeners]) tell({ name: 'DEVICE_DELETED', data: { device } });
  };
  const execute = async (command: string, args: Record<string, unknown>): Promise<void> => {
    commands.push(`${command} ${Object.values(args).join(' ')}`);
    if (command === options.refuse) throw new Error(`${command} refused`);
    if (command === 'device_del' && options.obeys !== false) {
      // Events of a part of the device and of another device must be ignored.
      emit('');
      emit('vsock');
      emit('nic');
    }
  };
  const client = {
    execute,
    passFd: async (name: string, fd: number) => void commands.push(`getfd ${name} ${fd}`),
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
  return { slot: new NicSlot(client), commands, emit };
}

const GETFD = 'getfd nic-tap 7';
const NETDEV = 'netdev_add tap tap nic-tap false';
const DEVICE = 'device_add virtio-net-pci nic tap aa:fc:00:00:00:01 false  6';

describe('NicSlot', () => {
  it('plugNic, withdrawNic, returnNic, unplugNic: handle backend and device once each', async () => {
    const { slot, commands } = qmp();
    await slot.unplugNic();
    await slot.withdrawNic();
    await slot.returnNic();
    expect(commands.splice(0)).toEqual([]);
    await slot.plugNic(NIC);
    expect(slot.isPlugged).toBe(true);
    expect(commands.splice(0)).toEqual([GETFD, NETDEV, DEVICE]);
    await slot.withdrawNic();
    await slot.withdrawNic();
    expect(slot.isPlugged).toBe(false);
    await slot.returnNic();
    await slot.returnNic();
    expect(commands.splice(0)).toEqual(['device_del nic', DEVICE]);
    await slot.unplugNic();
    expect(commands.splice(0)).toEqual(['device_del nic', 'netdev_del tap']);
    await slot.plugNic(NIC);
  });

  it('plugNic: refuses a second NIC without asking QEMU', async () => {
    const { slot, commands } = qmp();
    await slot.plugNic(NIC);
    commands.splice(0);
    await expect(slot.plugNic(NIC)).rejects.toMatchObject({ code: 'vm_unsupported' });
    expect(commands).toEqual([]);
  });

  it('plugNic: if QEMU refuses, removes descriptor and backend', async () => {
    const one = qmp({ refuse: 'netdev_add' });
    await expect(one.slot.plugNic(NIC)).rejects.toThrow('netdev_add refused');
    expect(one.commands).toEqual([GETFD, NETDEV, 'closefd nic-tap']);
    const two = qmp({ refuse: 'device_add' });
    await expect(two.slot.plugNic(NIC)).rejects.toThrow('device_add refused');
    expect(two.commands).toEqual([GETFD, NETDEV, DEVICE, 'netdev_del tap']);
    expect(two.slot.isPlugged).toBe(false);
  });

  it('unplugNic: a NIC that the guest releases late is unplugged all the same', async () => {
    const { slot, commands, emit } = qmp({ obeys: false });
    await slot.plugNic(NIC);
    await expect(slot.unplugNic()).rejects.toThrow('no answer');
    expect(slot.isPlugged).toBe(true);
    emit('nic');
    expect(slot.isPlugged).toBe(false);
    commands.splice(0);
    await slot.unplugNic();
    expect(commands).toEqual(['netdev_del tap']);
  });

  it('returnNic: plugs a NIC again at once if the guest releases it late', async () => {
    const { slot, commands, emit } = qmp({ obeys: false });
    await slot.plugNic(NIC);
    await expect(slot.withdrawNic()).rejects.toThrow('no answer');
    commands.splice(0);
    await slot.returnNic();
    expect(commands).toEqual([]);
    emit('nic');
    await expect.poll(() => slot.isPlugged).toBe(true);
    expect(commands).toEqual([DEVICE]);
    // No caller waits for a NIC that is to be unplugged.
    await expect(slot.unplugNic()).rejects.toThrow('no answer');
    emit('nic');
    expect(slot.isPlugged).toBe(false);
    expect(commands).toEqual([DEVICE, 'device_del nic']);
  });

  it('returnNic: if QEMU refuses the late NIC, the next return tries again', async () => {
    const options: { refuse?: string; obeys: boolean } = { obeys: false };
    const { slot, commands, emit } = qmp(options);
    await slot.plugNic(NIC);
    await expect(slot.withdrawNic()).rejects.toThrow('no answer');
    await slot.returnNic();
    options.refuse = 'device_add';
    emit('nic');
    await expect.poll(() => commands.filter((each) => each === DEVICE)).toHaveLength(2);
    expect(slot.isPlugged).toBe(false);
    delete options.refuse;
    await slot.returnNic();
    expect(slot.isPlugged).toBe(true);
  });
});
