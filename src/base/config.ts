/**
 * The whole configuration, from the environment and the command line, which overrides it. Read once per process. Each
 * command reads it before anything else, so it loads no library.
 */
import { resolve } from 'node:path';
import { CodedError, describeError } from './errors.ts';
import { CONTENT_MODES, type ContentMode } from './text/content-mode.ts';
import { FIELD_PATHS } from './text/field-path.ts';
import { GIB } from './units.ts';

export class ConfigError extends CodedError<'config_invalid'> {}

/** Action while the host's memory is short: pause sandboxes to disk, or only refuse starts and growth. */
export const MEMORY_SHORT = ['pause', 'refuse'] as const;
export type MemoryShort = (typeof MEMORY_SHORT)[number];
/** What the daemon does with running sandboxes when it is stopped. */
export const ON_STOP = ['pause', 'end'] as const;
export type OnStop = (typeof ON_STOP)[number];

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;

export const JAIL_MODES = ['auto', 'enforce', 'log', 'off'] as const;
export type JailMode = (typeof JAIL_MODES)[number];

/** Which clones share pages of their template's RAM: those of one tenant, all, or none. */
export const MEMORY_SHARING = ['share', 'share-all', 'copy'] as const;
export type MemorySharing = (typeof MEMORY_SHARING)[number];

/** Parses the text of one variable, undefined if unset. @throws Error that names the expected form */
type Variable<T> = (given: string | undefined) => T;

const text =
  (byDefault = ''): Variable<string> =>
  (given) =>
    given ?? byDefault;

const matching =
  (pattern: RegExp, expected: string, byDefault = ''): Variable<string> =>
  (given = byDefault) => {
    if (given === byDefault || pattern.test(given)) return given;
    throw new Error(`expected ${expected}`);
  };

const oneOf =
  <T extends string>(choices: readonly T[], byDefault: T): Variable<T> =>
  (given = byDefault) => {
    const choice = choices.find((one) => one === given);
    if (choice !== undefined) return choice;
    throw new Error(`expected one of ${choices.join(', ')}`);
  };

export const DEFAULT_FIRECRACKER = 'firecracker';

const HTTP_URL = /^https?:\/\/\S+$/;
const url = matching(HTTP_URL, 'an http(s) URL');

/** Address of a daemon. */
export const DAEMON_URL = /^https?:\/\/[^\s/?#@]+\/?$/;

const WEBHOOK_HOST = String.raw`([\w.-]+|\[[\da-fA-F:.]+\])(:\d{1,5})?`;

const VARIABLES = {
  /** Directory of caches and running sandboxes; empty: `~/.neurovisor`. */
  NEUROVISOR_HOME: text(),
  /** `auto`: a local server if one answers, otherwise the engine · `engine` · URL · `unix:/path`. */
  NEUROVISOR_UPSTREAM: matching(
    /^(engine|https?:\/\/\S+|unix:\/\S+)$/,
    '"auto", "engine", an http(s) URL or unix:/path/to.sock',
    'auto',
  ),
  /** API key for the upstream; stays on the host. */
  NEUROVISOR_UPSTREAM_KEY: text(),
  /** File with several model servers; empty: `models.toml` in the home, if there is one. */
  NEUROVISOR_MODELS: text(),
  /** Fields that model requests of all sandboxes may carry unchecked: paths, separated by commas. */
  NEUROVISOR_ALLOW_FIELDS: matching(
    FIELD_PATHS,
    'fields such as enable_search or messages.content.uuid, separated by commas',
  ),
  /** Maximum concurrent requests to the model server; empty: the engine's slots, for other servers no limit. */
  NEUROVISOR_UPSTREAM_SLOTS: matching(/^[1-9]\d{0,4}$/, 'a number of 1 to 99999'),
  /** Whether sandboxes see how much of a prompt the model server had in its cache. */
  NEUROVISOR_CACHE_HITS: oneOf(['hide', 'show'], 'hide'),
  /** File in which all requests to models and their answers are recorded: docs/replay.md. */
  NEUROVISOR_RECORD: text(),
  /** File from which all model requests are answered, without a model. */
  NEUROVISOR_REPLAY: text(),
  /** Contents of model requests and answers that the daemon's log keeps. */
  NEUROVISOR_AUDIT_CONTENT: oneOf(CONTENT_MODES, 'off'),
  NEUROVISOR_ACCELERATOR: oneOf(['auto', 'kvm', 'tcg'], 'auto'),
  /** Which clones share pages of their template's RAM until they write to them. */
  NEUROVISOR_MEMORY_SHARING: oneOf(MEMORY_SHARING, 'share'),
  /** `1`: pauses, snapshots and forks are encrypted on the disk. */
  NEUROVISOR_ENCRYPT: oneOf(['0', '1'], '0'),
  /** Action of the daemon while the host's memory is short. */
  NEUROVISOR_MEMORY_SHORT: oneOf(MEMORY_SHORT, 'pause'),
  /** What becomes of running sandboxes when the daemon is stopped. */
  NEUROVISOR_ON_STOP: oneOf(ON_STOP, 'pause'),
  /** The VMM; `auto`: Firecracker with KVM, if it is installed and can be jailed, otherwise QEMU. */
  NEUROVISOR_VMM: oneOf(['auto', 'firecracker', 'qemu'], 'auto'),
  /** Firecracker's binary: a name in PATH, or a path; unset: the one in PATH, or the one that set-up installed. */
  NEUROVISOR_FIRECRACKER: text(DEFAULT_FIRECRACKER),
  /** Firecracker's jailer; empty: `jailer` beside Firecracker, or in PATH. */
  NEUROVISOR_JAILER: text(),
  /** Seccomp filters of Firecracker: those in its binary, or ours from `policy/`. */
  NEUROVISOR_FIRECRACKER_FILTER: oneOf(['builtin', 'ours'], 'builtin'),
  NEUROVISOR_GPU: oneOf(['auto', 'cpu', 'cuda', 'vulkan'], 'auto'),
  /** A daemon on a port, for example `http://127.0.0.1:7070`; empty: the one at this home's socket. */
  NEUROVISOR_URL: matching(DAEMON_URL, 'http://HOST:PORT or https://HOST:PORT'),
  /** API key for that daemon. */
  NEUROVISOR_API_KEY: text(),
  /** PEM file of the certificate authorities accepted for that daemon; empty: those that Node.js trusts. */
  NEUROVISOR_CA: text(),
  /** Seconds that commands and the library wait for the next daemon when theirs ends. `0`: not at all. */
  NEUROVISOR_DAEMON_WAIT: matching(/^\d{1,5}$/, 'a number of seconds, 0 to 99999', '30'),
  /** Disk space of the container image cache, GiB. Beyond it, the least recently used files are removed. */
  NEUROVISOR_IMAGE_QUOTA_GIB: matching(/^[1-9]\d{0,5}$/, 'a whole number of GiB', '64'),
  /** Address block of sandboxes with a network; empty: 10.201.0.0/16. */
  NEUROVISOR_NET_POOL: text(),
  /** Hosts of webhooks that may have private addresses: `HOST` or `HOST:PORT`, separated by commas. */
  NEUROVISOR_WEBHOOK_HOSTS: matching(
    new RegExp(`^${WEBHOOK_HOST}(,${WEBHOOK_HOST})*$`),
    'HOST or HOST:PORT, separated by commas, IPv6 in brackets',
  ),
  /** Hosts that package files may come from by HTTPS, whatever their addresses; same form. */
  NEUROVISOR_PACKAGE_HOSTS: matching(
    new RegExp(`^${WEBHOOK_HOST}(,${WEBHOOK_HOST})*$`),
    'HOST or HOST:PORT, separated by commas, IPv6 in brackets',
  ),
  /**
   * The jail around VMMs. `auto`: namespaces and seccomp are required; a separate user and limits if the host has them,
   * otherwise a warning · `enforce`: requires the whole jail · `log`: allows and logs syscalls that the profile refuses
   * · `off`.
   */
  NEUROVISOR_JAIL: oneOf(JAIL_MODES, 'auto'),
  /** User IDs for VMMs, `FIRST:COUNT`; empty: 1900000000:4096. Only for root. */
  NEUROVISOR_JAIL_UIDS: matching(/^\d{1,10}:\d{1,5}$/, 'FIRST:COUNT'),
  /**
   * Kernel measurements of the daemon (docs/observability.md), separated by commas: `latency` of packets,
   * `processes` of VMMs, `syscalls` of VMMs · `auto`: the first two, if the host supports them · `off`.
   */
  NEUROVISOR_PROBES: matching(
    /^(off|(latency|processes|syscalls)(,(latency|processes|syscalls))*)$/,
    'auto, off, or a list of latency, processes, syscalls',
    'auto',
  ),
  /** Trace collector, by OTLP/HTTP, for example `http://127.0.0.1:4318`; empty: OpenTelemetry's variables decide. */
  NEUROVISOR_OTLP_ENDPOINT: url,
  OTEL_EXPORTER_OTLP_ENDPOINT: url,
  /** The complete URL. */
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: url,
  /** `name=value,…`, values percent-encoded. */
  OTEL_EXPORTER_OTLP_HEADERS: text(),
  OTEL_SERVICE_NAME: text('neurovisor'),
  /** Trace that this process is part of; an invalid value counts as none. */
  TRACEPARENT: text(),
  NEUROVISOR_LOG: oneOf(LOG_LEVELS, 'warn'),
};

export const VARIABLE_NAMES: readonly string[] = Object.keys(VARIABLES);

/** @param name one of those; without a text its default. @throws Error that names the expected form */
export const readVariable = (name: string, given?: string): string => VARIABLES[name as keyof typeof VARIABLES](given);

type Values = { readonly [K in keyof typeof VARIABLES]: ReturnType<(typeof VARIABLES)[K]> };

export const PROBE_NAMES = ['latency', 'processes', 'syscalls'] as const;
export type ProbeName = (typeof PROBE_NAMES)[number];
/** `isAsked`: named explicitly, so that a missing probe is an error. */
export type Probes = Readonly<Record<ProbeName | 'isAsked', boolean>>;

export interface Config {
  readonly home: string;
  readonly upstream: string;
  readonly upstreamKey: string | null;
  /** `null`: the upstream decides. */
  readonly upstreamSlots: number | null;
  /** `null`: `models.toml` in the home, if it exists. */
  readonly modelsFile: string | null;
  readonly allowFields: readonly string[];
  readonly showCacheHits: boolean;
  /** `null`: requests go to models, and nothing is recorded. */
  readonly cassette: CassetteChoice | null;
  readonly auditContent: ContentMode;
  readonly accelerator: 'auto' | 'kvm' | 'tcg';
  readonly memorySharing: MemorySharing;
  /** Whether saves of sandboxes are encrypted. */
  readonly encrypts: boolean;
  readonly memoryShort: MemoryShort;
  readonly onStop: OnStop;
  readonly vmm: 'auto' | 'firecracker' | 'qemu';
  /** Name in PATH or path. */
  readonly firecracker: string;
  /** `null`: beside Firecracker, or in PATH. */
  readonly jailer: string | null;
  readonly firecrackerFilter: 'builtin' | 'ours';
  readonly gpu: 'auto' | 'cpu' | 'cuda' | 'vulkan';
  /** `null`: this home's daemon, at its socket. */
  readonly daemonUrl: string | null;
  readonly daemonKey: string | null;
  /** Context of `neurovisor login` that names the daemon; `null`: none does. */
  readonly daemonContext: string | null;
  /** Path of a PEM file; `null`: the authorities that Node.js trusts. */
  readonly daemonCaFile: string | null;
  readonly daemonWaitMs: number;
  readonly imageQuotaBytes: number;
  /** `null`: the default. Validated by the first sandbox with a network. */
  readonly networkPool: string | null;
  /** `HOST` or `HOST:PORT`. */
  readonly webhookHosts: readonly string[];
  /** `HOST` or `HOST:PORT`. */
  readonly packageHosts: readonly string[];
  readonly jail: JailMode;
  /** `null`: the default. */
  readonly jailUids: string | null;
  readonly probes: Probes;
  /** `null`: no tracing. */
  readonly traces: TraceTarget | null;
  /** `traceparent` as given; `null` without one. */
  readonly traceparent: string | null;
  readonly logLevel: (typeof LOG_LEVELS)[number];
}

export interface CassetteChoice {
  readonly mode: 'record' | 'replay';
  /** Absolute. */
  readonly path: string;
}

export interface TraceTarget {
  /** The complete URL. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly serviceName: string;
}

/** @throws ConfigError naming the variable and its valid values */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const values = readVariables(env);
  return {
    home: values.NEUROVISOR_HOME,
    upstream: values.NEUROVISOR_UPSTREAM,
    upstreamKey: values.NEUROVISOR_UPSTREAM_KEY || null,
    upstreamSlots: Number(values.NEUROVISOR_UPSTREAM_SLOTS) || null,
    modelsFile: modelsFileOf(values),
    allowFields: listed(values.NEUROVISOR_ALLOW_FIELDS),
    showCacheHits: values.NEUROVISOR_CACHE_HITS === 'show',
    cassette: cassetteChoice(values.NEUROVISOR_RECORD, values.NEUROVISOR_REPLAY),
    auditContent: values.NEUROVISOR_AUDIT_CONTENT,
    accelerator: values.NEUROVISOR_ACCELERATOR,
    memorySharing: values.NEUROVISOR_MEMORY_SHARING,
    encrypts: values.NEUROVISOR_ENCRYPT === '1',
    memoryShort: values.NEUROVISOR_MEMORY_SHORT,
    onStop: values.NEUROVISOR_ON_STOP,
    vmm: values.NEUROVISOR_VMM,
    firecracker: values.NEUROVISOR_FIRECRACKER,
    jailer: values.NEUROVISOR_JAILER || null,
    firecrackerFilter: values.NEUROVISOR_FIRECRACKER_FILTER,
    gpu: values.NEUROVISOR_GPU,
    daemonUrl: values.NEUROVISOR_URL || null,
    daemonKey: values.NEUROVISOR_API_KEY || null,
    daemonContext: null,
    daemonCaFile: values.NEUROVISOR_CA || null,
    daemonWaitMs: Number(values.NEUROVISOR_DAEMON_WAIT) * 1000,
    imageQuotaBytes: Number(values.NEUROVISOR_IMAGE_QUOTA_GIB) * GIB,
    networkPool: values.NEUROVISOR_NET_POOL || null,
    webhookHosts: listed(values.NEUROVISOR_WEBHOOK_HOSTS),
    packageHosts: listed(values.NEUROVISOR_PACKAGE_HOSTS),
    jail: values.NEUROVISOR_JAIL,
    jailUids: values.NEUROVISOR_JAIL_UIDS || null,
    probes: probesOf(values.NEUROVISOR_PROBES),
    traces: traceTarget(values),
    traceparent: values.TRACEPARENT || null,
    logLevel: values.NEUROVISOR_LOG,
  };
}

function readVariables(env: Readonly<Record<string, string | undefined>>): Values {
  const read = Object.entries(VARIABLES).map(([name, parse]) => {
    try {
      // An empty variable counts as unset, as users of shells expect.
      return [name, parse(env[name] || undefined)];
    } catch (error) {
      throw new ConfigError('config_invalid', `${name}: ${describeError(error)}`, {
        remedy: 'correct or unset the environment variable',
      });
    }
  });
  return Object.fromEntries(read) as Values;
}

function modelsFileOf(values: Values): string | null {
  const { NEUROVISOR_MODELS: path, NEUROVISOR_UPSTREAM: upstream } = values;
  if (path === '' || upstream === 'auto') return path || null;
  throw new ConfigError('config_invalid', 'NEUROVISOR_MODELS and NEUROVISOR_UPSTREAM are both set', {
    remedy: 'unset one of the environment variables',
  });
}

/** @throws ConfigError */
function cassetteChoice(record: string, replay: string): CassetteChoice | null {
  if (record !== '' && replay !== '') {
    throw new ConfigError('config_invalid', 'NEUROVISOR_RECORD and NEUROVISOR_REPLAY are mutually exclusive', {
      remedy: 'unset one of them',
    });
  }
  if (record === '' && replay === '') return null;
  return { mode: record === '' ? 'replay' : 'record', path: resolve(record || replay) };
}

const listed = (text: string): string[] => text.split(',').filter((one) => one !== '');

function probesOf(text: string): Probes {
  const names = text === 'auto' ? ['latency', 'processes'] : text.split(',');
  const has = (name: ProbeName): boolean => names.includes(name);
  const isAsked = text !== 'auto';
  return { latency: has('latency'), processes: has('processes'), syscalls: has('syscalls'), isAsked };
}

/** Our variable overrides OpenTelemetry's; of those, the one for traces wins and is used as it is. */
function traceTarget(values: Values): TraceTarget | null {
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

/** `null` if not percent-encoded, or unsafe in a header. */
function decoded(text: string): string | null {
  try {
    const value = decodeURIComponent(text);
    return /^[\t\x20-\x7e]*$/.test(value) ? value : null;
  } catch (error) {
    if (error instanceof URIError) return null;
    throw error;
  }
}
