/** Limits of all Python requirements of a template together; a locked project with thousands of hashes stays below. */
export const REQUIREMENT_LIMITS = { lines: 5_000, lineCharacters: 32_768, characters: 2_000_000 };
