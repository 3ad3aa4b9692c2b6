/**
 * The whole configuration, from the environment and the command line (which wins). Read once, in the
 * composition root.
 */
import { z } from 'zod';
import { CodedError } from './base/errors.ts';

export class ConfigError extends CodedError<'config_invalid'> {}

export const JAIL_MODES = ['auto', 'enforce', 'log', 'off'] as const;
export type JailMode = (typeof JAIL_MODES)[number];

const schema = z.object({
  /** Where caches and running sandboxes live; empty: `~/.neurovisor`. */
  NEUROVISOR_HOME: z.string().default(''),
  /** `auto`: a usual local server if one answers, else the engine · `engine` · URL · `unix:/path`. */
  NEUROVISOR_UPSTREAM: z
    .string()
    .regex(/^(auto|engine|https?:\/\/\S+|unix:\/\S+)$/, {
      error: 'expected "auto", "engine", an http(s) URL or unix:/path/to.sock',
    })
    .default('auto'),
  /** API key for the upstream; stays on the host. */
  NEUROVISOR_UPSTREAM_KEY: z.string().default(''),
  /** Which accelerator VMs may use. */
  NEUROVISOR_ACCELERATOR: z.enum(['auto', 'kvm', 'tcg']).default('auto'),
  /** Which VMM runs VMs; `auto`: QEMU if it is installed. */
  NEUROVISOR_VMM: z.enum(['auto', 'firecracker', 'qemu']).default('auto'),
  /** Firecracker's binary; empty: `firecracker` in PATH. */
  NEUROVISOR_FIRECRACKER: z.string().default(''),
  /** Which processor the engine uses. */
  NEUROVISOR_GPU: z.enum(['auto', 'cpu', 'cuda', 'vulkan']).default('auto'),
  /** A daemon on a port, e.g. `http://127.0.0.1:7070`; empty: the one at this home's socket. */
  NEUROVISOR_URL: z
    .string()
    .regex(/^(https?:\/\/\S+)?$/, { error: 'expected an http(s) URL' })
    .default(''),
  /** API key for that daemon. */
  NEUROVISOR_API_KEY: z.string().default(''),
  /** Block that sandboxes with a network are given addresses from; empty: 10.201.0.0/16. */
  NEUROVISOR_NET_POOL: z.string().default(''),
  /**
   * The jail around VMMs. `auto`: where this host can, else none, which is told · `enforce`: the whole jail or no VM starts ·
   * `log`: system calls that the profile refuses are let through and logged · `off`.
   */
  NEUROVISOR_JAIL: z.enum(JAIL_MODES).default('auto'),
  /** User ids for VMMs, `FIRST:COUNT`; empty: 1900000000:4096. Used by root alone. */
  NEUROVISOR_JAIL_UIDS: z
    .string()
    .regex(/^(\d{1,10}:\d{1,5})?$/, { error: 'expected FIRST:COUNT' })
    .default(''),
  NEUROVISOR_LOG: z.enum(['error', 'warn', 'info', 'debug']).default('warn'),
});

export interface Config {
  readonly home: string;
  readonly upstream: string;
  readonly upstreamKey: string | null;
  readonly accelerator: 'auto' | 'kvm' | 'tcg';
  readonly vmm: 'auto' | 'firecracker' | 'qemu';
  /** Name in PATH or path. */
  readonly firecracker: string;
  readonly gpu: 'auto' | 'cpu' | 'cuda' | 'vulkan';
  /** Null: the daemon of this home, at its socket. */
  readonly daemonUrl: string | null;
  readonly daemonKey: string | null;
  /** Null: the usual one. Judged by the first sandbox that asks for a network. */
  readonly networkPool: string | null;
  readonly jail: JailMode;
  /** Null: the usual ones. */
  readonly jailUids: string | null;
  readonly logLevel: 'error' | 'warn' | 'info' | 'debug';
}

/** @throws ConfigError naming the variable and what it may be. */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  // An empty variable means the same as none, as users of shells expect.
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''));
  const parsed = schema.safeParse(given);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new ConfigError('config_invalid', `${issue?.path.join('.')}: ${issue?.message}`, {
      remedy: 'correct or unset the environment variable',
    });
  }
  const values = parsed.data;
  return {
    home: values.NEUROVISOR_HOME,
    upstream: values.NEUROVISOR_UPSTREAM,
    upstreamKey: values.NEUROVISOR_UPSTREAM_KEY || null,
    accelerator: values.NEUROVISOR_ACCELERATOR,
    vmm: values.NEUROVISOR_VMM,
    firecracker: values.NEUROVISOR_FIRECRACKER || 'firecracker',
    gpu: values.NEUROVISOR_GPU,
    daemonUrl: values.NEUROVISOR_URL || null,
    daemonKey: values.NEUROVISOR_API_KEY || null,
    networkPool: values.NEUROVISOR_NET_POOL || null,
    jail: values.NEUROVISOR_JAIL,
    jailUids: values.NEUROVISOR_JAIL_UIDS || null,
    logLevel: values.NEUROVISOR_LOG,
  };
}
