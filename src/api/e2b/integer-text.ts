import { z } from 'zod';

/** A number of a query: decimal digits. Nothing else is taken for one; `Number('')` would be 0. */
export const integerText = (min: number, max: number) =>
  z.preprocess(
    (given) => (typeof given === 'string' && /^\d{1,16}$/.test(given) ? Number(given) : given),
    z.number().int().min(min).max(max),
  );
