/**
 * Reads a guest's `multipart/form-data` (RFC 7578) and writes it anew for the upstream, so that two parsers can't
 * disagree on the parts of one body. Pure.
 *
 *     body ─► boundary ─► parts ─► names, texts and one file ─► checks of the dialect ─► another body, another boundary
 *
 * Reads one whole buffer in the thread that checks it, and copies no file. E2B uploads have no limit, so they pass
 * through a streaming parser instead.
 */
import { isUtf8 } from 'node:buffer';
import { randomBytes } from 'node:crypto';
import { assert } from '../../../base/assert.ts';
import { accepted, type Checked, refused } from '../../../base/http/refusal.ts';
import { KIB } from '../../../base/units.ts';

export const FORM_LIMITS = {
  /** A form of OpenAI's client has at most 11 parts. */
  partsMax: 64,
  partHeaderBytesMax: 2 * KIB,
  /** Limit of one text. The longest one is a prompt. */
  textBytesMax: 64 * KIB,
  /** Limit of texts with the same name ending in `[]`. */
  listMax: 16,
  fileNameCharactersMax: 100,
} as const;

export interface UploadForm {
  readonly texts: readonly (readonly [string, string])[];
  readonly file: UploadFile | undefined;
}

export interface UploadFile {
  readonly start: number;
  readonly end: number;
  /** Sanitized; its extension is kept, since servers derive the format from it. */
  readonly name: string;
  /** `null` if it is no audio type. */
  readonly type: string | null;
}

/** The only name of a file. */
const FILE = 'file';
const CRLF = '\r\n';
/** RFC 2046, without the characters that would need quotes in a parameter. */
const BOUNDARY = /^[\w'()+,\-./:=? ]{0,69}[\w'()+,\-./:=?]$/;
const PARAMETER = /[ \t]*;[ \t]*([a-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s";]+))/iy;
const SOUND = /^(?:(?:audio|video)\/[a-z0-9][a-z0-9.+-]{0,60}|application\/(?:ogg|octet-stream))$/;
/** Other transfer encodings would change the meaning of a part's bytes. */
const PLAIN_ENCODING = /^(?:binary|7bit|8bit)$/i;
const WRITTEN_NAME = /^[\w$.-]{1,200}(?:\[\])?$/;
const SHOWN_CHARACTERS_MAX = 60;

export function readForm(bytes: Buffer, contentType: string | undefined): Checked<UploadForm> {
  const boundary = boundaryOf(contentType ?? '');
  if (boundary === undefined) {
    return invalid('its header content-type names no multipart/form-data with one boundary');
  }
  const delimiter = Buffer.from(`${CRLF}--${boundary}`);
  const first = delimiter.subarray(CRLF.length);
  if (!bytes.subarray(0, first.length).equals(first)) return invalid('it begins with no part');
  const reader = new FormReader(bytes);
  for (let at = first.length; ; ) {
    const next = bytes.toString('latin1', at, at + 2);
    if (next === '--') return isEnd(bytes, at + 2) ? reader.form() : invalid('bytes follow its end');
    if (next !== CRLF) return invalid('its boundary is within a line, or its end is missing');
    const end = bytes.indexOf(delimiter, at);
    if (end < 0) return invalid('its end is missing');
    const failed = reader.part(at + CRLF.length, end);
    if (failed !== undefined) return failed;
    at = end + delimiter.length;
  }
}

type Failure = Checked<never> | undefined;

class FormReader {
  readonly #bytes: Buffer;
  readonly #texts: (readonly [string, string])[] = [];
  readonly #counts = new Map<string, number>();
  #file: UploadFile | undefined;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  form(): Checked<UploadForm> {
    return accepted({ texts: this.#texts, file: this.#file });
  }

  /** @param start offset of its headers; @param end offset after its content */
  part(start: number, end: number): Failure {
    if (this.#texts.length + (this.#file === undefined ? 0 : 1) >= FORM_LIMITS.partsMax) {
      return invalid(`it has more than ${FORM_LIMITS.partsMax} parts`);
    }
    const most = Math.min(end, start + FORM_LIMITS.partHeaderBytesMax);
    const head = this.#bytes.subarray(start, most);
    const length = head.indexOf(CRLF + CRLF);
    if (length < 0) return invalid('the headers of a part do not end, or are too long');
    const read = readHeaders(head.subarray(0, length));
    if (!read.ok) return read;
    const { name, fileName, type } = read.value;
    const counted = this.#count(name);
    if (counted !== undefined) return counted;
    const content = start + length + 2 * CRLF.length;
    if ((name === FILE) !== (fileName !== undefined)) return wrongKind(name);
    if (fileName === undefined) return this.#text(name, content, end);
    this.#file = { start: content, end, name: safeName(fileName), type };
    return undefined;
  }

  #count(name: string): Failure {
    const count = (this.#counts.get(name) ?? 0) + 1;
    this.#counts.set(name, count);
    if (count <= (isList(name) ? FORM_LIMITS.listMax : 1)) return undefined;
    const message = `"${shown(name)}" occurs ${isList(name) ? 'too often' : 'twice'} in the form.`;
    return refused(400, 'invalid_value', message, { param: shown(name) });
  }

  #text(name: string, start: number, end: number): Failure {
    const { textBytesMax } = FORM_LIMITS;
    const bytes = this.#bytes.subarray(start, end);
    const why =
      bytes.length > textBytesMax ? `is longer than ${textBytesMax} bytes` : isUtf8(bytes) ? undefined : 'is not UTF-8';
    if (why !== undefined) {
      return refused(400, 'invalid_value', `"${shown(name)}" ${why}.`, { param: shown(name) });
    }
    this.#texts.push([name, bytes.toString('utf8')]);
    return undefined;
  }
}

export const isList = (name: string): boolean => name.endsWith('[]');

function isEnd(bytes: Buffer, at: number): boolean {
  const rest = bytes.length - at;
  return rest === 0 || (rest === CRLF.length && bytes.toString('latin1', at) === CRLF);
}

function boundaryOf(contentType: string): string | undefined {
  // A boundary has no character that separates parameters.
  const [type = '', ...parameters] = contentType.split(';').map((part) => part.trim());
  if (type.toLowerCase() !== 'multipart/form-data') return undefined;
  const named = parameters.flatMap((one) => /^boundary=(.*)$/i.exec(one)?.[1] ?? []);
  const boundary = /^"(.*)"$/.exec(named[0] ?? '')?.[1] ?? named[0] ?? '';
  return named.length === 1 && BOUNDARY.test(boundary) ? boundary : undefined;
}

interface PartHead {
  readonly name: string;
  /** Undefined for a text field. */
  readonly fileName: string | undefined;
  readonly type: string | null;
}

function readHeaders(bytes: Buffer): Checked<PartHead> {
  if (!isUtf8(bytes)) return invalid('the headers of a part are not UTF-8');
  const headers = new Map<string, string>();
  for (const line of bytes.toString('utf8').split(CRLF)) {
    const [, name, value] = /^([!-9;-~]{1,60}):[ \t]*([^\r\n\0]*)$/.exec(line) ?? [];
    if (name === undefined || value === undefined) return invalid('a part has a malformed header');
    if (headers.has(name.toLowerCase())) return invalid('a header of a part occurs twice');
    headers.set(name.toLowerCase(), value.trimEnd());
  }
  const encoding = headers.get('content-transfer-encoding') ?? 'binary';
  if (!PLAIN_ENCODING.test(encoding)) {
    return invalid('a part has a content-transfer-encoding: send its bytes as they are');
  }
  const disposition = dispositionOf(headers.get('content-disposition') ?? '');
  if (disposition === undefined) {
    return invalid('a part has no content-disposition "form-data" with a name');
  }
  const type = (headers.get('content-type') ?? '').split(';')[0]?.trim().toLowerCase() ?? '';
  return accepted({ ...disposition, type: SOUND.test(type) ? type : null });
}

function dispositionOf(value: string): Pick<PartHead, 'name' | 'fileName'> | undefined {
  const kind = 'form-data';
  if (value.slice(0, kind.length).toLowerCase() !== kind) return undefined;
  const parameters = new Map<string, string>();
  PARAMETER.lastIndex = kind.length;
  for (let at = kind.length; at < value.length; at = PARAMETER.lastIndex) {
    const [, key, quoted, token] = PARAMETER.exec(value) ?? [];
    if (key === undefined || parameters.has(key.toLowerCase())) return undefined;
    parameters.set(key.toLowerCase(), quoted?.replaceAll(/\\(["\\])/g, '$1') ?? token ?? '');
  }
  const name = parameters.get('name');
  if (name === undefined || name === '') return undefined;
  return { name, fileName: parameters.get('filename') ?? parameters.get('filename*') };
}

function safeName(name: string): string {
  const base = name.slice(Math.max(name.lastIndexOf('/'), name.lastIndexOf('\\')) + 1);
  const safe = base.replaceAll(/[^\w.-]/g, '_').slice(-FORM_LIMITS.fileNameCharactersMax);
  return safe.replace(/^[.-]+/, '') || 'audio';
}

/**
 * Returns the form in pieces, its file not copied. The guest can't know the boundary: it is random and chosen after the
 * body arrived.
 * @param bytes the body that was read
 */
export function writeForm(
  { texts, file }: UploadForm,
  bytes: Buffer,
  boundary: string = randomBytes(24).toString('hex'),
): { readonly contentType: string; readonly body: readonly Buffer[] } {
  const head = (name: string, more = ''): string => {
    assert(WRITTEN_NAME.test(name), 'the name of a field has been checked');
    return `--${boundary}${CRLF}Content-Disposition: form-data; name="${name}"${more}${CRLF}${CRLF}`;
  };
  const fields = texts.map(([name, text]) => `${head(name)}${text}${CRLF}`).join('');
  const body: Buffer[] = [];
  if (file === undefined) body.push(Buffer.from(fields));
  else {
    const type = file.type === null ? '' : `${CRLF}Content-Type: ${file.type}`;
    const own = head(FILE, `; filename="${file.name}"${type}`);
    body.push(Buffer.from(fields + own), bytes.subarray(file.start, file.end), Buffer.from(CRLF));
  }
  body.push(Buffer.from(`--${boundary}--${CRLF}`));
  return { contentType: `multipart/form-data; boundary=${boundary}`, body };
}

function wrongKind(name: string): Checked<never> {
  const message =
    name === FILE ? '"file" must be a file: give its part a filename.' : `"${shown(name)}" must not be a file.`;
  return refused(400, 'invalid_value', message, { param: shown(name) });
}

function invalid(why: string): Checked<never> {
  const message = `The body is not a valid form of the type multipart/form-data: ${why}.`;
  return refused(400, 'invalid_form', message);
}

const shown = (text: string): string => text.slice(0, SHOWN_CHARACTERS_MAX);
