/** `[a-z0-9]{20}`, globally unique: 103 bits of randomness. Safe in paths, argv and kernel command lines. */
export type SandboxId = string & { readonly __brand: 'SandboxId' };

const SANDBOX_ID_LENGTH = 20;
const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';
const PATTERN = /^[a-z0-9]{20}$/;

export function newSandboxId(): SandboxId {
  // Loaded by the first new ID: commands that only read IDs start faster (decision 39).
  const { randomBytes } = process.getBuiltinModule('node:crypto');
  let id = '';
  while (id.length < SANDBOX_ID_LENGTH) {
    for (const byte of randomBytes(SANDBOX_ID_LENGTH)) {
      // Reject the tail so that each letter is equally likely.
      if (byte < 252 && id.length < SANDBOX_ID_LENGTH) id += ALPHABET[byte % ALPHABET.length];
    }
  }
  return id as SandboxId;
}

export function parseSandboxId(text: string): SandboxId | undefined {
  return PATTERN.test(text) ? (text as SandboxId) : undefined;
}
