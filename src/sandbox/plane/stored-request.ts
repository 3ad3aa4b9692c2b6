/** The `requestJson` of a sandbox's row. Egress rules are stored as they were written. */
import { tryOr } from '../../base/ignore.ts';
import type { PauseReason, SandboxInfo } from '../contract/control.ts';
import { type ModelPolicy, NO_MODEL_POLICY } from '../contract/model-policy.ts';
import { type EgressText, egressText, type NetworkSpec, type ParseEgress } from '../contract/network-spec.ts';
import { type LifetimePolicy, lifetimePolicyOf } from '../contract/request.ts';
import type { SandboxSecret } from '../contract/secrets.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import type { SandboxRow } from '../store/sandbox-table.ts';

export interface StoredRequest {
  readonly spec: SandboxSpec;
  readonly policy: LifetimePolicy;
  readonly origin: SandboxInfo['origin'];
  readonly template: string | null;
  /** Paused without its memory. */
  readonly isDiskOnly: boolean;
  /** Why the sandbox is paused, if not by request. */
  readonly pauseReason: PauseReason | null;
  /** Rest of its timeout, milliseconds; `null`: it counts anew. */
  readonly timeoutLeftMs: number | null;
  /** No event of the sandbox has a higher number. */
  readonly lastEvent: number;
}

type StoredNetwork = EgressText & Omit<NetworkSpec, 'policy'>;
/**
 * Older rows lack a network, limits of networks and disks, packages, volumes, secrets or their places, parts of `models`,
 * and costs.
 */
type StoredSpec = Omit<SandboxSpec, 'network' | 'models'> & {
  readonly models: Partial<ModelPolicy>;
  readonly network?: (Omit<StoredNetwork, 'limits'> & Partial<StoredNetwork>) | null;
};

const NO_COST = { costNanoDollars: 0 };

export function formatRequest(request: StoredRequest): string {
  const { spec, policy, ...rest } = request;
  const { metadata: _inItsOwnColumn, ...terms } = policy;
  const stored = { ...spec, network: formatNetwork(spec.network) };
  return JSON.stringify({ spec: stored, terms, ...rest });
}

function formatNetwork(network: NetworkSpec | null): StoredNetwork | null {
  if (network === null) return null;
  const { policy, ...rest } = network;
  return { ...egressText(policy), ...rest };
}

/** Returns `null` for a row of another version; its sandbox can't be resumed here. */
export function parseRequest(
  row: Pick<SandboxRow, 'requestJson' | 'metadata'>,
  parseEgress: ParseEgress,
): StoredRequest | null {
  return tryOr(null, 'a row of another version', () => {
    const stored = JSON.parse(row.requestJson) as {
      readonly spec?: StoredSpec;
      readonly terms?: LifetimePolicy;
      readonly origin?: SandboxInfo['origin'];
      readonly template?: string | null;
      readonly isDiskOnly?: boolean;
      readonly pauseReason?: PauseReason | null;
      readonly timeoutLeftMs?: number | null;
      readonly lastEvent?: number;
    } | null;
    const { spec, terms, origin, template = null, isDiskOnly = false } = stored ?? {};
    const { pauseReason = null, timeoutLeftMs = null, lastEvent = 0 } = stored ?? {};
    if (spec === undefined || terms === undefined || origin === undefined) return null;
    const { secrets = [], diskLimits = {}, packages = null, volumes = [] } = spec as Partial<SandboxSpec>;
    const { modelAccount: account } = spec;
    const network = parseNetwork(spec.network ?? null, parseEgress);
    return {
      spec: {
        ...spec,
        models: { ...NO_MODEL_POLICY, ...spec.models },
        network,
        secrets: secrets.map(withPlaces),
        diskLimits,
        packages,
        volumes,
        ...(account?.used === undefined ? {} : { modelAccount: { ...account, used: { ...NO_COST, ...account.used } } }),
      },
      // Older rows lack `onMemoryPressure`.
      policy: { ...lifetimePolicyOf({}), ...terms, metadata: row.metadata },
      origin,
      template,
      isDiskOnly,
      pauseReason,
      timeoutLeftMs,
      lastEvent,
    };
  });
}

function withPlaces(secret: Omit<SandboxSecret, 'places'> & Partial<SandboxSecret>): SandboxSecret {
  return { ...secret, places: secret.places ?? [] };
}

function parseNetwork(stored: StoredSpec['network'] | null, parseEgress: ParseEgress): NetworkSpec | null {
  if (stored == null) return null;
  const { mode, allow, deny, limits = {}, ...used } = stored;
  return { policy: parseEgress({ mode, allow, deny, limits }), limits, ...used };
}
