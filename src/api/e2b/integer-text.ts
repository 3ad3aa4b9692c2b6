import { z } from 'zod';

/** A number in a query: only decimal digits, since `Number('')` would be 0. */
export const integerText = (min: number, max: number) =>
  z.preprocess(
    (given) => (typeof given === 'string' && /^\d{1,16}$/.test(given) ? Number(given) : given),
    z.number().int().min(min).max(max),
  );
