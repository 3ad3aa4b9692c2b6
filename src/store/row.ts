import { damaged } from './errors.ts';

/** Rows were checked when they were written; one that does not read is damage. @throws StoreError `store_damaged` */
export function parseRow<T>(dir: string, what: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw damaged(`read ${what}`, dir, error);
  }
}
