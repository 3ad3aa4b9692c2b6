/**
 * A template: a booted, warmed guest without identity, saved as three files.
 *
 *     key = digest of all its inputs ──► <cache>/template/<key>/  ram  state  disk.ext4  manifest.json
 *                                                                 with an image: environment
 *
 * A template is loaded only for exactly its key.
 */
import { createHash } from 'node:crypto';
import type { VmmCapabilities } from '../../machine/vmm/driver.ts';
import type { EnvironmentSource, SandboxEnvironment } from '../contract/environment.ts';
import { DEFAULTS } from '../contract/limits.ts';
import type { SandboxOptions, TemplateSpec } from '../contract/spec.ts';

/** The inputs of a template; its key is their digest. */
export interface TemplateInputs {
  readonly spec: TemplateSpec;
  /** Identifies the index that packages are installed from; another index may have other files of the same name. */
  readonly packageIndex: string;
  readonly kernelDigest: string;
  /** Covers the agent and its protocol. */
  readonly rootImageDigest: string;
  /** VMM, version, accelerator, processor, devices: `VmmDriver.machineOf`. */
  readonly machine: string;
  /** Variables that modules see when they are imported. */
  readonly env: Readonly<Record<string, string>>;
}

export interface NamedTemplate {
  readonly name: string;
  /** Without `card`, which depends on the sandbox. */
  readonly spec: TemplateSpec;
  /** Source of `spec.environment`, if there is one. */
  readonly image?: EnvironmentSource;
}

export const TEMPLATE_FILES = { ram: 'ram', state: 'state', disk: 'disk.ext4' } as const;
/** A hard link to the image's file; only in a template with an image. */
export const TEMPLATE_ENVIRONMENT = 'environment';

/** The imports of an agent with a model; they take ten seconds in software emulation. */
export const DEFAULT_WARM: readonly string[] = [
  'json',
  'numpy',
  'langchain_core.messages',
  'langchain_core.tools',
  'langchain_openai',
];

export const DEFAULT_TEMPLATE: TemplateSpec = { ...DEFAULTS, warm: DEFAULT_WARM };

/**
 * Kernel arguments of the build. Free pages are zeroed, so they are neither saved nor copied, and no memory that the
 * build freed reaches a clone.
 */
export const TEMPLATE_BOOT_ARGS: readonly string[] = ['init_on_free=1'];

/** Increment when the build changes. */
const FORMAT = 3;

/** Whether a clone can become the requested sandbox: templates have a logged console. */
export function canBeCloned({ console = 'log' }: SandboxOptions): boolean {
  return console === 'log';
}

/** Whether the sandbox needs a template with a network card, since its VMM can't plug one into a clone. */
export function needsCard(
  { network = null, secrets = [] }: SandboxOptions,
  { hotplugNic }: Pick<VmmCapabilities, 'hotplugNic'>,
): boolean {
  // Secrets need a network.
  return !hotplugNic && (network !== null || secrets.length > 0);
}

/** The guest-visible parts: images that differ in labels or commands share a template. */
function partsOf({ digest, user, workdir, env }: SandboxEnvironment): readonly unknown[] {
  return [digest, user, workdir, Object.entries(env).sort(([a], [b]) => (a < b ? -1 : 1))];
}

/** Hexadecimal SHA-256. */
export function templateKey(inputs: TemplateInputs): string {
  const { spec, kernelDigest, rootImageDigest, machine, env } = inputs;
  const { cpus, memoryMib, memoryMaxMib, diskMib, warm, card = false, requirements = [] } = spec;
  const { environment, start, packagesMinAgeMs = null } = spec;
  const { packageIndex: index } = inputs;
  const parts = [
    FORMAT,
    [cpus, memoryMib, diskMib, ...(memoryMaxMib === undefined ? [] : [memoryMaxMib])],
    warm,
    [kernelDigest, rootImageDigest, machine],
    Object.entries(env).sort(([a], [b]) => (a < b ? -1 : 1)),
    TEMPLATE_BOOT_ARGS,
    ...(card ? ['card'] : []),
    ...(requirements.length === 0 ? [] : [{ requirements, index, packagesMinAgeMs }]),
    ...(environment === undefined ? [] : [{ environment: partsOf(environment) }]),
    ...(start === undefined ? [] : [{ start: [start.command, start.ready] }]),
  ];
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}
