/**
 * Prices and costs of model requests. Whole numbers only: prices are trillionths of a dollar per token, so that a price
 * per million tokens may have 6 decimals; costs are billionths of a dollar, rounded up. Pure.
 */
import { boundedNumber, scaledDecimal } from '../../../base/text/dollars.ts';

/** In trillionths of a dollar per token, which equal millionths of a dollar per million tokens. */
export interface Price {
  readonly input: number;
  readonly output: number;
  /** Price of prompt tokens that the server has read from its cache; at most `input`. */
  readonly cachedInput: number;
}

export interface CostedTokens {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Prompt tokens served from the cache. Default: 0. */
  readonly cachedTokens?: number | undefined;
}

export const FREE: Price = { input: 0, output: 0, cachedInput: 0 };

/** Dollars per million tokens. */
export const PRICE_DOLLARS_MAX = 100_000;
const PRICE_DECIMALS_MAX = 6;
const PICO_PER_NANO = 1000n;

/** Cost in billionths of a dollar, at most `Number.MAX_SAFE_INTEGER`, since the counts come from an upstream. */
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

/**
 * The longest affordable answer in tokens, after its prompt; `null` if unlimited, negative if the prompt alone costs
 * more.
 */
export function affordableOutput(
  { input, output }: Price,
  promptTokens: number,
  costNanoDollars: number,
): number | null {
  const left = BigInt(costNanoDollars) * PICO_PER_NANO - BigInt(promptTokens) * BigInt(input);
  if (left < 0n) return -1;
  return output === 0 ? null : boundedNumber(left / BigInt(output));
}

/** A price at which each request costs at least as much as at any of these. */
export function dearestOf(prices: readonly Price[]): Price {
  const most = (key: keyof Price): number => Math.max(0, ...prices.map((price) => price[key]));
  return { input: most('input'), output: most('output'), cachedInput: most('cachedInput') };
}

/** The price in dollars per million tokens, as its owner wrote it. */
export function dollarPrice({ input, output, cachedInput }: Price): Price {
  const scale = 10 ** PRICE_DECIMALS_MAX;
  return { input: input / scale, output: output / scale, cachedInput: cachedInput / scale };
}

/** Millionths of the number. `null` if it has more than 6 decimals, is negative or exceeds `PRICE_DOLLARS_MAX`. */
export function parsePrice(dollars: number): number | null {
  // The shortest text of a number is what its owner wrote.
  const scaled = scaledDecimal(String(dollars), PRICE_DECIMALS_MAX);
  return scaled === null || dollars > PRICE_DOLLARS_MAX ? null : scaled;
}
