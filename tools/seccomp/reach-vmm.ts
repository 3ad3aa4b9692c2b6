/** The number of syscalls that each thread of a jailed VMM can make, from its filters in the kernel. */
import { readdirSync, readFileSync } from 'node:fs';
import { Injector } from '../../prove/jail/inject.ts';
import { openVmms } from '../../prove/jail/open-vmms.ts';
import type { JailContext } from '../../prove/proof-runtime.ts';
import { type Reach, reachOf } from './reach.ts';

interface ThreadReach extends Reach {
  readonly vmm: string;
  readonly thread: string;
  /** Number of filters; a call must pass all. */
  readonly filters: number;
}

/** A kernel thread for a VM. */
const KERNEL_THREAD = /^(kvm|vhost)-/;

/** @throws ProofError; RuntimeError `jail_unavailable`; VmmError `vmm_missing` */
export async function reachOfVmm(context: JailContext): Promise<ThreadReach[]> {
  await using injector = await Injector.make();
  await using vmms = await openVmms(context);
  const { pid } = await vmms.jailed();
  const rows: ThreadReach[] = [];
  const names = new Set<string>();
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const thread = readFileSync(`/proc/${pid}/task/${task}/comm`, 'latin1').trim();
    if (KERNEL_THREAD.test(thread) || names.has(thread)) continue;
    names.add(thread);
    const programs = await injector.filters(Number(task));
    const { name: vmm } = vmms.traits;
    rows.push({ vmm, thread, filters: programs.length, ...reachOf(programs, 'x86_64') });
  }
  return rows;
}
