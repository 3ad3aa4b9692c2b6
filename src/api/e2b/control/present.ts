import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { E2bError } from '../errors.ts';
import type { E2bParts } from '../parts.ts';

const OVER: readonly SandboxInfo['status'][] = ['ending', 'ended'];

/** @throws E2bError 404, also for an ended sandbox */
export async function present({ control }: E2bParts, id: string): Promise<SandboxInfo> {
  const info = await control.get(id).catch((error: unknown) => {
    if (error instanceof SandboxError && error.code === 'not_found') return null;
    throw error;
  });
  if (info !== null && !OVER.includes(info.status)) return info;
  throw new E2bError(404, `there is no sandbox ${JSON.stringify(id)}`);
}
