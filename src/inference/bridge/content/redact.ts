/**
 * Finds what looks like a secret in a text, in linear time: every pattern has bounded repetitions, or one repetition
 * whose characters can't begin another match. Protects against secrets that are in a prompt by mistake, not against
 * hiding them on purpose by spaces, encodings or several messages. Pure.
 */

export interface Secret {
  /** Offsets in UTF-16 units; `end` is exclusive. */
  readonly start: number;
  readonly end: number;
  readonly kind: string;
}

/** A longer secret is recognized by its beginning and redacted up to this length or its end. */
export const SECRET_CHARACTERS_MAX = 16 * 1024;

/** Prefixes of well-known services' keys, each with the least number of characters after it. */
const KEY_PREFIXES: readonly (readonly [prefixes: string, least: number])[] = [
  // OpenAI, Anthropic, Stripe, GitHub, GitLab, Slack, Hugging Face, npm, PyPI, Docker, E2B and NeuroVisor.
  ['sk-|[sr]k_(?:live|test)_|whsec_', 16],
  ['gh[oprsu]_|github_pat_|glpat-|xox[abeoprs]-|xapp-', 10],
  ['hf_|npm_|pypi-|dckr_(?:pat|oat)_|e2b_', 16],
  // AWS, Google, DigitalOcean, Shopify, SendGrid, age.
  ['(?:AKIA|ASIA|ABIA|ACCA)(?=[A-Z0-9]{16})', 16],
  ['AIza|ya29\\.|GOCSPX-|dop_v1_|doo_v1_|shp(?:at|ca|pa|ss)_|SG\\.|AGE-SECRET-KEY-1', 16],
  // Groq, xAI, Replicate, Perplexity, NVIDIA, Tavily, Fireworks, Databricks, Linear, Notion.
  ['gsk_|xai-|r8_|pplx-|nvapi-|tvly-|fw_|dapi(?=[a-f0-9]{32})|lin_api_|ntn_', 16],
];

const PATTERNS: readonly (readonly [kind: string, pattern: RegExp])[] = [
  ['JWT', /(?<![\w-])eyJ[\w-]{8,4096}\.[\w-]{2,8192}\.[\w-]{0,4096}/g],
  ['bearer token', /(?<![A-Za-z])bearer[ \t]{1,4}(?=[\w.~+/-]{0,40}\d)[\w.~+/-]{12,8192}={0,2}/gi],
  ...KEY_PREFIXES.map(
    ([prefixes, least]) =>
      [
        'API key',
        new RegExp(`(?<![A-Za-z0-9])(?:${prefixes})[\\w.-]{${least},${SECRET_CHARACTERS_MAX}}`, 'g'),
      ] as const,
  ),
];

/** All secrets in a text, in order, without overlaps. */
export function findSecrets(text: string): readonly Secret[] {
  const found = [...privateKeys(text), ...byPatterns(text), ...mailAddresses(text), ...cards(text)];
  found.sort((a, b) => a.start - b.start || b.end - a.end);
  const merged: Secret[] = [];
  for (const secret of found) {
    const last = merged.at(-1);
    if (last === undefined || secret.start >= last.end) merged.push(secret);
    else if (secret.end > last.end) merged[merged.length - 1] = { ...last, end: secret.end };
  }
  return merged;
}

/** Redacts the part of a text between two offsets. A secret that overlaps it is replaced as a whole. */
export function redact(text: string, from = 0, to = text.length): string {
  const start = Math.max(0, from - SECRET_CHARACTERS_MAX);
  const seen = text.slice(start, to + SECRET_CHARACTERS_MAX);
  let out = '';
  let at = from - start;
  for (const secret of findSecrets(seen)) {
    if (secret.end <= at) continue;
    if (secret.start >= to - start) break;
    out += `${seen.slice(at, Math.max(at, secret.start))}[redacted: ${secret.kind}]`;
    at = secret.end;
  }
  return out + seen.slice(at, Math.max(at, to - start));
}

const BEGIN = '-----BEGIN ';
const BEGIN_LINE = /-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----/y;
const END_LINE = /-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----/;

/** PEM and PGP keys up to the end of the block, which may be cut off. */
function* privateKeys(text: string): Generator<Secret> {
  for (let start = text.indexOf(BEGIN); start >= 0; ) {
    BEGIN_LINE.lastIndex = start;
    if (!BEGIN_LINE.test(text)) {
      start = text.indexOf(BEGIN, start + 1);
      continue;
    }
    const body = text.slice(start, start + SECRET_CHARACTERS_MAX);
    const match = END_LINE.exec(body);
    const length = match === null ? body.length : match.index + match[0].length;
    yield { start, end: start + length, kind: 'private key' };
    start = text.indexOf(BEGIN, start + length);
  }
}

function* byPatterns(text: string): Generator<Secret> {
  for (const [kind, pattern] of PATTERNS) {
    for (const match of text.matchAll(pattern)) {
      yield { start: match.index, end: match.index + match[0].length, kind };
    }
  }
}

const LOCAL_MAX = 64;
const DOMAIN_MAX = 255;
const LABEL_MAX = 63;
const LABELS_MAX = 9;
const DOT = 0x2e;

/** Lookup table by ASCII code: hostile texts test each character many times. */
const tableOf = (pattern: RegExp): readonly boolean[] =>
  Array.from({ length: 128 }, (_, code) => pattern.test(String.fromCharCode(code)));
const IS_LOCAL = tableOf(/[\w.%+-]/);
const IS_LABEL = tableOf(/[A-Za-z0-9-]/);

function* mailAddresses(text: string): Generator<Secret> {
  for (let at = text.indexOf('@'); at >= 0; at = text.indexOf('@', at + 1)) {
    let start = at;
    while (at - start < LOCAL_MAX && IS_LOCAL[text.charCodeAt(start - 1)] === true) start -= 1;
    const end = start === at ? -1 : domainEnd(text, at + 1);
    if (end >= 0 && end - at - 1 <= DOMAIN_MAX) yield { start, end, kind: 'e-mail address' };
  }
}

function domainEnd(text: string, start: number): number {
  let end = -1;
  let at = start;
  for (let labels = 1; labels <= LABELS_MAX; labels += 1) {
    const label = at;
    while (at - label < LABEL_MAX && IS_LABEL[text.charCodeAt(at)] === true) at += 1;
    if (at === label) break;
    if (labels > 1) end = at;
    if (text.charCodeAt(at) !== DOT) break;
    at += 1;
  }
  return end;
}

const CARD_DIGITS_MIN = 13;
const CARD_DIGITS_MAX = 19;
/** Card numbers begin with 2 to 6 and are written in groups of at least four digits. */
const CARD_GROUP = /(?<!\d)[2-6]\d{3}/g;
const ZERO = 0x30;
const SPACE = 0x20;
const HYPHEN = 0x2d;

const digitAt = (text: string, at: number): number => text.charCodeAt(at) - ZERO;
const isDigit = (value: number): boolean => value >= 0 && value <= 9;

/** Payment card numbers: groups of digits with at most one space or hyphen between them, and a valid Luhn sum. */
function* cards(text: string): Generator<Secret> {
  CARD_GROUP.lastIndex = 0;
  while (CARD_GROUP.test(text)) {
    const start = CARD_GROUP.lastIndex - 4;
    const end = cardEnd(text, start);
    if (end >= 0) yield { start, end, kind: 'card number' };
  }
}

function cardEnd(text: string, start: number): number {
  // Luhn doubles every other digit from the right, so both sums are kept until the length is known.
  let even = 0;
  let odd = 0;
  let digits = 0;
  let found = -1;
  let digit = digitAt(text, start);
  for (let at = start; digits < CARD_DIGITS_MAX; at += 1) {
    const next = digitAt(text, at + 1);
    if (isDigit(digit)) {
      const doubled = digit > 4 ? digit * 2 - 9 : digit * 2;
      // The digits at even places are doubled if their number is even.
      even += digits % 2 === 0 ? doubled : digit;
      odd += digits % 2 === 0 ? digit : doubled;
      digits += 1;
      const isEnd = digits >= CARD_DIGITS_MIN && !isDigit(next);
      if (isEnd && (digits % 2 === 0 ? even : odd) % 10 === 0) found = at + 1;
    } else {
      const code = digit + ZERO;
      if ((code !== SPACE && code !== HYPHEN) || !isDigit(next)) break;
    }
    digit = next;
  }
  return found;
}
