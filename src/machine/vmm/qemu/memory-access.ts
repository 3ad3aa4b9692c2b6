/**
 * Whether this process may read and write the memory of the QEMU processes that it starts; tried on one without a
 * machine. It needs the same rights as attaching a debugger (ptrace(2), PTRACE_MODE_ATTACH), which depend on the
 * users of both, capabilities, user namespaces, Yama and other security modules.
 */
import { openSync } from 'node:fs';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { closeFd } from '../../../sys/fd.ts';
import { openProcessMemory } from '../../../sys/process-memory.ts';
import type { Launch, LaunchStdio } from '../launch.ts';
import { QMP_FD, SERIAL_FD } from './args.ts';
import { QemuProcess } from './process.ts';

const GREETING_MS_MAX = 15_000;
const ARGS = ['-machine', 'none', '-nodefaults', '-no-user-config', '-display', 'none', '-S'];
const CONTROL = ['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control'];

/**
 * @param place `id` like a VM's; `dir` its private directory
 * @returns one clause: why it may not; `null` if it may
 * @throws VmmError the process could not be started
 */
export async function findMemoryObstacle(
  launch: Launch,
  binary: string,
  clock: Clock,
  place: { readonly id: string; readonly dir: string },
): Promise<string | null> {
  const stdio: LaunchStdio = ['ignore', 'ignore', 'pipe'];
  stdio[QMP_FD] = 'pipe';
  stdio[SERIAL_FD] = 'pipe';
  const size = { memoryMib: 64, cpus: 1, files: [] };
  const launched = await launch({ ...place, ...size, stdio, argv: [binary, ...ARGS, ...CONTROL] });
  const process = new QemuProcess(launched, clock, false);
  try {
    await process.qmp.negotiate(GREETING_MS_MAX);
    await process.launched();
    return obstacleAt(process.pid ?? 0);
  } finally {
    await process.kill();
    await launched.release();
  }
}

function obstacleAt(pid: number): string | null {
  try {
    closeFd(openProcessMemory(pid));
    closeFd(openSync(`/proc/${pid}/pagemap`, 'r'));
    return null;
  } catch (error) {
    return describeError(error);
  }
}
