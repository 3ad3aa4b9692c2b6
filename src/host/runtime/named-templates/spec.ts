/** The spec of a request's template. */
import { parseRequirements } from '../../../artifacts/requirements/requirement.ts';
import type { VmmDriver } from '../../../machine/vmm/driver.ts';
import type { PoolMembers } from '../../../sandbox/contract/control.ts';
import type { EnvironmentSource } from '../../../sandbox/contract/environment.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { DEFAULTS } from '../../../sandbox/contract/limits.ts';
import { installAge } from '../../../sandbox/contract/packages.ts';
import type { SandboxOptions, TemplateSpec } from '../../../sandbox/contract/spec.ts';
import { canBeCloned, DEFAULT_WARM } from '../../../sandbox/start/template.ts';

/** The part of the options that a template fixes. */
export function templateSpec(
  options: SandboxOptions & Pick<PoolMembers, 'card' | 'packagesMinAgeMs'>,
  image?: EnvironmentSource | undefined,
): TemplateSpec {
  const { cpus = DEFAULTS.cpus, memoryMib = DEFAULTS.memoryMib } = options;
  const { diskMib = DEFAULTS.diskMib, warm = [], memoryMaxMib, card = false } = options;
  const requirements = checkRequirements(options.requirements ?? []);
  const more = {
    ...(requirements.length === 0 ? {} : { requirements, ...installAge(options) }),
    ...(memoryMaxMib === undefined ? {} : { memoryMaxMib }),
    ...(card ? { card } : {}),
    ...(image === undefined ? {} : { environment: image.environment }),
  };
  // An image may have other modules, or no Python.
  const usual = image === undefined ? DEFAULT_WARM : NO_WARM;
  return { cpus, memoryMib, ...more, diskMib, warm: warm.length === 0 ? usual : warm };
}

const NO_WARM: readonly string[] = [];

/** @throws SandboxError `spec_invalid` */
export function checkRequirements(given: readonly string[]): readonly string[] {
  try {
    return parseRequirements(given);
  } catch (error) {
    throw new SandboxError('spec_invalid', 'sandbox option requirements', { cause: error });
  }
}

export function withoutTemplates({ description }: VmmDriver, options: SandboxOptions): SandboxError {
  const cause = canBeCloned(options)
    ? `${description} takes no snapshots`
    : 'a sandbox with an interactive console boots without a template';
  return new SandboxError('spec_invalid', 'this sandbox needs a template', { cause });
}

/** Also for an image: its first sandbox builds a template for the next. */
export function hasDefaults({ warm, memoryMaxMib, ...size }: TemplateSpec): boolean {
  const isDefaultSize = Object.entries(DEFAULTS).every(([name, value]) => size[name as keyof typeof size] === value);
  return isDefaultSize && memoryMaxMib === undefined && (warm === DEFAULT_WARM || warm === NO_WARM);
}
