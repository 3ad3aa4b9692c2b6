/**
 * What a template is: a booted, warmed guest without identity, kept as three files.
 *
 *     key = digest of all it was made from ──► <cache>/template/<key>/  ram  state  disk.ext4  manifest.json
 *
 * Two keys that differ in anything are two templates: one is never loaded in place of the other.
 */
import { createHash } from 'node:crypto';
import type { VmmCapabilities } from '../../vmm/driver.ts';
import { DEFAULTS, type SandboxOptions, type TemplateSpec } from '../spec.ts';

/** What a template is made from. */
export interface TemplateInputs {
  readonly spec: TemplateSpec;
  readonly kernelDigest: string;
  /** Covers the agent and its protocol. */
  readonly rootImageDigest: string;
  /** VMM, version, accelerator, processor, devices: `VmmDriver.machineOf`. */
  readonly machine: string;
  /** Variables that modules see when they are imported. */
  readonly env: Readonly<Record<string, string>>;
}

export const TEMPLATE_FILES = { ram: 'ram', state: 'state', disk: 'disk.ext4' } as const;

/** What an agent with a model needs, ten seconds of imports in software emulation. */
export const DEFAULT_WARM: readonly string[] = [
  'json',
  'numpy',
  'langchain_core.messages',
  'langchain_core.tools',
  'langchain_openai',
];

/** The template that `run` uses unless it is told otherwise. */
export const DEFAULT_TEMPLATE: TemplateSpec = { ...DEFAULTS, warm: DEFAULT_WARM };

/**
 * Of the guest's kernel. Free pages hold zeros, so they need not be kept or copied, and nothing that the
 * build once had in memory is in a clone.
 */
export const TEMPLATE_BOOT_ARGS: readonly string[] = ['init_on_free=1'];

/** Raise when a template is built in another way. */
const FORMAT = 2;

/** Whether a clone can become what is asked for. Templates have a console that is logged, and no network card. */
export function canBeCloned(
  { console = 'log', network = null, secrets = [] }: SandboxOptions,
  { hotplugNic }: Pick<VmmCapabilities, 'hotplugNic'>,
): boolean {
  // Secrets come with a network.
  const wantsCard = network !== null || secrets.length > 0;
  return console === 'log' && (hotplugNic || !wantsCard);
}

/** Hexadecimal SHA-256. */
export function templateKey(inputs: TemplateInputs): string {
  const { spec, kernelDigest, rootImageDigest, machine, env } = inputs;
  const { cpus, memoryMib, memoryMaxMib, diskMib, warm } = spec;
  const parts = [
    FORMAT,
    [cpus, memoryMib, diskMib, ...(memoryMaxMib === undefined ? [] : [memoryMaxMib])],
    warm,
    [kernelDigest, rootImageDigest, machine],
    Object.entries(env).sort(([a], [b]) => (a < b ? -1 : 1)),
    TEMPLATE_BOOT_ARGS,
  ];
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}
