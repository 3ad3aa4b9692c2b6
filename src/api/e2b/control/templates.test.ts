import { expect, it } from 'vitest';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { readBase } from '../templates/steps.ts';
import { createFrom, type Source } from './templates.ts';

it.each([
  ['code-interpreter-v1', 'code-interpreter'],
  ['web:default', 'web'],
  // A name that every object has.
  ['constructor', 'constructor'],
])('createFrom: maps the templateID %s to our template %s', async (templateId, template) => {
  const sources: Source[] = [];
  const places = { control: { snapshots: async () => [] }, templates: { localName: () => undefined } };
  await createFrom(templateId, places, async (source) => {
    sources.push(source);
    return {} as SandboxInfo;
  });
  expect(sources).toEqual([{ template }]);
});

it('readBase: accepts an image with a name that every object has', () => {
  const body = { fromImage: 'constructor' } as Parameters<typeof readBase>[0];
  expect(readBase(body, () => undefined)).toEqual({ kind: 'image', name: 'constructor' });
});
