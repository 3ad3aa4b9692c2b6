/** Throughput of a volume, beside the sandbox's own disk in the same VM. */
import { text } from 'node:stream/consumers';
import { MIB } from '../../src/base/units.ts';
import type { Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { openBenchControl } from '../control.ts';

const FILE_MIB = 64;
const FIGURES = ['volume.write', 'volume.sync', 'volume.read'] as const;

/** Writes a file anew and reads it, past the guest's caches: prints the seconds until written, until synced, and of the read. */
const TRANSFER = `
import mmap, os, sys, time
path, mib = sys.argv[1], int(sys.argv[2])
block = mmap.mmap(-1, ${MIB})
block.write(os.urandom(${MIB}))
if os.path.exists(path): os.unlink(path)
began = time.monotonic()
fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
for _ in range(mib): assert os.write(fd, block) == len(block)
written = time.monotonic()
os.fsync(fd)
synced = time.monotonic()
for at in range(mib): assert os.preadv(fd, [block], at * len(block)) == len(block)
print(written - began, synced - began, time.monotonic() - synced)
`;

export const volumeBenchmark: Benchmark = {
  names: FIGURES,
  summary: `writes and reads ${FILE_MIB} MiB of a volume in sequence, past the guest's caches: against the sandbox's disk`,
  async measure(context) {
    const { runtime, signal } = context;
    await using opened = await openBenchControl(context);
    const { control } = opened;
    await control.createVolume({ name: 'bench', sizeMib: 4 * FILE_MIB });
    const { id } = await control.create({ volumes: [{ name: 'bench', path: '/bench' }] }, signal);
    const guest = await control.guest(id);
    const transfer = async (path: string) => {
      const process = await guest.python({ script: { code: TRANSFER }, args: [path, `${FILE_MIB}`] }, signal);
      const [stdout, stderr] = await Promise.all([text(process.stdout), text(process.stderr), process.exit]);
      const [write, sync, read] = stdout.split(' ').map((seconds) => (FILE_MIB * MIB) / 1e6 / Number(seconds));
      if (write === undefined || sync === undefined || read === undefined) throw new Error(`no transfer: ${stderr}`);
      return { write, sync, read };
    };
    const { volume, disk } = await compare(context, 'volume', {
      volume: () => transfer('/bench/file'),
      disk: () => transfer('/home/user/file'),
    });
    await control.remove(id);
    await control.removeVolume('bench');
    const row = rowsOf('MB/s', runtime.driver.accelerator);
    return [
      row('volume.write', volume('write'), ["the sandbox's disk", disk('write')]),
      row('volume.sync', volume('sync'), ["the sandbox's disk", disk('sync')], {
        note: 'written and synced; the disk of a sandbox ends with its VM, so syncs of it are not waited for',
      }),
      row('volume.read', volume('read'), ["the sandbox's disk", disk('read')]),
    ];
  },
};
