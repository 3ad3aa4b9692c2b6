/** Imported first: on an older Node the library would fail later, and without a reason. */

export const NODE_MAJOR_MIN = 24;

/** @throws Error */
export function requireNode(version: string): void {
  if (Number.parseInt(version, 10) >= NODE_MAJOR_MIN) return;
  throw new Error(
    `neurovisor needs Node ${NODE_MAJOR_MIN} or newer; this is ${version}. Install a newer Node, ` +
      `or run the program with: npx --package=node@${NODE_MAJOR_MIN} node PROGRAM`,
  );
}

requireNode(process.versions.node);
