/**
 * Whether clones in QEMU share their template's RAM. The vsock device then reaches them through QEMU's process, which
 * not every host allows; the verdict is cached until the host reboots or an input of the probe changes.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../../../base/clock.ts';
import type { Config } from '../../../base/config.ts';
import { describeError } from '../../../base/errors.ts';
import type { Home } from '../../../base/home.ts';
import { newSandboxId } from '../../../base/ids.ts';
import { awaitOr } from '../../../base/ignore.ts';
import { findMemoryObstacle } from '../../../machine/vmm/qemu/memory-access.ts';
import { readVerdict, writeVerdict } from '../../../machine/vmm/verdict-file.ts';
import type { QemuConfinement } from '../jail.ts';
import { makeWorkspace } from '../workspace.ts';

export interface RamSharing {
  readonly isShared: boolean;
  /** One clause of text. */
  readonly text: string;
  /** Why clones do not share although they should; omitted if they do, or should not. */
  readonly obstacle?: string;
}

export const SHARING_REMEDY =
  'let this process debug its VMMs: as root with CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE) and kernel.yama.ptrace_scope below 3, ' +
  'otherwise with kernel.yama.ptrace_scope below 2';

/** For VMMs that need no more than a file. */
export function sharingAsConfigured({ memorySharing }: Partial<Pick<Config, 'memorySharing'>>): RamSharing {
  if (memorySharing === 'copy')
    return { isShared: false, text: 'each sandbox has a copy of its template’s memory, as configured' };
  const whose = memorySharing === 'share-all' ? 'all sandboxes' : 'the sandboxes of a tenant';
  return { isShared: true, text: `${whose} share their template’s memory until they write to it` };
}

/** Probes it unless the verdict is known. Never throws: a host that does not allow sharing copies. */
export async function ramSharingOf(options: {
  readonly config: Pick<Config, 'memorySharing'>;
  readonly home: Pick<Home, 'cacheDir' | 'runDir'>;
  readonly confinement: Pick<QemuConfinement, 'launch' | 'description'>;
  readonly binary: string;
}): Promise<RamSharing> {
  const { config, home } = options;
  const configured = sharingAsConfigured(config);
  if (!configured.isShared) return configured;
  const path = join(home.cacheDir, 'memory-access.json');
  const facts = await factsOf(options);
  const known = await readVerdict(path, cacheSchema);
  let obstacle = known?.facts === facts ? known.obstacle : undefined;
  if (obstacle === undefined) {
    try {
      obstacle = await tryAccess(options);
    } catch (error) {
      // No verdict is cached: a full disk or a slow start does not last until the next boot.
      return copied('it could not be tried whether this process may', describeError(error));
    }
    await writeVerdict(path, { facts, obstacle });
  }
  return obstacle === null ? configured : copied('this process may not', obstacle);
}

const copied = (why: string, obstacle: string): RamSharing => ({
  isShared: false,
  text: `each sandbox has a copy of its template’s memory, since ${why} read that of its VMMs`,
  obstacle,
});

/** All inputs of the verdict. */
async function factsOf({
  confinement,
  binary,
}: Pick<Parameters<typeof ramSharingOf>[0], 'confinement' | 'binary'>): Promise<string> {
  const read = async (path: string): Promise<string> => {
    return await awaitOr('', 'an absent fact', async () => (await readFile(path, 'utf8')).trim());
  };
  const status = await read('/proc/self/status');
  const own = status.split('\n').filter((line) => /^(Uid|CapEff|NoNewPrivs):/.test(line));
  const [boot, yama] = await Promise.all([
    read('/proc/sys/kernel/random/boot_id'),
    read('/proc/sys/kernel/yama/ptrace_scope'),
  ]);
  return JSON.stringify([boot, yama, ...own, confinement.description, binary]);
}

async function tryAccess({ home, confinement, binary }: Parameters<typeof ramSharingOf>[0]): Promise<string | null> {
  const id = newSandboxId();
  const { dir, remove } = await makeWorkspace(home.runDir, id);
  try {
    return await findMemoryObstacle(confinement.launch, binary, systemClock, { id, dir });
  } finally {
    await remove();
  }
}

const cacheSchema = z.object({ facts: z.string(), obstacle: z.string().nullable() });
