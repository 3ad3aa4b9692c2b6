/** No guest and no VMM changes the golden image, which all sandboxes share. */
import { silentProgress } from '../../base/progress.ts';
import { digestFile } from '../../image/verify.ts';
import { Runtime } from '../../runtime/runtime.ts';
import { Notes, type Proof } from '../proof.ts';
import { vmmOf } from '../vmm-of.ts';
import { Injector } from './inject.ts';
import type { JailContext } from './vmm.ts';

const AT_FDCWD = 0xffff_ff9c;
const O_RDONLY = 0;
const O_RDWR = 2;
const O_TRUNC = 0o1000;
const OPENAT = 257;
const TRUNCATE = 76;
/** Not its own file. */
const EACCES = 13;
/** The mount is read-only, whosever it is. */
const EROFS = 30;
const SIGSYS = 31;
const OUTPUT_BYTES_MAX = 4 * 1024;

/** As root of the guest. Each says WRITTEN when it got through. */
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

export async function proveImage({ config, log }: JailContext): Promise<Proof> {
  const notes = new Notes();
  await using injector = await Injector.make();
  const runtime = await Runtime.open({
    // No model is asked, so none is loaded.
    config: { ...config, jail: 'enforce', upstream: 'engine' },
    progress: silentProgress,
    signal: new AbortController().signal,
    log,
  });
  try {
    const { rootImagePath, rootImageDigest } = runtime.artifacts;
    const sandbox = await runtime.createSandbox({ memoryMib: 256, diskMib: 64 });
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
    // One that is killed ends the VM, so the last one is.
    const open = (flags: number) =>
      injector.call(pid, {
        name: 'openat',
        number: OPENAT,
        args: [AT_FDCWD, `@${rootImagePath}`, flags, 0],
      });
    const read = await open(O_RDONLY);
    notes.note(
      'control: the VMM opens it for reading',
      'a descriptor',
      read,
      /^returned \d+$/.test(read),
    );
    for (const [what, flags] of [
      ['the VMM opens it for writing', O_RDWR],
      ['the VMM opens it to empty it', O_RDWR | O_TRUNC],
    ] as const) {
      const seen = await open(flags);
      const isRefused = seen === `returned -${EACCES}` || seen === `returned -${EROFS}`;
      notes.note(what, 'refused', seen, isRefused);
    }
    const cut = await injector.call(pid, {
      name: 'truncate',
      number: TRUNCATE,
      args: [`@${rootImagePath}`, 0],
    });
    const isRefused = cut === `returned -${EROFS}` || cut === `killed by ${SIGSYS}`;
    notes.note('the VMM truncates it', 'refused', cut, isRefused);
    await sandbox.stop();
    const after = await digestFile(rootImagePath);
    notes.same('its digest afterwards', rootImageDigest.slice(0, 16), after.slice(0, 16));
  } finally {
    await runtime.close();
  }
  return notes.proof('image');
}
