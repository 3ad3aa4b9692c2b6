/**
 * The whole configuration, from the environment and the command line (which wins). Read once, in the
 * composition root.
 */
import { z } from 'zod';
import { CodedError } from './base/errors.ts';

export class ConfigError extends CodedError<'config_invalid'> {}

export const JAIL_MODES = ['auto', 'enforce', 'log', 'off'] as const;
export type JailMode = (typeof JAIL_MODES)[number];
const otlpUrl = z
  .string()
  .regex(/^(https?:\/\/\S+)?$/, { error: 'expected an http(s) URL' })
  .default('');

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
  /** Firecracker's jailer; empty: `jailer` beside Firecracker, or in PATH. */
  NEUROVISOR_JAILER: z.string().default(''),
  /** System call filters of Firecracker: those in its binary, or ours from `policy/`. */
  NEUROVISOR_FIRECRACKER_FILTER: z.enum(['builtin', 'ours']).default('builtin'),
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
  /**
   * What the daemon measures in the kernel (docs/observability.md), separated by commas: `latency` of packets,
   * `processes` of VMMs, `syscalls` of VMMs · `auto`: the first two, where this host can · `off`.
   */
  NEUROVISOR_PROBES: z
    .string()
    .regex(/^(auto|off|(latency|processes|syscalls)(,(latency|processes|syscalls))*)$/, {
      error: 'expected auto, off, or of latency, processes, syscalls, with commas',
    })
    .default('auto'),
  /** Where traces go, by OTLP/HTTP, e.g. `http://127.0.0.1:4318`; empty: what OpenTelemetry's variables say. */
  NEUROVISOR_OTLP_ENDPOINT: otlpUrl,
  OTEL_EXPORTER_OTLP_ENDPOINT: otlpUrl,
  /** The whole URL. */
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: otlpUrl,
  /** `name=value,…`, values percent-encoded. */
  OTEL_EXPORTER_OTLP_HEADERS: z.string().default(''),
  OTEL_SERVICE_NAME: z.string().default('neurovisor'),
  /** The trace that this process is part of; what is none counts as none. */
  TRACEPARENT: z.string().default(''),
  NEUROVISOR_LOG: z.enum(['error', 'warn', 'info', 'debug']).default('warn'),
});

export const PROBE_NAMES = ['latency', 'processes', 'syscalls'] as const;
export type ProbeName = (typeof PROBE_NAMES)[number];
/** `isAsked`: by name, so that it matters when they can't be had. */
export type Probes = Readonly<Record<ProbeName | 'isAsked', boolean>>;

export interface Config {
  readonly home: string;
  readonly upstream: string;
  readonly upstreamKey: string | null;
  readonly accelerator: 'auto' | 'kvm' | 'tcg';
  readonly vmm: 'auto' | 'firecracker' | 'qemu';
  /** Name in PATH or path. */
  readonly firecracker: string;
  /** Path; null: beside Firecracker, or in PATH. */
  readonly jailer: string | null;
  readonly firecrackerFilter: 'builtin' | 'ours';
  readonly gpu: 'auto' | 'cpu' | 'cuda' | 'vulkan';
  /** Null: the daemon of this home, at its socket. */
  readonly daemonUrl: string | null;
  readonly daemonKey: string | null;
  /** Null: the usual one. Judged by the first sandbox that asks for a network. */
  readonly networkPool: string | null;
  readonly jail: JailMode;
  /** Null: the usual ones. */
  readonly jailUids: string | null;
  /** What the daemon measures in the kernel. */
  readonly probes: Probes;
  /** Null: nothing is traced. */
  readonly traces: TraceTarget | null;
  /** `traceparent`, as it was given; null: none. */
  readonly traceparent: string | null;
  readonly logLevel: 'error' | 'warn' | 'info' | 'debug';
}

export interface TraceTarget {
  /** Whole. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly serviceName: string;
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
    jailer: values.NEUROVISOR_JAILER || null,
    firecrackerFilter: values.NEUROVISOR_FIRECRACKER_FILTER,
    gpu: values.NEUROVISOR_GPU,
    daemonUrl: values.NEUROVISOR_URL || null,
    daemonKey: values.NEUROVISOR_API_KEY || null,
    networkPool: values.NEUROVISOR_NET_POOL || null,
    jail: values.NEUROVISOR_JAIL,
    jailUids: values.NEUROVISOR_JAIL_UIDS || null,
    probes: probesOf(values.NEUROVISOR_PROBES),
    traces: traceTarget(values),
    traceparent: values.TRACEPARENT || null,
    logLevel: values.NEUROVISOR_LOG,
  };
}

function probesOf(text: string): Probes {
  const names = text === 'auto' ? ['latency', 'processes'] : text.split(',');
  const has = (name: ProbeName): boolean => names.includes(name);
  const isAsked = text !== 'auto';
  return {
    latency: has('latency'),
    processes: has('processes'),
    syscalls: has('syscalls'),
    isAsked,
  };
}

/** Our variable wins; of OpenTelemetry's, the one for traces does, which is not completed. */
function traceTarget(values: z.infer<typeof schema>): TraceTarget | null {
  const own = values.NEUROVISOR_OTLP_ENDPOINT;
  const whole = own === '' ? values.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT : '';
  const base = own || values.OTEL_EXPORTER_OTLP_ENDPOINT;
  const url = whole || (base === '' ? '' : `${base.replace(/\/+$/, '')}/v1/traces`);
  if (url === '') return null;
  const headers = parseHeaders(values.OTEL_EXPORTER_OTLP_HEADERS);
  return { url, headers, serviceName: values.OTEL_SERVICE_NAME };
}

/** @throws ConfigError */
function parseHeaders(text: string): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const pair of text.split(',').filter((part) => part.trim() !== '')) {
    const match = /^\s*([A-Za-z0-9!#$&'*+.^_`|~-]+)\s*=\s*([\x21-\x7e]*)\s*$/.exec(pair);
    const value = decoded(match?.[2] ?? '%');
    if (match === null || value === null) {
      throw new ConfigError('config_invalid', 'OTEL_EXPORTER_OTLP_HEADERS: expected NAME=VALUE,…', {
        remedy: 'correct or unset the environment variable',
      });
    }
    headers[match[1] ?? ''] = value;
  }
  return headers;
}

/** Null: it is not percent-encoded, or would end the header. */
function decoded(text: string): string | null {
  try {
    const value = decodeURIComponent(text);
    return /^[\t\x20-\x7e]*$/.test(value) ? value : null;
  } catch (error) {
    if (error instanceof URIError) return null;
    throw error;
  }
}
