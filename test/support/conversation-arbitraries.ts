/** Arbitraries of conversations and upstream answers, for properties of the dialects. */
import fc from 'fast-check';
import { systemClock } from '../../src/base/clock.ts';
import type { AnswerOptions } from '../../src/inference/bridge/dialect/dialect.ts';
import type { Message, Part } from '../../src/inference/bridge/dialect/model.ts';

export const words = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 });
/** As JSON parses it: without -0. */
export const object = fc
  .dictionary(fc.string({ maxLength: 4 }), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 3, noNullPrototype: true })
  .map((value) => JSON.parse(JSON.stringify(value)) as typeof value);
export const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });

export const tool = fc.record({ name: words, description: maybe(words), schema: object, strict: maybe(fc.boolean()) });

const text = fc.record({ type: fc.constant('text' as const), text: words });
const image = fc.record({
  type: fc.constant('image' as const),
  mediaType: fc.constantFrom('image/png', 'image/webp'),
  data: fc.base64String({ maxLength: 16 }),
});
const assistantParts: fc.Arbitrary<readonly Part[]> = fc.array(
  fc.oneof(
    text,
    fc.record({ type: fc.constant('reasoning' as const), text: words }),
    fc.record({ type: fc.constant('tool-call' as const), id: words, name: words, input: object }),
  ),
  { minLength: 1, maxLength: 4 },
);

/** Turns of a user and the model. @param isError whether a tool result is an error */
export function messagesWith(isError: fc.Arbitrary<boolean>): fc.Arbitrary<readonly Message[]> {
  const result = fc.record({
    type: fc.constant('tool-result' as const),
    id: words,
    isError,
    content: fc.array(fc.oneof(text, image), { maxLength: 3 }),
  });
  const userParts: fc.Arbitrary<readonly Part[]> = fc.array(fc.oneof(text, image, result), {
    minLength: 1,
    maxLength: 4,
  });
  return fc.array(fc.tuple(userParts, assistantParts), { minLength: 1, maxLength: 3 }).map((turns) =>
    turns.flatMap(([user, assistant]): Message[] => [
      { role: 'user', parts: user },
      { role: 'assistant', parts: assistant },
    ]),
  );
}

/** Options for a writer of answers. */
export const answerOptions = (
  stream: boolean,
  { name = 'chat', ...more }: Partial<AnswerOptions> & { readonly name?: string },
): AnswerOptions => ({
  operation: { name, upstreamPath: '', required: [], generates: true },
  clock: systemClock,
  id: 'x',
  model: 'm',
  stream,
  promptTokensEstimate: 9,
  context: { stop: [], reasoning: true },
  showCacheHits: false,
  ...more,
});
