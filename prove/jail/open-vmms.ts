import type { JailContext } from '../proof-runtime.ts';
import type { Vmms } from './vmm.ts';

/**
 * Opens VMMs of the configured kind.
 * @throws ProofError; RuntimeError `jail_unavailable`; VmmError `vmm_missing`
 */
export async function openVmms(context: JailContext): Promise<Vmms> {
  if (context.config.vmm === 'firecracker') {
    const { FirecrackerVmms } = await import('./firecracker-vmms.ts');
    return await FirecrackerVmms.open(context);
  }
  const { QemuVmms } = await import('./qemu-vmms.ts');
  return await QemuVmms.open(context);
}
