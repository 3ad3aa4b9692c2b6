/**
 * Converts E2B's rules, which change requests in transit, to header fields that the gateway sets; and back, without
 * values. Pure.
 */
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import type { RequestHeaderOptions } from '../../../sandbox/contract/secrets.ts';
import { E2bError } from '../errors.ts';
import type { Rules } from '../kept.ts';

/** Replaces values in answers. */
export const HIDDEN = '[hidden]';
const SHOWN_CHARACTERS_MAX = 80;

/**
 * A later rule of a host overrides an earlier one for the same field.
 * @throws E2bError 400, never containing a value
 */
export function requestHeadersOf(rules: Rules | null | undefined): RequestHeaderOptions[] {
  return Object.entries(rules ?? {}).flatMap(([host, list]) => {
    const fields = new Map<string, RequestHeaderOptions>();
    const given = (list ?? []).flatMap(({ transform }) => Object.entries(transform?.headers ?? {}));
    for (const [name, value] of given) {
      const why = problemOf(value);
      if (why !== undefined) {
        const where = `rules: ${host.slice(0, SHOWN_CHARACTERS_MAX)}: ${name.slice(0, SHOWN_CHARACTERS_MAX)}`;
        throw new E2bError(400, `${where}: ${why}`);
      }
      fields.set(name.toLowerCase(), { name, hosts: [host], value });
    }
    return [...fields.values()];
  });
}

function problemOf(value: string): string | undefined {
  // Would be sent literally.
  if (value.includes('${e2b.')) return 'identity tokens are not supported';
  return value === HIDDEN ? 'send the value: answers show none' : undefined;
}

/** Undefined if there are none. */
export function rulesOf({ secrets }: Pick<SandboxInfo, 'secrets'>): Rules | undefined {
  const hosts = new Map<string, Record<string, string>>();
  for (const { sets, hosts: own } of secrets) {
    if (sets === undefined) continue;
    for (const host of own) hosts.set(host, { ...hosts.get(host), [sets]: HIDDEN });
  }
  if (hosts.size === 0) return undefined;
  return Object.fromEntries([...hosts].map(([host, headers]) => [host, [{ transform: { headers } }]]));
}

/** True if the values were lost with their process: until they are set again the sandbox can't be resumed. */
export function isWithoutValues({ secrets }: Pick<SandboxInfo, 'secrets'>): boolean {
  return secrets.some(({ sets, held }) => sets !== undefined && !held);
}
