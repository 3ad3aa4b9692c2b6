/**
 * Derives values that separate sandboxes at a server that they share under one key. The derivation uses a key of this
 * process, so no sandbox can compute another's values.
 */
import { createHmac, randomBytes } from 'node:crypto';

const PROCESS_KEY = randomBytes(32);

/** 64 hexadecimal digits, equal for equal arguments within this process. */
export function callerKey(sandboxId: string, purpose: string, value = ''): string {
  const text = JSON.stringify([purpose, sandboxId, value]);
  return createHmac('sha256', PROCESS_KEY).update(text).digest('hex');
}

export function callerKeys(sandboxId: string, values: Readonly<Record<string, string>>): Record<string, string> {
  const own = Object.entries(values).map(([name, value]) => [name, callerKey(sandboxId, name, value)]);
  return Object.fromEntries(own);
}
