import { describe, expect, it } from 'vitest';
import { parseReference } from './reference.ts';

const HEX = 'a'.repeat(64);
const source = (text: string): string => parseReference(text, '/w').source;

describe('parseReference', () => {
  it.each([
    ['python:3.13-slim', 'docker://python:3.13-slim'],
    ['busybox', 'docker://busybox:latest'],
    ['docker://busybox', 'docker://busybox:latest'],
    ['a/b__c-d.e:T_1', 'docker://a/b__c-d.e:T_1'],
    ['example.com:5000/a/b', 'docker://example.com:5000/a/b:latest'],
    ['[::1]:5000/a:x', 'docker://[::1]:5000/a:x'],
    ['localhost/a', 'docker://localhost/a:latest'],
    [`a@sha256:${HEX}`, `docker://a@sha256:${HEX}`],
    ['docker-archive:x.tar', 'docker-archive:/w/x.tar'],
    ['docker-archive:/a/../x.tar', 'docker-archive:/x.tar'],
    ['oci:dir', 'oci:/w/dir'],
    ['oci:dir:1.0', 'oci:/w/dir:1.0'],
    ['docker-daemon:a/b', 'docker-daemon:a/b:latest'],
    ['docker-daemon:a:2', 'docker-daemon:a:2'],
  ])('parseReference: %s', (text, expected) => {
    expect(source(text)).toBe(expected);
  });

  it('parseReference: reads back the stored text of a repository with the name of a transport', () => {
    const { text, source } = parseReference('oci', '/w');
    expect([text, source]).toEqual(['docker://oci:latest', 'docker://oci:latest']);
    expect(parseReference(text, '/w').source).toBe(source);
  });

  it('parseReference: a whole digest alone is a local image', () => {
    const text = `sha256:${HEX}`;
    const reference = { transport: 'stored', text, source: '', repository: null, digest: text };
    expect(parseReference(text, '/w')).toEqual(reference);
    const repository = parseReference(`docker://${text}`, '/w');
    expect(repository).toMatchObject({ transport: 'docker', text: `docker://${text}` });
  });

  it('parseReference: a digest pins the content, and a tag beside it is only displayed', () => {
    expect(parseReference(`a:1@sha256:${HEX}`, '/w')).toMatchObject({
      text: `a:1@sha256:${HEX}`,
      source: `docker://a@sha256:${HEX}`,
      repository: 'docker://a',
      digest: `sha256:${HEX}`,
    });
    expect(parseReference('a:1', '/w')).toMatchObject({ digest: null, repository: 'docker://a' });
  });

  it.each([
    '',
    ' a',
    '-a',
    '--insecure',
    'a/B',
    'a//b',
    'a:',
    'a:-x',
    'a@sha256:abc',
    `a@md5:${HEX}`,
    `a@sha256:${HEX}@sha256:${HEX}`,
    'http://a/b',
    'dir:/etc',
    'docker-archive:',
    'docker-archive:a:b',
    'docker-archive:a\nb',
    'oci:a:b:c',
    'oci:a:-b',
    `docker-daemon:a@sha256:${HEX}`,
    'a'.repeat(300),
    '.com/a:b/c',
  ])('parseReference: refuses %j with a remedy', (text) => {
    let failure: unknown;
    try {
      parseReference(text, '/w');
    } catch (error) {
      failure = error;
    }
    expect(failure).toMatchObject({ code: 'reference_invalid', remedy: expect.any(String) });
  });
});
