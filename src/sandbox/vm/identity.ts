/** The hello: sends a guest its identity, and waits for the confirmation. */

import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import type { GuestNetwork } from '../../base/request/guest-network.ts';
import type { GuestIdentity } from '../../machine/guest/identity.ts';
import type { Guest, GuestListener } from '../../machine/guest/link.ts';
import type { DiskTrouble, Vm } from '../../machine/vmm/driver.ts';
import { SandboxError } from '../contract/errors.ts';
import { packageVariables } from '../contract/packages.ts';
import type { GuestTrust } from '../contract/parts.ts';
import { placeholdersOf } from '../contract/secrets.ts';
import type { SandboxSpec } from '../contract/spec.ts';
import { guestLimits } from '../memory/size.ts';
import { startedOnFullDisk } from './full-disk.ts';

/**
 * Where the agent puts the certificates (`spec/guest-protocol.md`, section 3), for programs that bring their own
 * bundle.
 */
const BUNDLE = '/etc/ssl/certs/ca-certificates.crt';
const BUNDLE_VARIABLES = {
  SSL_CERT_FILE: BUNDLE,
  REQUESTS_CA_BUNDLE: BUNDLE,
  CURL_CA_BUNDLE: BUNDLE,
  NODE_EXTRA_CA_CERTS: BUNDLE,
};

/** The inference endpoint in the guest. An image or a sandbox with its own server sets another one. */
const OLLAMA_HOST = 'http://127.0.0.1:11434';

export function identityOf(
  spec: SandboxSpec,
  network: GuestNetwork | undefined,
  trust: GuestTrust | undefined,
): GuestIdentity {
  const { defaultModel } = spec.models;
  const { environment } = spec;
  const { user = '', workdir = '' } = environment ?? {};
  return {
    sandboxId: spec.id,
    hostname: spec.hostname,
    ...(environment === undefined ? {} : { environment: { user, workdir } }),
    env: {
      OLLAMA_HOST,
      ...environment?.env,
      ...(defaultModel === null ? {} : { NEUROVISOR_MODEL: defaultModel }),
      ...(trust === undefined ? {} : BUNDLE_VARIABLES),
      ...packageVariables(spec.packages, network !== undefined),
      ...spec.env,
      ...placeholdersOf(spec.secrets),
      NEUROVISOR_SANDBOX_ID: spec.id,
    },
    // The other limits are the agent's defaults, which are shares of the guest's memory.
    limits: guestLimits(spec),
    warm: spec.warm,
    ...(network === undefined ? {} : { network }),
    ...(trust === undefined ? {} : { authority: trust.certificate }),
    ...(spec.volumes.length === 0 ? {} : { volumes: spec.volumes.map(guestVolume) }),
  };
}

/** The VMM names them by their order: `VmSpec.volumes`. */
const guestVolume = ({ path, readOnly = false }: SandboxSpec['volumes'][number], index: number) => ({
  serial: `volume${index}`,
  path,
  readOnly,
});

/** Interval between two attempts to resume a VM that is stopped for a full disk. */
export const RETRY_FULL_MS = 5_000;

/**
 * @param retryFull clock for attempts to resume a VM whose disk is full; `null`: a full disk is a failure
 * @throws SandboxError `start_failed` if the VM ended first, `disk_full` if the host has no room for its disk;
 * GuestError
 */
export async function untilHello(
  listener: GuestListener,
  vm: Vm,
  signal: AbortSignal,
  retryFull: Clock | null,
): Promise<Guest> {
  const full = Promise.withResolvers<never>();
  const onFull = (trouble: DiskTrouble): void => {
    if (trouble.kind !== 'full') return;
    if (retryFull === null) full.reject(startedOnFullDisk(trouble));
    else cancel = retryFull.after(RETRY_FULL_MS, () => void tryAgain(vm));
  };
  let cancel = (): void => undefined;
  const stop = vm.onDiskTrouble?.(onFull);
  const now = vm.fullDisk?.() ?? null;
  if (now !== null) onFull(now);
  const waiting = new AbortController();
  const both = AbortSignal.any([signal, waiting.signal]);
  try {
    const died = vm.exited.then((exit): never => {
      const what = `the VM ended before its agent said hello: ${exit.cause}`;
      const because = exit.detail === '' ? {} : { cause: exit.detail };
      throw new SandboxError('start_failed', what, because);
    });
    return await Promise.race([listener.ready(both), died, full.promise]);
  } finally {
    waiting.abort();
    stop?.();
    cancel();
  }
}

/** A VM that its owner paused meanwhile stays paused. */
async function tryAgain(vm: Vm): Promise<void> {
  if ((vm.fullDisk?.() ?? null) === null) return;
  await vm.resume().catch((error: unknown) => ignore(error, 'the end of the VM reports it'));
}
