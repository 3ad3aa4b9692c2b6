/**
 * Values that separate sandboxes at a server that they share under one key. Derived from a key of this process,
 * so that no sandbox can compute those of another.
 */
import { createHmac, randomBytes } from 'node:crypto';

const PROCESS_KEY = randomBytes(32);

/** Equal for equal arguments within this process: 64 hexadecimal digits. */
export function callerKey(sandboxId: string, purpose: string, value = ''): string {
  const text = JSON.stringify([purpose, sandboxId, value]);
  return createHmac('sha256', PROCESS_KEY).update(text).digest('hex');
}

/** The same of each value, with its name as the purpose. */
export function callerKeys(sandboxId: string, values: Readonly<Record<string, string>>): Record<string, string> {
  const own = Object.entries(values).map(([name, value]) => [name, callerKey(sandboxId, name, value)]);
  return Object.fromEntries(own);
}
