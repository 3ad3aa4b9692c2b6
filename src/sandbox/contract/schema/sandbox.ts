/** What callers see of a sandbox. */
import { z } from 'zod';
import { endInfo } from './ending.ts';
import { modelPolicy, modelUse } from './models.ts';
import { networkLimits, networkMode, secretPlace } from './network.ts';
import { packageEcosystem } from './packages.ts';
import { diskLimits, onMemoryPressure, onTimeout, volumeMount } from './request.ts';
import { count, ms, readOnly, sandboxId, wallMs } from './values.ts';

export const status = z
  .enum(['starting', 'running', 'saving', 'paused', 'resuming', 'ending', 'ended'])
  .meta({
    id: 'SandboxStatus',
    description: '`saving`: the state is being written; then the sandbox continues or is paused.',
  });
export const pausedTo = z.enum(['memory', 'disk', 'disk-only']).meta({ id: 'PauseTarget' });
export const pauseReason = z
  .enum(['timeout', 'idle', 'host-memory', 'daemon-stopped'])
  .meta({
    id: 'PauseReason',
    description:
      '`host-memory`: the memory of the host was short. `daemon-stopped`: it ran when the daemon was stopped; the ' +
      'next daemon resumes it.',
  });

const timings = z
  .object({
    origin: z.enum(['boot', 'clone']),
    prepareMs: ms.describe('Directory, disk, sockets; for a clone, also its RAM.'),
    vmmMs: ms.describe('From the start of the VMM process until guest code runs.'),
    kernelMs: ms.describe('Until the first process; 0 in a clone.'),
    agentMs: ms.describe('Until the agent is confirmed.'),
    totalMs: ms,
  })
  .meta({ id: 'StartTimings' });

const gatewayUse = z
  .object({
    allowed: z.number().describe('Allowed TLS connections and HTTP requests.'),
    refused: z.record(z.string(), z.number()).describe('Refused ones, by reason.'),
    destinations: z
      .array(z.object({ name: z.string(), bytesMax: z.number(), bytesUsed: z.number() }).meta({ id: 'DestinationUse' }))
      .describe('Use of the limits by name.'),
  })
  .meta({ id: 'GatewayUse' });
const networkInfo = z
  .object({
    mode: networkMode,
    allow: z.array(z.string()),
    deny: z.array(z.string()),
    limits: networkLimits,
    address: z.string().nullable().describe('IPv4 address; null while there is no network card.'),
    gatewayUse: gatewayUse
      .nullable()
      .describe('What the gateway allowed and refused; null while there is no network card.'),
  })
  .meta({ id: 'Network' });
const packageInfo = z
  .object({
    ecosystems: z.array(packageEcosystem),
    allow: z.array(z.string()),
    deny: z.array(z.string()),
    minAgeMs: ms.nullable(),
    lockedFiles: count.nullable().describe('Files that the lock names; null: no lock.'),
  })
  .meta({ id: 'Packages' });
const secretInfo = z
  .object({
    name: z.string(),
    sets: z
      .string()
      .optional()
      .describe('The header field that the gateway sets; absent: the guest has a placeholder.'),
    hosts: z.array(z.string()),
    places: z.array(secretPlace).describe('Empty: the usual credential fields.'),
    stored: z.string().optional().describe('The stored secret; absent: the sandbox has a value of its own.'),
    held: z.boolean().describe('False: the value must be given again.'),
  })
  .meta({ id: 'SecretInfo' });

export const ofImage = {
  user: z.string().describe('Of its programs, as the image names it; empty: root.'),
  workdir: z.string(),
  entrypoint: z.array(z.string()),
  cmd: z.array(z.string()),
  exposedPorts: z.array(z.string()).describe('Such as `80/tcp`.'),
  stopSignal: z.string().nullable(),
};
const imageInfo = z
  .object({
    name: z.string().describe('The reference that was asked for.'),
    digest: z.string().describe('`sha256:…` of its manifest.'),
    ...ofImage,
  })
  .meta({ id: 'SandboxImage' });

export const sandboxInfo = readOnly(
  z
    .object({
      id: sandboxId,
      name: z.string().nullable().describe('Null: it has none.'),
      status,
      pausedTo: pausedTo.nullable(),
      pauseReason: pauseReason
        .nullable()
        .describe('Of a paused sandbox; null: paused by request, or for its own memory or disk.'),
      foreignPause: z
        .string()
        .nullable()
        .describe(
          'Version and commit that paused it, if its pause needs another kernel, image, VMM or processor than this ' +
            'daemon has, so that `resume` fails with `snapshot_foreign`. Its files can be read.',
        ),
      cpus: count,
      memoryMib: count.describe('Memory of the guest now, MiB.'),
      memoryMaxMib: count.nullable().describe('Maximum the memory can grow to, MiB; null: it does not grow.'),
      diskMib: count,
      image: imageInfo.nullable().describe('Container image it runs in; null: the built-in system.'),
      metadata: z.record(z.string(), z.string()),
      annotations: z.record(z.string(), z.string()).describe('What the interface that created it keeps with it.'),
      origin: z
        .enum(['pool', 'clone', 'boot', 'snapshot', 'fork'])
        .meta({
          id: 'SandboxOrigin',
          description: 'How it was created: from a pool, as a clone of a template, by a boot, ….',
        }),
      snapshot: z.string().nullable().describe('The snapshot it was created from.'),
      template: z
        .string()
        .nullable()
        .describe('Name of the template it was created from; null: the request named none.'),
      parent: z.string().nullable().describe('The sandbox it was forked from.'),
      accelerator: z.string(),
      sharesMemory: z.boolean().nullable().describe('Until it is changed; null: there is no VM.'),
      createdAtMs: wallMs,
      endsAtMs: wallMs.nullable().describe('When its timeout expires; null: no timeout, or paused.'),
      onTimeout,
      idleTimeoutMs: ms.nullable(),
      autoResume: z.boolean(),
      onMemoryPressure,
      diskLimits,
      models: modelPolicy.describe('What it may ask a model.'),
      modelUse,
      packages: packageInfo.nullable().describe('Package policy; null: it may fetch no packages.'),
      network: networkInfo.nullable().describe('Network policy; null: no network.'),
      volumes: z.array(volumeMount).describe('Volumes that it has, also while it is paused.'),
      secrets: z.array(secretInfo).describe('Secrets that requests to these hosts get; never the values.'),
      timings: timings.nullable().describe('Phases of the last start; null if it came from a pool.'),
      readyMs: ms.nullable().describe('From the request until ready, milliseconds.'),
      end: endInfo.nullable().describe('Why it ended; null if it has not.'),
    })
    .meta({ id: 'Sandbox' }),
);
export type SandboxInfo = z.infer<typeof sandboxInfo>;

export type SandboxStatus = SandboxInfo['status'];
/**
 * `memory`: the CPUs stop. `disk`: the VM ends once its memory and disk are saved; open connections end.
 * `disk-only`: the same without the memory, so processes end, too; only `resume` boots it again.
 */
export type PauseTarget = z.infer<typeof pausedTo>;
/** Why a sandbox was paused without a request. */
export type PauseReason = z.infer<typeof pauseReason>;
export type ImageInfo = NonNullable<SandboxInfo['image']>;
/** Leaves out the lock's file list, which may have thousands of entries. */
export type PackageInfo = NonNullable<SandboxInfo['packages']>;
export type NetworkInfo = NonNullable<SandboxInfo['network']>;
export type SecretInfo = SandboxInfo['secrets'][number];
