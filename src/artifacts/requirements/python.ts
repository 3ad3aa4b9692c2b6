/** Checks whether a Python version satisfies PEP 440 specifiers. */
import { satisfies, validRange } from '@renovatebot/pep440';
import { RequirementsError } from './errors.ts';

/** Python of the golden image (`image/debian.lock`). */
export const GUEST_PYTHON = '3.11.2';

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
  throw new RequirementsError('python_unfit', `Python ${wanted} is required, and the guest has ${version}`, {
    remedy: 'relax requires-python, if the program works with this version',
  });
}
