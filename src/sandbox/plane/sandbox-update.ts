/** Changes several parts of a running VM: all of them or none. */
import { ignore } from '../../base/ignore.ts';
import type { PackagePolicy } from '../../base/request/package-policy.ts';
import type { SandboxChange } from '../contract/control.ts';
import { SandboxError } from '../contract/errors.ts';
import type { ModelPolicy } from '../contract/model-policy.ts';
import { type NetworkSpec, networkSpec, type ParseEgress } from '../contract/network-spec.ts';
import { packagePolicy } from '../contract/packages.ts';
import { checkRequest, type LifetimeChange } from '../contract/request.ts';
import { requestedBudget } from '../contract/schema/models.ts';
import { parse } from '../contract/schema/parse.ts';
import { channelLimits as channelLimitsSchema, diskLimits as diskLimitsSchema } from '../contract/schema/request.ts';
import type { SandboxSpec, SecretChange } from '../contract/spec.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import type { VmLimits } from '../vm/vm-limits.ts';

/** The parts that need a VM; an omitted one does not change. */
interface VmChange {
  readonly limits: Partial<VmLimits>;
  /** `null` removes the network card. */
  readonly network?: NetworkSpec | null | undefined;
  readonly memoryMib?: number | undefined;
  /** `null` forbids packages. */
  readonly packages?: PackagePolicy | null | undefined;
}

export interface SandboxUpdate extends VmChange, SecretChange {
  readonly policy: LifetimeChange;
}

/** @throws SandboxError `spec_invalid` */
export function checkChange(change: SandboxChange, spec: SandboxSpec, parseEgress: ParseEgress): SandboxUpdate {
  checkRequest(change, spec.memoryMaxMib !== undefined);
  const { channelLimits, diskLimits, network, secrets, requestHeaders, memoryMib, packages, models, ...lifetime } =
    change;
  const budget = models && parse(requestedBudget, models.budget, 'models.budget');
  return {
    secrets,
    requestHeaders,
    limits: {
      ...(channelLimits && { channelLimits: parse(channelLimitsSchema, channelLimits, 'channelLimits') }),
      ...(diskLimits && { diskLimits: parse(diskLimitsSchema, diskLimits, 'diskLimits') }),
    },
    network: network === undefined ? undefined : networkSpec(network, parseEgress, spec.network),
    memoryMib,
    packages: packages === undefined ? undefined : packagePolicy(packages),
    policy: budget === undefined ? lifetime : { ...lifetime, models: { budget } },
  };
}

interface Part {
  readonly name: string;
  apply(): Promise<void>;
  undo(): Promise<void>;
}

export function hasVmChange({ limits, ...parts }: VmChange): boolean {
  const { network, memoryMib, packages } = parts;
  const isNamed = [network, memoryMib, packages].some((part) => part !== undefined);
  return Object.keys(limits).length > 0 || isNamed;
}

/**
 * Applies the parts in order. If one fails, undoes those before it, in reverse. The failed part itself fails closed:
 * revoked secrets and a removed network stay so, even if the guest did not answer.
 * @param before the spec to return to
 * @throws the failed part's error; SandboxError that names the parts that could not be undone
 */
export async function changeVm(
  supervisor: Supervisor,
  change: VmChange & { readonly secrets?: SandboxSpec | undefined },
  before: SandboxSpec,
): Promise<void> {
  const applied: Part[] = [];
  try {
    for (const part of partsOf(supervisor, change, before)) {
      await part.apply();
      applied.unshift(part);
    }
  } catch (error) {
    // A VM that has ended has nothing to undo.
    if (supervisor.state !== 'ready') throw error;
    throw withKept(error, await undo(applied));
  }
}

/** Changes the model policy for requests; a later VM has the same. Returns the changed spec. */
export function changeModels(
  spec: SandboxSpec,
  change: Pick<ModelPolicy, 'budget'>,
  supervisor: Pick<Supervisor, 'settings'> | undefined,
): SandboxSpec {
  const models = { ...spec.models, ...change };
  supervisor?.settings.setModels(models);
  return { ...spec, models };
}

function partsOf(
  supervisor: Supervisor,
  { secrets, limits, network, memoryMib, packages }: Parameters<typeof changeVm>[1],
  before: SandboxSpec,
): readonly Part[] {
  const restoreNetwork = async (): Promise<void> => {
    const wanted = before.network && withoutUsage(before.network);
    if (supervisor.spec.network !== before.network) await supervisor.settings.setNetwork(wanted);
  };
  const parts: Part[] = [];
  if (secrets !== undefined) {
    parts.push({
      name: 'secrets',
      apply: () => supervisor.settings.setSecrets(secrets.secrets, secrets.network),
      undo: async () => {
        await supervisor.settings.setSecrets(before.secrets, null);
        // The first secrets of a sandbox give it a network card.
        await restoreNetwork();
      },
    });
  }
  for (const name of ['channelLimits', 'diskLimits'] as const) {
    const limit = limits[name];
    if (limit === undefined) continue;
    parts.push({
      name,
      apply: () => supervisor.settings.setLimits({ [name]: limit }),
      undo: () => supervisor.settings.setLimits({ [name]: before[name] }),
    });
  }
  if (network !== undefined) {
    const apply = (): Promise<void> => supervisor.settings.setNetwork(network);
    parts.push({ name: 'network', apply, undo: restoreNetwork });
  }
  if (packages !== undefined) {
    parts.push({
      name: 'packages',
      apply: () => supervisor.settings.setPackages(packages),
      undo: () => supervisor.settings.setPackages(before.packages),
    });
  }
  if (memoryMib !== undefined) {
    parts.push({
      name: 'memory',
      apply: () => supervisor.settings.resizeMemory(memoryMib, 'owner'),
      undo: () => supervisor.settings.resizeMemory(before.memoryMib, 'owner'),
    });
  }
  return parts;
}

/** Returns the names of the parts that could not be undone. */
async function undo(parts: readonly Part[]): Promise<readonly string[]> {
  const kept: string[] = [];
  for (const part of parts) {
    try {
      await part.undo();
    } catch (error) {
      ignore(error, 'the first error is reported, with the names of the parts that stay');
      kept.push(part.name);
    }
  }
  return kept.reverse();
}

function withKept(error: unknown, kept: readonly string[]): unknown {
  if (kept.length === 0) return error;
  const text = `still applied: ${kept.join(', ')}`;
  if (!(error instanceof SandboxError)) {
    const message = `the sandbox could not be changed; ${text}`;
    return new SandboxError('not_ready', message, { cause: error });
  }
  const { code, message, cause, remedy } = error;
  return new SandboxError(code, `${message}; ${text}`, { cause, ...(remedy === undefined ? {} : { remedy }) });
}

function withoutUsage(policy: NetworkSpec): NetworkSpec {
  const { bytesUsed: _bytes, destinationBytesUsed: _byName, ...asked } = policy;
  return asked;
}
