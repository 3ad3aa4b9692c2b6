/** Imported first: on an older Node the library would fail later, and without a reason. */

/** As the package's `engines`. */
export const NODE_MIN = '24.5';

/** @throws Error */
export function requireNode(version: string): void {
  if (NODE_MIN.localeCompare(version, 'en', { numeric: true }) <= 0) return;
  throw new Error(
    `neurovisor needs Node ${NODE_MIN} or newer; this is ${version}. Install a newer Node, ` +
      'or run the program with: npx --package=node@24 node PROGRAM',
  );
}

requireNode(process.versions.node);
