/**
 * The host's network as sandboxes see it: opened by the first that asks for one, with policies as people
 * write them, and with errors of sandboxes.
 */
import { CodedError } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { parsePolicy } from '../net/egress-rules.ts';
import type { HostNetwork } from '../net/lease.ts';
import type { EgressPolicy } from '../net/policy.ts';
import { SandboxError } from '../sandbox/errors.ts';
import type { SandboxNetwork } from '../sandbox/parts.ts';
import type { NetworkPolicy } from '../sandbox/spec.ts';

export class Network {
  readonly #open: () => Promise<HostNetwork>;
  #opened: Promise<HostNetwork> | undefined;

  /** @param open called at the first need, and again after it has failed */
  constructor(open: () => Promise<HostNetwork>) {
    this.#open = open;
  }

  /** @throws SandboxError `network_unavailable` with what a person can do about it */
  async open(): Promise<HostNetwork> {
    this.#opened ??= this.#open();
    const opening = this.#opened;
    try {
      return await opening;
    } catch (error) {
      // What was missing may have been installed when the next one asks.
      if (this.#opened === opening) this.#opened = undefined;
      throw unavailable(error);
    }
  }

  /** @throws SandboxError `spec_invalid`, `network_unavailable` */
  async lease(sandboxId: string, policy: NetworkPolicy): Promise<SandboxNetwork> {
    const parsed = readPolicy(policy);
    const network = await this.open();
    const { limits, bytesUsed = 0 } = policy;
    const request = { sandboxId, policy: parsed, limits, bytesUsed };
    const lease = await orUnavailable(network.lease(request));
    return {
      tapFd: lease.tapFd,
      guest: lease.guest,
      handedOver: () => orUnavailable(lease.handedOver()),
      setPolicy: async (changed) =>
        await orUnavailable(lease.setPolicy(readPolicy(changed), changed.limits)),
      connect: async (port, signal) => {
        try {
          return await lease.connect(port, signal);
        } catch (error) {
          if (!(error instanceof CodedError)) throw error;
          const message = `port ${port} of the sandbox's card`;
          throw new SandboxError('port_unreachable', message, { cause: error, ...remedyOf(error) });
        }
      },
      traffic: () => lease.traffic(),
      release: () => lease.release(),
    };
  }

  /** Idempotent. After the sandboxes have ended. */
  async close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    try {
      await (await opened)?.[Symbol.asyncDispose]();
    } catch (error) {
      ignore(error, 'who asked for a network was told that there is none');
    }
  }
}

/** @throws SandboxError `spec_invalid` with the rule that is wrong */
export function readPolicy(policy: NetworkPolicy): EgressPolicy {
  try {
    return parsePolicy(policy);
  } catch (error) {
    if (!(error instanceof CodedError)) throw error;
    throw new SandboxError('spec_invalid', `sandbox option network: ${error.message}`, {
      ...remedyOf(error),
    });
  }
}

async function orUnavailable<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw unavailable(error);
  }
}

function unavailable(cause: unknown): SandboxError {
  const message = 'the sandbox could not be given a network';
  return new SandboxError('network_unavailable', message, { cause, ...remedyOf(cause) });
}

function remedyOf(error: unknown): { readonly remedy?: string } {
  if (!(error instanceof CodedError) || error.remedy === undefined) return {};
  return { remedy: error.remedy };
}
