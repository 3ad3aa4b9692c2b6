/**
 * The cassette format: requests to models and their answers, as a text that can be kept beside a test. Pure.
 *
 *     {
 *       "neurovisorCassette": 1,
 *       "defaultModel": "m1",
 *       "exchanges": [
 *         {
 *           "request": {"dialect": "openai", "operation": "chat", "model": "m1", "stream": true, "body": {…}},
 *           "answer": {"model": "m1", "status": 200, "events": [{…}, {…}, "data: [DONE]"]}
 *         }
 *       ]
 *     }
 *
 * Requests are in their normal form (`normal-form.ts`). Answers are as the model server sent them, before the bridge
 * translated them for the guest, without what differs between runs (`stable-answer.ts`).
 */
import { z } from 'zod';
import { MIB } from '../../../base/units.ts';
import { isJsonObject, type JsonLimits, type JsonObject, parseJsonBody } from '../json-body.ts';
import { CassetteError } from './errors.ts';
import { normalRequest } from './normal-form.ts';

export const CASSETTE_BYTES_MAX = 64 * MIB;

const VERSION = 1;

/** Above everything that the bridge accepts from a guest. */
const LIMITS: JsonLimits = {
  jsonDepthMax: 200,
  jsonContainersMax: 4_000_000,
  jsonValuesMax: 16_000_000,
  jsonKeysMax: 8_000_000,
  jsonMembersMax: 10,
};

// Not z.record, which drops a member named __proto__.
const json = z.custom<JsonObject>(isJsonObject);

const request = z.strictObject({
  dialect: z.string(),
  operation: z.string(),
  model: z.string().nullable(),
  stream: z.boolean(),
  body: json,
});

const model = z.string();
const status = z.number().int().min(200).max(599);
/** True if the answer broke off, or its guest did not wait for the rest. */
const cut = z.literal(true).optional();

/** API of the model server. Default: OpenAI's. */
const api = z.literal('anthropic').optional();

const answer = z.union([
  /** An object is an event with this data; a string is a whole event without the empty line that ends it. */
  z.strictObject({ model, api, status, events: z.array(z.union([json, z.string()])), cut }),
  /** A string is a body that is not a JSON object. */
  z.strictObject({ model, api, status, body: z.union([json, z.string()]), cut }),
  z.strictObject({
    refusal: z.strictObject({
      status: z.number().int().min(400).max(599),
      code: z.string(),
      message: z.string(),
      param: z.string().optional(),
    }),
  }),
]);

const cassette = z.strictObject({
  neurovisorCassette: z.literal(VERSION),
  /** `null` if there was none. */
  defaultModel: z.string().nullable(),
  /** In order of arrival of the requests. */
  exchanges: z.array(z.strictObject({ request, answer })),
});

export type TapedAnswer = z.infer<typeof answer>;
export type TapedExchange = z.infer<typeof cassette>['exchanges'][number];
export type Cassette = Omit<z.infer<typeof cassette>, 'neurovisorCassette'>;

/** @throws CassetteError `cassette_invalid`, `cassette_too_large` */
export function parseCassette(bytes: Buffer): Cassette {
  if (bytes.length > CASSETTE_BYTES_MAX) throw cassetteTooLarge();
  const body = parseJsonBody(bytes, LIMITS);
  if (!body.ok) throw invalid(body.refusal.message.replace('The body', 'it'));
  const { neurovisorCassette: version } = body.value.value;
  if (version === undefined) throw invalid('it has no member neurovisorCassette');
  if (version !== VERSION) {
    throw invalid(`it has version ${JSON.stringify(version)}, and this NeuroVisor reads ${VERSION}`);
  }
  const parsed = cassette.safeParse(body.value.value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw invalid(`${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`);
  }
  const { defaultModel, exchanges } = parsed.data;
  return {
    defaultModel,
    // The file may be written by hand.
    exchanges: exchanges.map((one) => ({ ...one, request: normalRequest(one.request) })),
  };
}

function invalid(why: string): CassetteError {
  return new CassetteError('cassette_invalid', `not a cassette: ${why}`, {
    remedy: 'name a file that `neurovisor run --record FILE` has written, or record it again',
  });
}

export function cassetteTooLarge(): CassetteError {
  const message = `a cassette has at most ${CASSETTE_BYTES_MAX / MIB} MiB`;
  return new CassetteError('cassette_too_large', message, {
    remedy: 'record fewer or shorter requests in one cassette',
  });
}

/** Equal cassettes give equal text, in which changing one value changes one line. */
export function cassetteText({ defaultModel, exchanges }: Cassette): string {
  return `${layOut({ neurovisorCassette: VERSION, defaultModel, exchanges }, '')}\n`;
}

const LINE_CHARACTERS_MAX = 120;

/** Breaks an object or list into lines if it does not fit on one. */
function layOut(value: unknown, indent: string): string {
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    // Vectors would take a line for each number.
    if (value.every((one) => typeof one === 'number')) return JSON.stringify(value);
    return joined(
      '[',
      value.map((one) => layOut(one, inner)),
      ']',
      indent,
    );
  }
  if (!isJsonObject(value)) return JSON.stringify(value);
  const members = Object.entries(value).flatMap(([name, one]) =>
    one === undefined ? [] : [`${JSON.stringify(name)}: ${layOut(one, inner)}`],
  );
  return joined('{', members, '}', indent);
}

function joined(open: string, parts: readonly string[], close: string, indent: string): string {
  const length = parts.reduce((sum, part) => sum + part.length + 2, indent.length);
  const fits = length <= LINE_CHARACTERS_MAX && !parts.some((part) => part.includes('\n'));
  if (fits) return `${open}${parts.join(', ')}${close}`;
  const inner = `\n${indent}  `;
  return `${open}${inner}${parts.join(`,${inner}`)}\n${indent}${close}`;
}
