import { describe, expect, it } from 'vitest';
import { formOf, formType } from '../../../../test/support/forms.ts';
import { readForm } from './upload-form.ts';

const FILE = { name: 'file', fileName: 'a.wav', type: 'audio/wav', content: 'RIFF' };
const read = (bytes: Buffer | string, type = formType()) => readForm(Buffer.from(bytes), type);
const fault = (bytes: Buffer | string, type = formType()): string => {
  const form = read(bytes, type);
  return form.ok ? 'none' : form.refusal.message;
};
const part = (headers: string, content = 'x'): string => `--B\r\n${headers}\r\n\r\n${content}\r\n`;
const NAME = 'Content-Disposition: form-data; name="model"';

describe('readForm', () => {
  it.each([
    ['OpenAI’s client for Python', 'multipart/form-data; boundary=B'],
    ['a boundary in quotes', 'Multipart/Form-Data;charset=utf-8; Boundary="B"'],
  ])('%s: reads texts and the file', (_, type) => {
    const bytes = formOf([{ name: 'model', content: 'm' }, FILE]);
    const form = read(bytes, type);
    expect(form).toMatchObject({ value: { texts: [['model', 'm']] } });
    const file = form.ok ? form.value.file : undefined;
    expect(file).toMatchObject({ name: 'a.wav', type: 'audio/wav' });
    expect(bytes.subarray(file?.start, file?.end).toString()).toBe('RIFF');
  });

  it.each([
    ['../../etc/passwd', 'passwd'],
    ['C:\\sounds\\a b.mp3', 'a_b.mp3'],
    ['naïve "x".ogg'.replaceAll('"', '\\"'), 'na_ve__x_.ogg'],
    ['.-.wav', 'wav'],
    ['', 'audio'],
    [`${'x'.repeat(500)}.flac`, `${'x'.repeat(95)}.flac`],
  ])('the file name %s becomes %s', (fileName, name) => {
    const form = read(formOf([{ ...FILE, fileName }]));
    expect(form).toMatchObject({ value: { file: { name } } });
  });

  it("reads a file name in the RFC 5987 form as a text field's name", () => {
    const head = `Content-Disposition: form-data; name="file"; filename*=utf-8''%C3%BC.wav`;
    expect(read(`${part(head)}--B--`)).toMatchObject({ value: { file: { name: 'utf-8___C3_BC.wav' } } });
  });

  it.each([
    ['audio/mpeg; codecs=x', 'audio/mpeg'],
    ['VIDEO/webm', 'video/webm'],
    ['application/octet-stream', 'application/octet-stream'],
    ['text/html', null],
    ['audio/', null],
    ['message/external-body', null],
  ])('the type %s of a file becomes %s', (given, type) => {
    expect(read(formOf([{ ...FILE, type: given }]))).toMatchObject({ value: { file: { type } } });
  });

  it.each([
    ['no type', '', ''],
    ['JSON', '', 'application/json'],
    ['no boundary', '', 'multipart/form-data'],
    ['two boundaries', '', 'multipart/form-data; boundary=B; boundary=C'],
    ['a long boundary', '', `multipart/form-data; boundary=${'b'.repeat(71)}`],
  ])('refuses %s in the header', (_, bytes, type) => {
    expect(fault(bytes, type)).toMatch(/names no multipart\/form-data with one boundary/);
  });

  it.each([
    ['an empty body', '', /begins with no part/],
    ['a preamble', `x\r\n${part(NAME)}--B--`, /begins with no part/],
    ['an epilogue', `${part(NAME)}--B--\r\nx`, /bytes follow its end/],
    ['no end', part(NAME), /end is missing/],
    ['a part that does not end', `--B\r\n${NAME}\r\n\r\nx`, /end is missing/],
    ['a boundary that continues', `--Bx\r\n${NAME}\r\n\r\nx\r\n--B--`, /within a line/],
    ['padding of a boundary', `--B \r\n${NAME}\r\n\r\nx\r\n--B--`, /within a line/],
    ['line feeds alone', `--B\n${NAME}\n\nx\n--B--`, /within a line/],
    ['a part without headers', '--B\r\n\r\nx\r\n--B--', /do not end|no content-disposition/],
    ['headers without an end', `--B\r\n${NAME}\r\n--B--`, /do not end/],
    ['long headers', `${part(`X: ${'y'.repeat(3000)}\r\n${NAME}`)}--B--`, /too long/],
    ['a folded header', `${part(`${NAME};\r\n filename="a"`)}--B--`, /malformed header/],
    ['a header twice', `${part(`${NAME}\r\n${NAME}`)}--B--`, /occurs twice/],
    ['a name twice in a header', `${part(`${NAME}; name="file"`)}--B--`, /no content-disposition/],
    ['no name', `${part('Content-Disposition: form-data')}--B--`, /no content-disposition/],
    ['an attachment', `${part(NAME.replace('form-data', 'attachment'))}--B--`, /no content-disp/],
    ['base64', `${part(`${NAME}\r\nContent-Transfer-Encoding: base64`)}--B--`, /as they are/],
    ['a text of other bytes', Buffer.from(`${part(NAME, 'é')}--B--`, 'latin1'), /is not UTF-8/],
    ['a long text', `${part(NAME, 'x'.repeat(70_000))}--B--`, /longer than 65536 bytes/],
    ['a text twice', formOf([1, 2].map(() => ({ name: 'model', content: 'm' }))), /twice/],
    ['two files', formOf([FILE, FILE]), /"file" occurs twice/],
    ['a text for the file', formOf([{ name: 'file', content: 'x' }]), /must be a file/],
    ['a file for a text', formOf([{ ...FILE, name: 'model' }]), /"model" must not be a file/],
    ['long lists', formOf(Array.from({ length: 17 }, () => ({ name: 'include[]', content: 'x' }))), /too often/],
    [
      'many parts',
      formOf(Array.from({ length: 65 }, (_, n) => ({ name: `n${n}`, content: 'x' }))),
      /more than 64 parts/,
    ],
  ])('refuses %s', (_, bytes, message) => {
    expect(fault(bytes)).toMatch(message);
  });
});
