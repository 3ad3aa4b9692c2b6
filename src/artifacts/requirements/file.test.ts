import { describe, expect, it } from 'vitest';
import { readRequirementsFile } from './file.ts';

const DIGEST = 'a'.repeat(64);

async function read(files: Readonly<Record<string, string>>): Promise<readonly string[]> {
  return await readRequirementsFile('requirements.txt', async (path, from) => {
    const name = from === null ? path : `${from.replace(/[^/]*$/, '')}${path}`;
    return { path: name, text: files[name] ?? '' };
  });
}

describe('readRequirementsFile', () => {
  it('reads requirements in order, without comments', async () => {
    const text = '\uFEFF# tools\r\nb==1  # why\n\n  a>=2\n#c\nurl-parse#not-a-comment\n';
    expect(await read({ 'requirements.txt': text })).toEqual(['b==1', 'a>=2', 'url-parse#not-a-comment']);
  });

  it('joins continued lines, as `pip freeze` with hashes and `uv export` write them', async () => {
    const text = `a==1 \\\n    --hash=sha256:${DIGEST} \\\n    --hash=sha256:${DIGEST}\n    # via b\nb==2\\`;
    expect(await read({ 'requirements.txt': text })).toEqual(
      [`a==1       --hash=sha256:${DIGEST}       --hash=sha256:${DIGEST}`.replace(/ +/g, ' '), 'b==2'].map((line) =>
        expect.stringMatching(new RegExp(line.replace(/[ ]/g, '\\s+'))),
      ),
    );
  });

  it('resolves included files relative to the including one', async () => {
    const files = {
      'requirements.txt': '-r more/dev.txt\nb\n--requirement=c.txt',
      'more/dev.txt': 'a\n-rd.txt',
      'more/d.txt': 'd',
      'c.txt': 'c',
    };
    expect(await read(files)).toEqual(['a', 'd', 'b', 'c']);
  });

  it.each([
    ['-e .', 'requirements.txt:1: the option "-e ."'],
    ['a\n--index-url https://example.org', 'requirements.txt:2: the option "--index-url'],
    ['-c constraints.txt', 'the option "-c'],
    ['./wheels/a.whl', 'a file or URL'],
    ['https://example.org/a.whl', 'a file or URL'],
    ['git+https://example.org/a', 'a file or URL'],
    ['-r requirements.txt', 'too deeply'],
  ])('refuses %j', async (text, why) => {
    await expect(read({ 'requirements.txt': text })).rejects.toMatchObject({
      code: 'requirement_invalid',
      message: expect.stringContaining(why),
      remedy: expect.stringContaining('pip config'),
    });
  });

  it('bounds the number of requirements', async () => {
    await expect(read({ 'requirements.txt': 'a\n'.repeat(5_001) })).rejects.toThrow('more than 5000');
    // Eight files that name the next one a hundred times each would be read 10^16 times.
    const files = Object.fromEntries(
      Array.from({ length: 8 }, (_, at) => [
        at === 0 ? 'requirements.txt' : `${at}.txt`,
        `-r ${at + 1}.txt\n`.repeat(100),
      ]),
    );
    await expect(read(files)).rejects.toThrow('more than 100 requirements files');
  });
});
