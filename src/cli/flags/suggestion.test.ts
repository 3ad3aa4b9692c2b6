import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { addCommands } from '../definitions/all.ts';
import { suggestion } from './suggestion.ts';

const program = new Command('neurovisor').exitOverride().showSuggestionAfterError(false);
program.configureOutput({ writeErr: () => undefined });
await addCommands(program, []);

/** What is said about a refused command line. */
function about(line: string): string {
  const words = line.split(' ');
  try {
    program.parse(words, { from: 'user' });
  } catch (error) {
    return suggestion((error as Error).message, program, words);
  }
  throw new Error('commander has accepted it');
}

describe('suggestion', () => {
  it.each([
    ['exec --cwd /tmp x -- ls', 'use --workdir (-w)'],
    ['key revoke x', 'use neurovisor key rm'],
    ['run --target x --build .', 'use neurovisor image build -t NAME --target …, then --image NAME'],
  ])('%s: the name of today', (line, text) => expect(about(line)).toBe(text));

  it.each([
    ['run --rm x.py', 'omit it: run always removes its sandbox'],
    ['run -v .:/app x.py', 'nothing of this machine is mounted: use --copy, --out, or --project DIR --sync'],
    ['run -v.:/app x.py', 'nothing of this machine is mounted: use --copy, --out, or --project DIR --sync'],
    ['run --mount=type=bind x.py', 'nothing of this machine is mounted: use --copy, --out, or --project DIR --sync'],
    ['create -v .:/app', 'nothing of this machine is mounted: use neurovisor cp'],
    ['run -p 80:80 x.py', 'use neurovisor create, then neurovisor port ID PORT'],
    ['create -p 80:80', 'use neurovisor port ID PORT afterwards'],
    ['run -d x.py', 'use neurovisor create, then neurovisor exec --detach ID -- PROGRAM'],
    ['run --with-requirements r.txt x.py', 'use --requirements'],
    ['python list', 'use neurovisor run --python 3.13'],
    ['create --python 3.13', 'use --image, for example --image python:3.13-slim'],
    ['ps -a', 'to list sandboxes: neurovisor ls -a'],
    ['ps', 'to list sandboxes: neurovisor ls'],
    ['images', 'use neurovisor image ls'],
    ['stop x', 'use neurovisor pause, or neurovisor rm'],
    ['image pull', 'see neurovisor image pull --help'],
    ['system df', 'use neurovisor df, neurovisor prune or neurovisor doctor'],
    ['pip install x', 'use neurovisor run --with PACKAGE, or neurovisor template create --with PACKAGE'],
  ])('%s: the word for what docker, uv or E2B calls that', (line, text) => expect(about(line)).toBe(text));

  it.each([
    ['run --memroy 1G x.py', 'did you mean --memory?'],
    ['run --entrypont=x --image a', 'did you mean --entrypoint?'],
    ['creat', 'did you mean create?'],
    ['key creat', 'did you mean create?'],
    ['pool set --momory-max 2 1 2', 'did you mean --memory-max?'],
  ])('%s: a name that is near', (line, text) => expect(about(line)).toBe(text));

  it.each([
    ['ls --name x', 'see neurovisor ls --help'],
    ['toString', 'see neurovisor --help'],
    ['loops', 'see neurovisor --help'],
  ])('%s: no far-fetched name', (line, text) => expect(about(line)).toBe(text));

  it.each([
    ['run --frob x.py', 'options of the script follow its name: neurovisor run FILE --frob'],
    ['run --frob --image a x', 'the program of the image and its options follow --'],
    ['run -c 1 --frob', 'see neurovisor run --help'],
    ['run --frob', 'see neurovisor run --help'],
    ['ls --frob x.py', 'see neurovisor ls --help'],
  ])('%s: options of the script only where there is one', (line, text) => expect(about(line)).toBe(text));
});
