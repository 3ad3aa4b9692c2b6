/**
 * The allowlist of a request's fields. Model servers have hundreds of options, which name hosts, files, caches, queues
 * and tools of the host, and get new ones with each version. So only listed fields go upstream.
 *
 *     body ─► key listed? ─► shape of its value ─► strings: label, prose, media, base64
 *              └── no: refused, unless the sandbox's owner allowed it by its path
 *
 * Keys must be spelled as listed. Servers in Go accept `TOOLS` and `toolſ` for `tools`; here they are unknown. An
 * `open` field has keys of the guest's choice, which no server interprets: JSON Schemas, arguments, labels.
 *
 * Remote media: model servers fetch the URLs in `image_url` and similar fields themselves, from the host's network.
 * Through them a guest without a network card could reach the cloud's metadata service. So media must be `data:` URLs.
 */

import { accepted, type Checked, type Refusal, refused } from '../../base/http/refusal.ts';
import { isFieldPath } from '../../base/text/field-path.ts';
import { isJsonObject, type JsonObject } from './json-body.ts';
import { estimatedTokens } from './token-estimate.ts';

export interface Shape {
  /**
   * `label`: any string. `prose`: any string, counted as text for the model. `media`: a `data:` URL. `base64`: must not
   * refer to another resource. If absent, strings are refused.
   */
  readonly strings?: 'label' | 'prose' | 'media' | 'base64';
  /** The only accepted values, besides null. */
  readonly only?: readonly (string | boolean)[];
  /** Members of an object. Objects are refused if both this and `others` are absent. */
  readonly fields?: Fields;
  /** Shape of members with other names; refused if absent. */
  readonly others?: Shape;
}

/**
 * A list is checked element by element. `open`: not checked. `inert`: strings at any depth must not refer to another
 * resource.
 */
export type Fields = { readonly [name: string]: Shape | 'open' | 'inert' };

export const LABEL: Shape = { strings: 'label' };

export const object = (fields: Fields, strings?: Shape['strings']): Shape =>
  strings === undefined ? { fields } : { fields, strings };

/** @param names separated by white space */
export const labels = (names: string): Fields => Object.fromEntries(names.split(/\s+/).map((name) => [name, LABEL]));

/** Why fields are refused, for their errors; by name, at any depth. */
export type Hazards = ReadonlyMap<string, Hazard>;

interface Hazard {
  readonly code: string;
  readonly why: string;
}

/** @param names separated by white space */
export const hazards = (code: string, why: string, names: string): readonly [string, Hazard][] =>
  names.split(/\s+/).map((name) => [name, { code, why }]);

/** Paths of fields that pass unchecked with everything in them, e.g. `enable_search`, `messages.content.uuid`. */
export type AllowedFields = ReadonlySet<string>;

const REFERENCE = /^\s*(?:[a-z][a-z0-9+.-]*:\/\/|(?:file|https?|ftp|blob|s3|gs):)/i;
const DATA_URL = /^data:/i;
const SHOWN_CHARACTERS_MAX = 60;

/** Refuses fields that `fields` does not list. @returns the estimated number of tokens in `body` */
export function checkFields(
  body: JsonObject,
  fields: Fields,
  options: { readonly hazards: Hazards; readonly allowed: AllowedFields },
): Checked<number> {
  const walk = new Walk(options.hazards, options.allowed);
  const refusal = walk.members(body, { fields }, '');
  return refusal === undefined ? accepted(walk.tokens) : { ok: false, refusal };
}

/**
 * Servers in Go match keys case-insensitively with Unicode folding (`ſ` is s, `K` is k); lower case alone would miss
 * those.
 */
export function foldKey(key: string): string {
  return key.toUpperCase().toLowerCase();
}

class Walk {
  readonly #hazards: Hazards;
  readonly #allowed: AllowedFields;
  #characters = 0;
  #tokenIds = 0;

  constructor(hazards: Hazards, allowed: AllowedFields) {
    this.#hazards = hazards;
    this.#allowed = allowed;
  }

  get tokens(): number {
    return this.#tokenIds + estimatedTokens(this.#characters);
  }

  members(object: JsonObject, { fields = {}, others }: Shape, prefix: string): Refusal | undefined {
    for (const [key, value] of Object.entries(object)) {
      if (this.#allowed.size > 0 && this.#allowed.has(prefix + key)) continue;
      const shape = Object.hasOwn(fields, key) ? fields[key] : others;
      const refusal =
        shape === undefined ? this.#unlisted(key, fields, prefix) : this.#value(value, shape, prefix + key);
      if (refusal !== undefined) return refusal;
    }
    return undefined;
  }

  /** Recursion is at most as deep as the lists and shapes, which the JSON limits bound. */
  #value(value: unknown, shape: Fields[string], path: string): Refusal | undefined {
    if (value === null || shape === 'open') return undefined;
    if (shape === 'inert') return hasReference(value) ? mediaRefused(path) : undefined;
    if (Array.isArray(value)) {
      for (const child of value) {
        if (typeof child === 'number' && shape.strings === 'prose') this.#tokenIds += 1;
        const refusal = this.#value(child, shape, path);
        if (refusal !== undefined) return refusal;
      }
      return undefined;
    }
    if (isJsonObject(value)) {
      const isObject = shape.fields !== undefined || shape.others !== undefined;
      return isObject ? this.members(value, shape, `${path}.`) : wrongKind(path, 'an object');
    }
    if (shape.only?.some((one) => one === value) === false) return this.#otherValue(path, value);
    return typeof value === 'string' ? this.#string(value, shape, path) : undefined;
  }

  #string(value: string, { strings }: Shape, path: string): Refusal | undefined {
    if (strings === undefined) return wrongKind(path, 'a string');
    if (strings === 'prose') this.#characters += value.length;
    const isRemote = (strings === 'media' && !DATA_URL.test(value)) || (strings === 'base64' && REFERENCE.test(value));
    return isRemote ? mediaRefused(path) : undefined;
  }

  #unlisted(key: string, fields: Fields, prefix: string): Refusal {
    const folded = foldKey(key);
    const path = prefix + key;
    const known = this.#hazards.get(folded);
    if (known !== undefined) return unlisted(path, known.code, known.why);
    if (key !== folded && Object.hasOwn(fields, folded)) {
      const message = `"${shorten(path)}" is misspelled: write "${prefix}${folded}".`;
      return refused(400, 'invalid_value', message, { param: shorten(path) }).refusal;
    }
    return unlisted(path, 'field_refused', 'the bridge does not know it');
  }

  #otherValue(path: string, value: unknown): Refusal {
    const shown = JSON.stringify(value).slice(0, SHOWN_CHARACTERS_MAX);
    const known = this.#hazards.get(path);
    const { code, why } = known ?? { code: 'field_refused', why: 'a sandbox may not set that' };
    return unlisted(path, code, why, ` with the value ${shown}`);
  }
}

function hasReference(root: unknown): boolean {
  const open = [root];
  for (let value = open.pop(); value !== undefined; value = open.pop()) {
    if (typeof value === 'string' && REFERENCE.test(value)) return true;
    if (typeof value !== 'object' || value === null) continue;
    for (const child of Object.values(value)) if (child !== null) open.push(child);
  }
  return false;
}

function unlisted(path: string, code: string, why: string, value = ''): Refusal {
  const allow = isFieldPath(path) ? `, or allow it on the host with --allow-field ${path}` : '';
  const message = `"${shorten(path)}"${value} is refused: ${why}. Remove it${allow}.`;
  return refused(400, code, message, { param: shorten(path) }).refusal;
}

function mediaRefused(path: string): Refusal {
  const message =
    `Remote media is refused: "${path}" must be a data: URL, because the model server would fetch ` +
    'it from the host network. Read the file in the sandbox and send it as data:<type>;base64,…';
  return refused(400, 'remote_media_refused', message, { param: path }).refusal;
}

function wrongKind(path: string, kind: string): Refusal {
  return refused(400, 'invalid_value', `"${path}" must not be ${kind}.`, { param: path }).refusal;
}

const shorten = (text: string): string => text.slice(0, SHOWN_CHARACTERS_MAX);
