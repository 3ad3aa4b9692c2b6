import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type FormPart, formOf, formType, partsOf } from '../../../../test/support/forms.ts';
import { readForm, type UploadForm, writeForm } from './upload-form.ts';

/** Content with much that looks like the delimiters around it. */
const bytes = fc
  .array(
    fc.oneof(fc.constantFrom('\r\n', '--', '--B', '\r\n--', '\r\n--B-', '--B--\r\n', '"', ': ', '\0'), fc.string()),
    { maxLength: 20 },
  )
  // A client never writes content that contains the delimiter.
  .map((parts) => parts.join('').replaceAll(/(^|\r\n)--B/g, '$1--C'));
const names = fc.uniqueArray(fc.constantFrom('model', 'prompt', 'language', 'include[]'));
const form = fc.record({
  texts: names.chain((chosen) => fc.tuple(...chosen.map((name) => fc.tuple(fc.constant(name), bytes)))),
  file: fc.record({
    content: fc.oneof(
      bytes.map((text) => Buffer.from(text)),
      fc.uint8Array(),
    ),
    fileName: fc.constantFrom('a.wav', 'x', 'long name.mp3'),
    type: fc.constantFrom('audio/wav', 'video/mp4', 'text/plain'),
  }),
});

function contents({ texts, file }: UploadForm, body: Buffer): unknown {
  const { start, end, name, type } = file ?? { start: 0, end: 0, name: null, type: null };
  return { texts, name, type, bytes: body.subarray(start, end).toString('hex') };
}

describe('writeForm', () => {
  it('writes a form that this parser and another one read back unchanged', async () => {
    await fc.assert(
      fc.asyncProperty(form, async ({ texts, file }) => {
        const content = Buffer.from(file.content);
        const parts: FormPart[] = texts.map(([name, text]) => ({ name, content: text }));
        parts.splice(1, 0, { name: 'file', ...file, content });
        const body = formOf(parts);
        const first = readForm(body, formType());
        if (!first.ok) throw new Error(first.refusal.message);
        expect(first.value.texts).toEqual(texts);
        const { contentType, body: pieces } = writeForm(first.value, body);
        const written = Buffer.concat(pieces);
        const second = readForm(written, contentType);
        if (!second.ok) throw new Error(second.refusal.message);
        expect(contents(second.value, written)).toEqual(contents(first.value, body));
        const own = first.value.file;
        const others = await partsOf(written, contentType);
        expect(others.flatMap(({ name, text }) => (text === undefined ? [] : [[name, text]]))).toEqual(texts);
        expect(others.at(-1)).toMatchObject({ fileName: own?.name, bytes: content.toString('hex') });
      }),
    );
  });

  it('never uses a boundary that the guest can know', () => {
    const body = formOf([{ name: 'model', content: 'm' }]);
    const read = readForm(body, formType());
    if (!read.ok) throw new Error(read.refusal.message);
    const types = Array.from({ length: 100 }, () => writeForm(read.value, body).contentType);
    expect(new Set(types).size).toBe(100);
  });
});
