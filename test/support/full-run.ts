/** Set to `full`: the nested layer runs all it has. */
export const FULL_VARIABLE = 'NEUROVISOR_NESTED';
