import { damaged } from './errors.ts';

/** Parses a row. Rows are validated when written, so a failure means damage. @throws StoreError `store_damaged` */
export function parseRow<T>(dir: string, what: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw damaged(`read ${what}`, dir, error);
  }
}
