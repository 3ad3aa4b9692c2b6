import { describe, expect, it } from 'vitest';
import { type HotplugOptions, hotplugQmp } from '../../../../test/support/hotplug-qmp.ts';
import { NicSlot } from './nic.ts';

const NIC = { tapFd: 7, mac: 'aa:fc:00:00:00:01' };

function qmp(options: HotplugOptions = {}) {
  const { client, ...fake } = hotplugQmp(options);
  return { slot: new NicSlot(client), ...fake };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const GETFD = 'getfd nic-tap 7';
const NETDEV = 'netdev_add tap tap nic-tap false';
const device = (plug: number): string => `device_add virtio-net-pci nic-${plug} tap aa:fc:00:00:00:01 false  6`;

describe('NicSlot', () => {
  it('plugNic, withdrawNic, returnNic, unplugNic: handle backend and device once each', async () => {
    const { slot, commands } = qmp();
    await slot.unplugNic();
    await slot.withdrawNic();
    await slot.returnNic();
    expect(commands.splice(0)).toEqual([]);
    await slot.plugNic(NIC);
    expect(slot.isPlugged).toBe(true);
    expect(commands.splice(0)).toEqual([GETFD, NETDEV, device(0)]);
    await slot.withdrawNic();
    await slot.withdrawNic();
    expect(slot.isPlugged).toBe(false);
    await slot.returnNic();
    await slot.returnNic();
    expect(commands.splice(0)).toEqual(['device_del nic-0', device(1)]);
    await slot.unplugNic();
    expect(commands.splice(0)).toEqual(['device_del nic-1', 'netdev_del tap']);
    await slot.plugNic(NIC);
  });

  const peripheral = [{ name: 'type' }, { name: 'nic-3' }, { name: 'vsock-1' }];
  const LIST = 'qom-list /machine/peripheral';
  const UNDONE = ['netdev_del tap', 'closefd nic-tap'];

  it('replace: a card of the process before makes way, under another name; without a new one, too', async () => {
    const { slot, commands } = qmp({ answers: { 'qom-list': peripheral } });
    await slot.replace(NIC);
    expect(commands.splice(0)).toEqual([LIST, 'device_del nic-3', ...UNDONE, GETFD, NETDEV, device(4)]);
    expect(slot.isPlugged).toBe(true);
    const none = qmp({ answers: { 'qom-list': peripheral } });
    await none.slot.replace(undefined);
    expect([none.commands, none.slot.isPlugged]).toEqual([[LIST, 'device_del nic-3', ...UNDONE], false]);
  });

  it('replace: a card that was about to go has left its backend; a list of a hostile QEMU holds nothing', async () => {
    const { slot, commands } = qmp({ answers: { 'qom-list': { name: 'nic-1' } }, refuse: 'closefd' });
    await slot.replace(NIC);
    expect(commands).toEqual([LIST, ...UNDONE, GETFD, NETDEV, device(0)]);
  });

  it('replace: a guest that keeps the old card gets no other', async () => {
    const { slot, commands } = qmp({ answers: { 'qom-list': peripheral }, gone: 'late' });
    await expect(slot.replace(NIC)).rejects.toMatchObject({
      code: 'vm_gone',
      message: expect.stringContaining('does not release its old network card'),
    });
    expect(commands).toEqual([LIST, 'device_del nic-3']);
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
    expect(two.commands).toEqual([GETFD, NETDEV, device(0), 'netdev_del tap']);
    expect(two.slot.isPlugged).toBe(false);
  });

  it('unplugNic: a NIC that the guest releases late is still unplugged', async () => {
    const { slot, commands, free } = qmp({ gone: 'late' });
    await slot.plugNic(NIC);
    await expect(slot.unplugNic()).rejects.toThrow('no answer');
    expect(slot.isPlugged).toBe(true);
    free('nic-0');
    expect(slot.isPlugged).toBe(false);
    commands.splice(0);
    await slot.unplugNic();
    expect(commands).toEqual(['netdev_del tap']);
  });

  it('returnNic: plugs a NIC again if the guest releases it late, once QEMU has freed it', async () => {
    const options: HotplugOptions = { gone: 'late' };
    const { slot, commands, release, free } = qmp(options);
    await slot.plugNic(NIC);
    await expect(slot.withdrawNic()).rejects.toThrow('no answer');
    commands.splice(0);
    await slot.returnNic();
    options.gone = 'by-test';
    release('nic-0');
    await turn();
    expect(commands).toEqual([]);
    free('nic-0');
    await expect.poll(() => slot.isPlugged).toBe(true);
    expect(commands).toEqual([device(1)]);
    // No caller waits for a NIC that is to be unplugged.
    options.gone = 'late';
    await expect(slot.unplugNic()).rejects.toThrow('no answer');
    // An event for the first NIC says nothing about the second.
    free('nic-0');
    expect(slot.isPlugged).toBe(true);
    free('nic-1');
    expect(slot.isPlugged).toBe(false);
    expect(commands).toEqual([device(1), 'device_del nic-1']);
  });

  it('returnNic: if QEMU refuses the late NIC, the next return tries again', async () => {
    const options: HotplugOptions = { gone: 'late' };
    const { slot, commands, free } = qmp(options);
    await slot.plugNic(NIC);
    await expect(slot.withdrawNic()).rejects.toThrow('no answer');
    await slot.returnNic();
    options.refuse = 'device_add';
    free('nic-0');
    await expect.poll(() => commands.filter((each) => each === device(1))).toHaveLength(1);
    expect(slot.isPlugged).toBe(false);
    delete options.refuse;
    await slot.returnNic();
    expect(slot.isPlugged).toBe(true);
  });

  it('withdrawNic waits only for the guest; return and unplug wait for what they need', async () => {
    const { slot, commands, release, free } = qmp({ gone: 'by-test' });
    await slot.plugNic(NIC);
    const withdrawn = slot.withdrawNic();
    release('nic-0');
    await withdrawn;
    expect(slot.isPlugged).toBe(false);
    commands.splice(0);
    await slot.returnNic();
    expect(commands.splice(0)).toEqual([device(1)]);
    free('nic-0');
    expect(slot.isPlugged).toBe(true);
    const unplugged = slot.unplugNic();
    await turn();
    release('nic-1');
    await turn();
    expect(commands).toEqual(['device_del nic-1']);
    free('nic-1');
    await unplugged;
    expect(commands).toEqual(['device_del nic-1', 'netdev_del tap']);
  });
});
