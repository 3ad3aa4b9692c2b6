/**
 * E2B's rules, which change requests on their way, as header fields that the gateway sets; and back, without values.
 * Pure.
 */
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import type { RequestHeaderOptions } from '../../../sandbox/contract/secrets.ts';
import { E2bError } from '../errors.ts';
import type { Rules } from '../kept.ts';

/** In answers, instead of a value. */
export const HIDDEN = '[hidden]';
const SHOWN_CHARACTERS_MAX = 80;

/**
 * A later rule of a host wins over an earlier one for the same field.
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
  // Would be sent as they are.
  if (value.includes('${e2b.')) return 'identity tokens are not supported';
  return value === HIDDEN ? 'send the value: answers show none' : undefined;
}

/** Undefined: it has none. */
export function rulesOf({ secrets }: Pick<SandboxInfo, 'secrets'>): Rules | undefined {
  const hosts = new Map<string, Record<string, string>>();
  for (const { sets, hosts: own } of secrets) {
    if (sets === undefined) continue;
    for (const host of own) hosts.set(host, { ...hosts.get(host), [sets]: HIDDEN });
  }
  if (hosts.size === 0) return undefined;
  return Object.fromEntries([...hosts].map(([host, headers]) => [host, [{ transform: { headers } }]]));
}

/** Whether the values are lost with the process that had them: until they are set again it can't be resumed. */
export function isWithoutValues({ secrets }: Pick<SandboxInfo, 'secrets'>): boolean {
  return secrets.some(({ sets, held }) => sets !== undefined && !held);
}
