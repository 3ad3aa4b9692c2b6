import { expect, it } from 'vitest';
import { renamedTo } from './renamed.ts';

it.each([
  ["error: unknown option '--cwd'", 'use --workdir (-w)'],
  ["error: unknown command 'revoke'", 'use neurovisor key rm'],
  ["error: unknown option '--target'", 'use neurovisor image build -t NAME --target …, then --image NAME'],
  ["error: unknown option '--frob'", null],
  ["error: unknown command 'toString'", null],
  ["error: missing required argument 'id'", null],
])('%s: %s', (message, remedy) => expect(renamedTo(message)).toBe(remedy));
