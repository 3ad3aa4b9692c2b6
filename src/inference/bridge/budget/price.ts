/**
 * What requests to a model cost. Whole numbers only: prices are trillionths of a dollar for a token, so that a price for
 * a million tokens may have 6 decimals, and costs are billionths of a dollar, rounded up. Pure.
 */
import { boundedNumber, scaledDecimal } from '../../../base/text/dollars.ts';

/** Trillionths of a dollar for a token: millionths of a dollar for a million tokens. */
export interface Price {
  readonly input: number;
  readonly output: number;
  /** Tokens of the prompt that the server has read from its cache; at most `input`. */
  readonly cachedInput: number;
}

export interface CostedTokens {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Of those of the prompt. Absent: none. */
  readonly cachedTokens?: number | undefined;
}

export const FREE: Price = { input: 0, output: 0, cachedInput: 0 };

/** Dollars for a million tokens. */
export const PRICE_DOLLARS_MAX = 100_000;
const PRICE_DECIMALS_MAX = 6;
const PICO_PER_NANO = 1000n;

/** Billionths of a dollar, at most `Number.MAX_SAFE_INTEGER`: the counts are an upstream's. */
export function costOf(
  { input, output, cachedInput }: Price,
  { promptTokens, completionTokens, cachedTokens = 0 }: CostedTokens,
): number {
  const cached = Math.min(cachedTokens, promptTokens);
  const pico =
    BigInt(promptTokens - cached) * BigInt(input) +
    BigInt(cached) * BigInt(cachedInput) +
    BigInt(completionTokens) * BigInt(output);
  return boundedNumber((pico + PICO_PER_NANO - 1n) / PICO_PER_NANO);
}

/** The longest answer, in tokens, that costs no more together with its prompt; null: any. Negative: the prompt costs more. */
export function affordableOutput(
  { input, output }: Price,
  promptTokens: number,
  costNanoDollars: number,
): number | null {
  const left = BigInt(costNanoDollars) * PICO_PER_NANO - BigInt(promptTokens) * BigInt(input);
  if (left < 0n) return -1;
  return output === 0 ? null : boundedNumber(left / BigInt(output));
}

/** No request costs more by one of these prices. */
export function dearestOf(prices: readonly Price[]): Price {
  const most = (key: keyof Price): number => Math.max(0, ...prices.map((price) => price[key]));
  return { input: most('input'), output: most('output'), cachedInput: most('cachedInput') };
}

/** In dollars for a million tokens, as its owner wrote it. */
export function dollarPrice({ input, output, cachedInput }: Price): Price {
  const scale = 10 ** PRICE_DECIMALS_MAX;
  return { input: input / scale, output: output / scale, cachedInput: cachedInput / scale };
}

/** Millionths of the number, which may have 6 decimals; null: it has more, is negative or above `PRICE_DOLLARS_MAX`. */
export function parsePrice(dollars: number): number | null {
  // The shortest text of a number is what its owner wrote.
  const scaled = scaledDecimal(String(dollars), PRICE_DECIMALS_MAX);
  return scaled === null || dollars > PRICE_DOLLARS_MAX ? null : scaled;
}
