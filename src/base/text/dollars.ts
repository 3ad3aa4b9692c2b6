/** Dollar amounts as decimals and as integers in billionths. Pure, without rounding. */

export const COST_DECIMALS_MAX = 9;

/** `5` or `0.25` dollars in billionths; `null` if it is no such number, or has more than 9 decimals. */
export function parseDollars(text: string): number | null {
  return scaledDecimal(text, COST_DECIMALS_MAX);
}

/** Without trailing zeros: 250,000,000 is `0.25`. */
export function dollarsText(nanoDollars: number): string {
  const digits = String(nanoDollars).padStart(COST_DECIMALS_MAX + 1, '0');
  const whole = digits.slice(0, -COST_DECIMALS_MAX);
  const fraction = digits.slice(-COST_DECIMALS_MAX).replace(/0+$/, '');
  return fraction === '' ? whole : `${whole}.${fraction}`;
}

/** The decimal times 10^`decimals`; `null` if it is not a decimal, or has more decimals. */
export function scaledDecimal(text: string, decimals: number): number | null {
  const match = /^(\d{1,9})(?:\.(\d+))?$/.exec(text);
  const fraction = match?.[2] ?? '';
  if (match === null || fraction.length > decimals) return null;
  return boundedNumber(BigInt(`${match[1]}${fraction.padEnd(decimals, '0')}`));
}

/** At most `Number.MAX_SAFE_INTEGER`. */
export function boundedNumber(value: bigint): number {
  return value > Number.MAX_SAFE_INTEGER ? Number.MAX_SAFE_INTEGER : Number(value);
}
