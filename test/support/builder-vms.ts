/** Fakes of VMs that build images: functions that write disks and print a line. */
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import type { ImageBuilder } from '../../src/artifacts/oci/builder.ts';
import { type BuilderVms, makeImageBuilder } from '../../src/host/runtime/image-builder.ts';
import type { ExecSpec, Process } from '../../src/machine/guest/guest.ts';
import type { DiskTrouble, VmDisk } from '../../src/machine/vmm/driver.ts';
import type { SandboxSpec } from '../../src/sandbox/contract/spec.ts';

export interface FakeBuilderVm {
  readonly plan: Record<string, unknown>;
  readonly disks: readonly VmDisk[];
  readonly trouble: (trouble: DiskTrouble) => void;
}

/**
 * @param dir with `run`, a directory, and `tools`, a file
 * @param work of the VM; returns the line that it prints, or never ends
 */
export function fakeImageBuilder(dir: string, work: (vm: FakeBuilderVm) => string | Promise<string>): ImageBuilder {
  let count = 0;
  const start: BuilderVms['start'] = async (_options, _signal, { makeWorkspace }) => {
    count += 1;
    const id = `${'a'.repeat(19)}${count}`;
    const place = await makeWorkspace?.({ id } as SandboxSpec);
    const listeners: ((trouble: DiskTrouble) => void)[] = [];
    const exec = async ({ argv }: ExecSpec): Promise<Process> => {
      const isBuild = argv[0] === 'python3';
      const plan = isBuild ? JSON.parse(argv.at(-1) ?? '') : {};
      const vm = {
        plan,
        disks: place?.disks ?? [],
        trouble: (trouble: DiskTrouble) => {
          for (const listener of listeners) listener(trouble);
        },
      };
      const line = isBuild ? await work(vm) : '';
      return {
        stdout: Readable.from(line === '' ? [] : [Buffer.from(line)]),
        stderr: new PassThrough().end(),
        exit: new Promise((resolve) => setImmediate(resolve, { exitCode: 0 })),
      } as unknown as Process;
    };
    return {
      guest: () => ({ exec }),
      vm: { onDiskTrouble: (listener: (typeof listeners)[0]) => void listeners.push(listener) },
      stop: async () => void (await place?.remove()),
    } as unknown as Awaited<ReturnType<BuilderVms['start']>>;
  };
  return makeImageBuilder({ start, runDir: join(dir, 'run'), toolsPath: join(dir, 'tools'), hostCpus: 1 });
}
