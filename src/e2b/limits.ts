/** Limits of what clients of the E2B interface may send and hold. */
export const E2B_LIMITS = {
  /** Id in a request, characters: ours have 20, a header may hold anything. */
  idCharactersMax: 64,
  /** One JSON message of a remote procedure call, bytes: a program's environment, or input for it. */
  messageBytesMax: 4 * 1024 * 1024,
  /** Seconds of a sandbox's life if the request names none: of today's requests, and of those before version 2. */
  timeoutSeconds: { v2: 300, v1: 15 },
  /** Silence on a stream after which `keepalive` is sent, milliseconds, unless the client asks for another. */
  keepAliveMs: 90_000,
  keepAliveMsMin: 1000,
  /** Time for which the end of a program is kept for a client that comes back, milliseconds. */
  exitKeptMs: 30_000,
  /** A program's time if the client names none, milliseconds; no header means no limit. */
  stdioChunkBytesMax: 32 * 1024,
} as const;
