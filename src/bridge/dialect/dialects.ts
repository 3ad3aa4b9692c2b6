import type { Dialect } from './dialect.ts';
import { openaiDialect } from './openai/openai.ts';

/** By name: a dialect has functions, so a thread gets its name. */
export const DIALECTS: Readonly<Record<string, Dialect>> = { [openaiDialect.name]: openaiDialect };
