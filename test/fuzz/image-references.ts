/** References to images: refused with a typed error, or harmless as an argument of skopeo and the same when read again. */
import { OciError } from '../../src/artifacts/oci/errors.ts';
import { parseReference, type Reference } from '../../src/artifacts/oci/reference.ts';
import { must, target } from './target.ts';

export const imageReferences = target(
  'image-references',
  (bytes) => {
    let reference: Reference;
    try {
      reference = parseReference(bytes.toString('utf8'), '/w');
    } catch (error) {
      must(error instanceof OciError, `it throws ${error}`);
      return;
    }
    const { source, text, transport } = reference;
    must(/^(docker:\/\/[^-]|docker-archive:\/|oci:\/|docker-daemon:[^-])/.test(source), source);
    must(source.startsWith(transport), source);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: none may pass
    must(!/[\u0000-\u001f]/.test(source), 'a control character');
    if (transport === 'docker') must(/^docker:\/\/[\w.:/@[\]-]+$/.test(source), source);
    must(parseReference(text, '/other').source === source, `${text} reads differently`);
  },
  {
    maxBytes: 400,
    seeds: [
      'python:3.13-slim',
      'docker://a.b:5000/c/d__e@sha256:'.concat('a'.repeat(64)),
      'docker-archive:x/y.tar',
      'oci:dir:1.0',
      'docker-daemon:a/b:c',
      '[::1]:5000/a:x',
    ],
  },
);
