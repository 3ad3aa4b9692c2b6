/**
 * The contents of model requests and answers that a log keeps.
 *
 * `off`: nothing · `hash`: SHA-256 of the request and of the answer's text · `redacted`: both, without what looks like
 * a secret · `full`: both, and the hashes.
 */
export const CONTENT_MODES = ['off', 'hash', 'redacted', 'full'] as const;
export type ContentMode = (typeof CONTENT_MODES)[number];
