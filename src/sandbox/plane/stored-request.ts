/** The `requestJson` of a sandbox's row. */
import { ignore } from '../../base/ignore.ts';
import type { SandboxRow } from '../../store/sandbox-table.ts';
import type { SandboxInfo } from '../control.ts';
import { type LifetimePolicy, lifetimePolicyOf } from '../request.ts';
import type { SandboxSpec } from '../spec.ts';

export interface StoredRequest {
  readonly spec: SandboxSpec;
  readonly policy: LifetimePolicy;
  readonly origin: SandboxInfo['origin'];
}

export function formatRequest({ spec, policy, origin }: StoredRequest): string {
  const { metadata: _inItsOwnColumn, ...terms } = policy;
  return JSON.stringify({ spec, terms, origin });
}

/** Returns null for a row of another version; its sandbox can't be resumed here. */
export function parseRequest(
  row: Pick<SandboxRow, 'requestJson' | 'metadata'>,
): StoredRequest | null {
  let stored: Partial<StoredRequest & { readonly terms: LifetimePolicy }> | null;
  try {
    stored = JSON.parse(row.requestJson) as typeof stored;
  } catch (error) {
    ignore(error, 'a row of another version');
    return null;
  }
  const { spec, terms, origin } = stored ?? {};
  if (spec === undefined || terms === undefined || origin === undefined) return null;
  // Older rows lack a network, limits of networks and disks, and secrets.
  const { network = null, secrets = [], diskLimits = {} } = spec as Partial<SandboxSpec>;
  const limited = network && { ...network, limits: network.limits ?? {} };
  return {
    spec: { ...spec, network: limited, secrets, diskLimits },
    // Older rows lack `onMemoryPressure`.
    policy: { ...lifetimePolicyOf({}), ...terms, metadata: row.metadata },
    origin,
  };
}
