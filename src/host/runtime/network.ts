/** The host's network for sandboxes: opened by the first that requests one; its errors become SandboxErrors. */
import { systemClock } from '../../base/clock.ts';
import type { Config } from '../../base/config.ts';
import { CodedError, remedyOf } from '../../base/errors.ts';
import { awaitOr, ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { SecretValue } from '../../base/request/secret-value.ts';
import { cidr } from '../../egress/net/addresses/addresses.ts';
import { NetError } from '../../egress/net/errors.ts';
import type { HostNetwork, NetworkLease } from '../../egress/net/lease/lease.ts';
import { LinkError } from '../../egress/net/netlink/errors.ts';
import { assertLimitable, parsePolicy } from '../../egress/net/policy/egress-rules.ts';
import { type EgressPolicy, privateRules as privateRulesOf } from '../../egress/net/policy/policy.ts';
import { needsAnyDecryption } from '../../egress/net/policy/request-policy.ts';
import { CertificateAuthority } from '../../egress/net/secret/authority.ts';
import { machineRoots } from '../../egress/net/secret/roots.ts';
import type { EgressSecrets } from '../../egress/net/secret/secret.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { NetworkOptions, NetworkSpec } from '../../sandbox/contract/network-spec.ts';
import type { CardLease, GuestTrust, LeaseSecrets } from '../../sandbox/contract/parts.ts';
import { requireValues, type SandboxSecret } from '../../sandbox/contract/secrets.ts';
import type { StoredSecretValue } from '../../sandbox/contract/stored-secrets.ts';
import { writeNoCore } from '../../sys/core-dump.ts';

export interface NetworkParts {
  /** Called at the first use, and again after a failure. */
  open(): Promise<HostNetwork>;
  /** Called for each card, and again after a loan. Returns a function that stops it. */
  watchCard?(sandboxId: string, interfaceName: string): () => void;
  /** Called for each lease. Returns a function to call before its release. */
  watchLease?(lease: NetworkLease): () => Promise<void>;
}

export class Network {
  readonly #parts: NetworkParts;
  #opened: Promise<HostNetwork> | undefined;
  /** Changes with each stored secret, also while a lease is being opened. */
  #version = 0;
  /** Each gives one lease the current values of its stored secrets. */
  readonly #refreshes = new Set<(name: string) => Promise<void>>();
  /** Set once the store is open. Default: none is stored. */
  storedValue: StoredSecretValue = async () => null;

  constructor(parts: NetworkParts) {
    this.#parts = parts;
  }

  /** @throws SandboxError `network_unavailable` with a remedy */
  async open(): Promise<HostNetwork> {
    this.#opened ??= this.#parts.open();
    const opening = this.#opened;
    try {
      return await opening;
    } catch (error) {
      // The next sandbox tries again: the missing part may be installed by then.
      if (this.#opened === opening) this.#opened = undefined;
      throw unavailable(error);
    }
  }

  /** @throws SandboxError `network_unavailable`, `secrets_missing` */
  async lease(sandboxId: string, wanted: NetworkSpec, { secrets, authority }: LeaseSecrets): Promise<CardLease> {
    requireValues(sandboxId, secrets);
    const isNeeded = secrets.length > 0 || needsAnyDecryption(wanted.policy);
    let trust = await trustFor(isNeeded, authority);
    const network = await this.open();
    let current = secrets;
    const version = this.#version;
    const given = async () => egressSecrets(await this.#withStored(current), trust);
    const lease = await orUnavailable(network.lease({ ...wanted, sandboxId, secrets: await given() }));
    let isReleased = false;
    let changes = Promise.resolve();
    // In order: an older value must not replace a newer one.
    const setSecrets = (): Promise<void> => {
      const result = changes.then(async () => orUnavailable(lease.setSecrets(await given())));
      changes = result.catch((error: unknown) => ignore(error, 'the caller has it'));
      return result;
    };
    const refresh = async (name: string): Promise<void> => {
      if (!current.some(({ stored }) => stored === name)) return;
      await setSecrets().catch((error: unknown) => {
        if (!isReleased) throw error;
      });
    };
    this.#refreshes.add(refresh);
    if (version !== this.#version) await setSecrets();
    const watchCard = (): (() => void) => this.#parts.watchCard?.(sandboxId, lease.interfaceName) ?? (() => undefined);
    const beforeRelease = this.#parts.watchLease?.(lease);
    let stopWatching = watchCard();
    return {
      get trust() {
        return trust;
      },
      setSecrets: async (changed) => {
        requireValues(sandboxId, changed);
        trust = await trustFor(changed.length > 0, trust?.authority ?? authority);
        current = changed;
        await setSecrets();
      },
      tapFd: lease.tapFd,
      guest: lease.guest,
      confirmHandover: () => orUnavailable(lease.confirmHandover()),
      lend: async (...to) => {
        // While lent, the TAP is in another namespace, without our probes.
        stopWatching();
        try {
          await lease.lend(...to);
          if (!isReleased) stopWatching = watchCard();
        } catch (error) {
          // Any other error is the VMM's.
          throw error instanceof LinkError || error instanceof NetError ? unavailable(error) : error;
        }
      },
      setPolicy: async (policy, limits) => {
        if (trust === undefined && needsAnyDecryption(policy)) {
          trust = await trustFor(true, authority);
          await setSecrets();
        }
        await orUnavailable(lease.setPolicy(policy, limits));
      },
      connect: async (port, signal) => {
        try {
          return await lease.connect(port, signal);
        } catch (error) {
          if (!(error instanceof CodedError)) throw error;
          const message = `port ${port} of the sandbox's card`;
          throw new SandboxError('port_unreachable', message, { cause: error, remedy: remedyOf(error) });
        }
      },
      traffic: () => lease.traffic(),
      gatewayUse: () => lease.gatewayUse(),
      release: async () => {
        isReleased = true;
        this.#refreshes.delete(refresh);
        stopWatching();
        await beforeRelease?.();
        await lease.release();
      },
    };
  }

  /** Gives the current value of a stored secret to the sandboxes that use it. */
  async refreshSecret(name: string): Promise<void> {
    this.#version += 1;
    await Promise.all([...this.#refreshes].map((refresh) => refresh(name)));
  }

  async #withStored(secrets: readonly SandboxSecret[]): Promise<readonly (SandboxSecret & { isMissing?: boolean })[]> {
    const found = secrets.map(async (secret) => {
      if (secret.stored === undefined) return secret;
      const value = await this.storedValue(secret.stored);
      return value === null ? { ...secret, value: new SecretValue(''), isMissing: true } : { ...secret, value };
    });
    return await Promise.all(found);
  }

  /** Call after the sandboxes have ended. Idempotent. */
  async close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    await awaitOr(undefined, 'reported to the sandbox that needed a network', async () =>
      (await opened)?.[Symbol.asyncDispose](),
    );
  }
}

/** An authority is kept once made, since programs in the guest may keep trusting it. */
async function trustFor(isNeeded: boolean, known: CertificateAuthority | undefined): Promise<GuestTrust | undefined> {
  if (!isNeeded && known === undefined) return undefined;
  const authority = known ?? new CertificateAuthority(systemClock);
  return { authority, certificate: await authority.certificate() };
}

function egressSecrets(secrets: readonly SandboxSecret[], trust: GuestTrust | undefined): EgressSecrets | undefined {
  if (trust === undefined) return undefined;
  const known = secrets.flatMap(({ value, ...rest }) => (value === null ? [] : [{ ...rest, value }]));
  if (known.length > 0) writeNoCore();
  return { secrets: known, authority: trust.authority, roots: machineRoots };
}

/** @throws SandboxError `spec_invalid`, naming the rule */
export function parseEgress({ mode, allow = [], deny = [], limits }: NetworkOptions): EgressPolicy {
  try {
    const isLimitedByName = (limits?.destinations ?? []).length > 0;
    return assertLimitable(parsePolicy({ mode, allow, deny }), isLimitedByName);
  } catch (error) {
    if (!(error instanceof CodedError)) throw error;
    throw new SandboxError('spec_invalid', `sandbox option network: ${error.message}`, { remedy: remedyOf(error) });
  }
}

/**
 * Returns the rules to allow that open a private range beyond these blocks.
 * @throws SandboxError `spec_invalid`, naming the rule
 */
export function privateRules(allow: readonly string[], blocks: readonly string[]): readonly string[] {
  return privateRulesOf(parseEgress({ mode: 'allowlist', allow }), blocks.map(cidr)).map(({ text }) => text);
}

async function orUnavailable<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw unavailable(error);
  }
}

function unavailable(cause: unknown): SandboxError {
  const message = 'could not set up the network of the sandbox';
  return new SandboxError('network_unavailable', message, { cause, remedy: remedyOf(cause) });
}

/** Loaded only here: most sandboxes have no network. */
export async function openKernelNetwork(config: Config, log: Log): Promise<HostNetwork> {
  const { openHostNetwork } = await import('../../egress/net/lease/host-network.ts');
  const { networkPool: pool } = config;
  return await openHostNetwork({ clock: systemClock, log, ...(pool === null ? {} : { pool }) });
}
