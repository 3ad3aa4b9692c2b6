/** Sizes and other numbers with units, as display text. */

/** `512 B`, `3.4 KiB`, `120 MiB`. */
export function bytes(count: number): string {
  return inUnits(count, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']);
}

/**
 * A number in the largest unit that it reaches, each `step` times the previous one; below 100 with one decimal, except
 * in the first unit.
 */
export function inUnits(count: number, step: number, units: readonly string[]): string {
  let value = count;
  let unit = 0;
  while (value >= step && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}
