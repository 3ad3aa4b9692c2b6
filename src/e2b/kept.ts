/** What this interface keeps with a sandbox that it creates, as an annotation of the sandbox. */
import { z } from 'zod';
import { ignore } from '../base/ignore.ts';
import type { SandboxInfo } from '../sandbox/control.ts';

const KEY = 'e2b';

const network = z.object({
  allowOut: z.array(z.string()).optional(),
  denyOut: z.array(z.string()).optional(),
  allowPublicTraffic: z.boolean().optional(),
  maskRequestHost: z.string().optional(),
});
const kept = z.object({
  /** As the client named it. */
  template: z.string(),
  allowInternetAccess: z.boolean().nullable(),
  network: network.optional(),
});

export type E2bNetwork = z.infer<typeof network>;
export type Kept = z.infer<typeof kept>;

export function formatKept(value: Kept): Readonly<Record<string, string>> {
  return { [KEY]: JSON.stringify(value) };
}

/** Of a sandbox that another interface created: what is true of it. */
export function keptOf(info: Pick<SandboxInfo, 'annotations' | 'template' | 'network'>): Kept {
  const text = info.annotations[KEY];
  const otherwise = {
    template: info.template ?? 'agent',
    allowInternetAccess: info.network !== null,
  };
  if (text === undefined) return otherwise;
  try {
    return kept.parse(JSON.parse(text));
  } catch (error) {
    ignore(error, 'kept by another version');
    return otherwise;
  }
}

/** Whether its ports are open to callers without its traffic token. */
export const isPublic = (info: Parameters<typeof keptOf>[0]): boolean =>
  keptOf(info).network?.allowPublicTraffic !== false;
