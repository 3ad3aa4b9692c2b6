/** A request that names a template: the values that the template fixes, and those that the request may add. */
import type { CreateRequest, PoolMembers } from '../../../sandbox/contract/control.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { installAge } from '../../../sandbox/contract/packages.ts';
import type { SandboxOptions } from '../../../sandbox/contract/spec.ts';
import type { NamedTemplate } from '../../../sandbox/start/template.ts';

const SIZES = ['cpus', 'memoryMib', 'memoryMaxMib', 'diskMib'] as const;

/** @throws SandboxError `spec_invalid` */
export function checkNamedRequest({ template = '', ...request }: CreateRequest): void {
  if (request.snapshot !== undefined) {
    throw refused('a template and a snapshot are mutually exclusive', 'omit one of them');
  }
  if (request.boot === true) {
    throw refused(`template "${template}" and a boot are mutually exclusive`, 'omit one of them');
  }
  if (request.console === 'interactive') {
    throw refused(
      `a sandbox with an interactive console (-it) can't start from template "${template}"`,
      'omit one of them, or use create and shell with the daemon',
    );
  }
}

/**
 * The options plus the template's fixed values. A request may repeat a fixed value.
 * @param given with parsed requirements
 * @throws SandboxError `spec_invalid`
 */
export function withTemplate<T extends SandboxOptions | PoolMembers>(
  { name, spec }: Pick<NamedTemplate, 'name' | 'spec'>,
  given: T,
): T {
  for (const field of SIZES) {
    const wanted = given[field];
    if (wanted === undefined || wanted === spec[field]) continue;
    throw refused(
      `sandbox option ${field}: template "${name}" has ${spec[field] ?? 'none'}, not ${wanted}`,
      'omit it, or build a template of that size: neurovisor template create -t NAME',
    );
  }
  const warm = given.warm ?? [];
  if (warm.length > 0 && warm.join() !== spec.warm.join()) {
    throw refused(
      `sandbox option warm: template "${name}" has its own modules`,
      'omit it (--warm), or build a template with these modules: neurovisor template create -t NAME --warm MODULE',
    );
  }
  const { image } = given;
  if (image !== undefined && image !== spec.environment?.image) {
    const has = spec.environment === undefined ? 'no image' : spec.environment.image;
    throw refused(
      `sandbox option image: template "${name}" has ${has}, not ${image.slice(0, SHOWN_CHARACTERS)}`,
      'omit it, or build a template with that image: neurovisor template create -t NAME',
    );
  }
  const missing = (given.requirements ?? []).filter((one) => !isMet(one, spec.requirements ?? []));
  if (missing.length > 0) {
    throw refused(
      `template "${name}" does not have ${missing.slice(0, SHOWN_MAX).join(', ').slice(0, SHOWN_CHARACTERS)}`,
      'build a template with it (neurovisor template create -t NAME --with …), or omit it ' +
        '(for what a script names itself: run --no-requirements)',
    );
  }
  const { packagesMinAgeMs: age = 0 } = installAge(given);
  if ((given.requirements ?? []).length > 0 && age > (spec.packagesMinAgeMs ?? 0)) {
    throw refused(
      `template "${name}" may have younger packages than the minimum age`,
      'build a template with that age (neurovisor template create -t NAME --packages-min-age …), or omit it (--packages-min-age)',
    );
  }
  const { cpus, memoryMib, memoryMaxMib, diskMib, requirements } = spec;
  return { ...given, cpus, memoryMib, memoryMaxMib, diskMib, requirements, image: undefined };
}

const SHOWN_MAX = 4;
const SHOWN_CHARACTERS = 200;

/** A bare name matches any version. */
function isMet(wanted: string, has: readonly string[]): boolean {
  if (has.includes(wanted)) return true;
  return has.some((one) => /^[a-z0-9-]+/.exec(one)?.[0] === wanted);
}

function refused(message: string, remedy: string): SandboxError {
  return new SandboxError('spec_invalid', message, { remedy });
}
