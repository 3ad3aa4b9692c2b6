/** No guest and no VMM can change the golden image, which all sandboxes share. */

import { resolveHome } from '../../home.ts';
import { digestFile } from '../../image/verify.ts';
import { probeAccelerator } from '../../vmm/accelerator/probe.ts';
import { Notes, type Proof } from '../proof.ts';
import { openProofRuntime } from '../proof-runtime.ts';
import { vmmOf } from '../vmm-of.ts';
import { FIRECRACKER_FILE, ofQemu, vmmTries } from './image-vmm.ts';
import { Injector } from './inject.ts';
import type { JailContext } from './vmm.ts';

const OUTPUT_BYTES_MAX = 4 * 1024;

/** Run as the guest's root; each prints WRITTEN on success. */
const ATTACKS: Readonly<Record<string, string>> = {
  'write to the device': 'dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=notrunc,fsync',
  'write past the page cache':
    'dd if=/dev/zero of=/dev/vda bs=4096 count=1 oflag=direct conv=notrunc',
  'declare the device writable (BLKROSET), then write':
    "python3 -c \"import fcntl, os, struct; fcntl.ioctl(os.open('/dev/vda', os.O_RDONLY), 0x125D, struct.pack('i', 0)); os.pwrite(os.open('/dev/vda', os.O_RDWR), b'x' * 4096, 1024); os.sync()\"",
  'discard blocks':
    "python3 -c \"import fcntl, os, struct; fcntl.ioctl(os.open('/dev/vda', os.O_RDWR), 0x1277, struct.pack('QQ', 0, 4096))\"",
  'mount it for writing':
    'mkdir -p /tmp/image && mount -o rw -t erofs /dev/vda /tmp/image && touch /tmp/image/probe',
  'remount it for writing':
    'mkdir -p /tmp/again && mount -o ro -t erofs /dev/vda /tmp/again && mount -o remount,rw /tmp/again',
};

export async function proveImage(context: JailContext): Promise<Proof> {
  const { config } = context;
  if (config.vmm === 'firecracker') {
    const { cacheDir } = resolveHome(config.home);
    const { accelerator } = await probeAccelerator({ cacheDir });
    if (accelerator !== 'kvm') {
      const { proveImageWithoutLinux } = await import('./image-without-linux.ts');
      return await proveImageWithoutLinux(context);
    }
  }
  const notes = new Notes();
  await using injector = await Injector.make();
  const runtime = await openProofRuntime(context, { jail: 'enforce' });
  try {
    const { rootImagePath, rootImageDigest } = runtime.artifacts;
    const sandbox = await runtime.startVm({ memoryMib: 256, diskMib: 64 });
    const shell = async (script: string): Promise<string> => {
      const argv = ['sh', '-c', `(${script}) >/dev/null 2>&1 && echo WRITTEN || echo refused`];
      const { stdout } = await sandbox.guest().exec({ stdin: false, user: 'root', argv });
      let text = '';
      for await (const bytes of stdout) text = (text + bytes.toString()).slice(0, OUTPUT_BYTES_MAX);
      return text.trim();
    };
    notes.same(
      'control: guest root writes to its own disk',
      'WRITTEN',
      await shell('echo x > /etc/probe && sync'),
    );
    notes.same(
      'control: guest root reads the device',
      'WRITTEN',
      await shell('dd if=/dev/vda of=/dev/null bs=4096 count=1'),
    );
    for (const [what, script] of Object.entries(ATTACKS)) {
      notes.same(`guest root: ${what}`, 'refused', await shell(script));
    }
    const pid = await vmmOf(runtime, sandbox.spec.id);
    const isFirecracker = runtime.driver.name === 'firecracker';
    await vmmTries(notes, injector, pid, isFirecracker ? FIRECRACKER_FILE : ofQemu(rootImagePath));
    await sandbox.stop();
    const after = await digestFile(rootImagePath);
    notes.same('its digest afterwards', rootImageDigest.slice(0, 16), after.slice(0, 16));
  } finally {
    await runtime.close();
  }
  return notes.proof('image');
}
