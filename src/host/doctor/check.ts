/** One check of `neurovisor doctor` and its result. */
export interface Check {
  readonly name: string;
  /** `limited`: works, but not as well as it could. `unused`: absent, but nothing needs it. */
  readonly verdict: 'ok' | 'limited' | 'missing' | 'unused';
  readonly detail: string;
  readonly remedy: string | null;
}

export type Finding = Omit<Check, 'name'>;
