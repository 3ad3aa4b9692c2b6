/**
 * The only way to drop an error: with a reason, and counted, so that a flood of "harmless" errors shows.
 */
const ignored = new Map<string, number>();

export function ignore(_error: unknown, reason: string): void {
  ignored.set(reason, (ignored.get(reason) ?? 0) + 1);
}

/** How often each reason was given, for diagnostics. */
export function ignoredCounts(): ReadonlyMap<string, number> {
  return ignored;
}
