import { ProofError } from '../errors.ts';
import type { JailContext, Vmms } from './vmm.ts';

/**
 * Opens VMMs of the kind that the configuration names.
 * @throws ProofError; RuntimeError `jail_unavailable`; VmmError `vmm_missing`
 */
export async function openVmms(context: JailContext): Promise<Vmms> {
  if (process.geteuid?.() !== 0) {
    throw new ProofError('not_permitted', 'could not inspect VMMs', { remedy: 'Run it as root.' });
  }
  if (context.config.vmm === 'firecracker') {
    const { FirecrackerVmms } = await import('./firecracker-vmms.ts');
    return await FirecrackerVmms.open(context);
  }
  const { QemuVmms } = await import('./qemu-vmms.ts');
  return await QemuVmms.open(context);
}
