/** Checks whether a Python version satisfies PEP 440 specifiers. */
import { satisfies, validRange } from '@renovatebot/pep440';
import { RequirementsError } from './errors.ts';

/** Python of the golden image (`image/debian.lock`). */
export const GUEST_PYTHON = '3.11.2';

/** Versions of the official image `python` that a guest can use, the first to suggest first. */
const IMAGE_PYTHONS = ['3.12', '3.13', '3.14', '3.10'];

/**
 * The image with a version of Python; null: the guest's own.
 * @param version as in `3.12` or `3.12.4`
 * @throws RequirementsError `python_unfit`
 */
export function pythonImage(version: string): string | null {
  if (`${GUEST_PYTHON}.`.startsWith(`${version}.`)) return null;
  const minor = /^(3\.\d{1,2})(?:\.\d{1,2})?$/.exec(version)?.[1];
  if (minor !== undefined && [...IMAGE_PYTHONS, '3.11'].includes(minor)) return `python:${version}-slim`;
  throw new RequirementsError('python_unfit', `there is no Python ${version.slice(0, 20)} for guests`, {
    remedy: `use ${GUEST_PYTHON} (the guest's own), one of ${IMAGE_PYTHONS.join(', ')} (official images), or --image IMAGE`,
  });
}

/**
 * @param version of the guest's Python, e.g. `3.11.2`
 * @param wanted PEP 440 specifiers, e.g. `>=3.10,<4`
 * @throws RequirementsError `project_invalid`, `python_unfit`
 */
export function requirePython(version: string, wanted: string): void {
  if (wanted.length > 200 || !validRange(wanted)) {
    throw new RequirementsError('project_invalid', `requires-python "${wanted.slice(0, 80)}" can't be read`, {
      remedy: 'write it as in ">=3.10" (PEP 440)',
    });
  }
  if (satisfies(version, wanted)) return;
  // Patch releases of the image are not known here; a late one is assumed.
  const other = IMAGE_PYTHONS.find((minor) => satisfies(`${minor}.20`, wanted));
  throw new RequirementsError('python_unfit', `Python ${wanted} is required, and the guest has ${version}`, {
    remedy: `${other === undefined ? '' : `use run --python ${other}, or `}relax requires-python, if the program works with this version`,
  });
}
