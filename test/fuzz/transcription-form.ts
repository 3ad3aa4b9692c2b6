/** Forms with sound: refused, or written so that another parser reads the same. */

import { readForm, writeForm } from '../../src/inference/bridge/body/upload-form.ts';
import { formOf, formType, partsOf } from '../support/forms.ts';
import { must, target } from './target.ts';

export const transcriptionForm = target('transcription-form', check, {
  maxBytes: 1000,
  seeds: [
    formOf([
      { name: 'model', content: 'whisper' },
      { name: 'file', fileName: 'a.wav', type: 'audio/wav', content: 'RIFF\r\n--' },
      { name: 'include[]', content: 'logprobs' },
    ]),
    "--B\r\nContent-Disposition: form-data; filename*=utf-8''%61; name=file\r\n\r\n\r\n--B--",
    '--B\r\nContent-Disposition: form-data; name="a\\"b"\r\nX: y\r\n\r\nx\r\n--B--\r\n',
    '--B--',
  ],
});

async function check(bytes: Buffer): Promise<void> {
  const read = readForm(bytes, formType());
  if (!read.ok) {
    must(read.refusal.status === 400, `not a refusal of the client: ${read.refusal.status}`);
    return;
  }
  const { texts, file } = read.value;
  // The list of fields has no other names, and none as long.
  if (texts.some(([name]) => !/^[\w.]{1,200}(?:\[\])?$/.test(name))) return;
  const { contentType, body } = writeForm(read.value, bytes);
  const others = texts.length === 0 && file === undefined ? [] : await partsOf(Buffer.concat(body), contentType);
  const seen = others.flatMap(({ name, text }) => (text === undefined ? [] : [[name, text]]));
  // Its decoder drops a byte order mark.
  const own = texts.map(([name, text]) => [name, text.replace(/^\uFEFF/, '')]);
  must(JSON.stringify(seen) === JSON.stringify(own), `other texts: ${JSON.stringify(seen)}`);
  const sound = file === undefined ? undefined : bytes.subarray(file.start, file.end).toString('hex');
  const files = others.filter(({ fileName }) => fileName !== undefined);
  must(files.length === (file === undefined ? 0 : 1), `${files.length} files`);
  must(files[0]?.bytes === sound, 'other bytes of the file');
  must(files[0]?.fileName === file?.name, `another name: ${files[0]?.fileName}`);
}
