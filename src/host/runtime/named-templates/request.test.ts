import { describe, expect, it } from 'vitest';
import { withTemplate } from './request.ts';

const spec = {
  cpus: 2,
  memoryMib: 1024,
  memoryMaxMib: 2048,
  diskMib: 4096,
  warm: ['json', 'pandas'],
  requirements: ['numpy<3', 'pandas==2.2.3'],
};

describe('withTemplate', () => {
  it('adds the template’s fixed values to the request, and keeps the rest', () => {
    const { warm: _, ...fixed } = spec;
    expect(withTemplate({ name: 'data', spec }, { env: { A: 'b' } })).toEqual({ env: { A: 'b' }, ...fixed });
  });

  it('accepts values equal to the template’s, and names of its packages', () => {
    const same = { cpus: 2, memoryMaxMib: 2048, warm: spec.warm };
    const requirements = ['numpy', 'pandas==2.2.3'];
    expect(withTemplate({ name: 'data', spec }, { ...same, requirements })).toMatchObject({
      requirements: spec.requirements,
    });
  });

  it('a minimum age: only a template that was built with one has packages of that age', () => {
    const day = 86_400_000;
    const aged = { name: 'data', spec: { ...spec, packagesMinAgeMs: 7 * day } };
    const younger = { requirements: ['numpy'], packages: { ecosystems: [], minAgeMs: day } };
    expect(withTemplate(aged, younger)).toMatchObject({ packages: younger.packages });
    for (const [template, given] of [
      [{ name: 'data', spec }, younger],
      [aged, { requirements: ['numpy'], packagesMinAgeMs: 8 * day }],
    ] as const) {
      expect(() => withTemplate(template, given)).toThrow('younger packages');
    }
    // The minimum age applies to packages that the sandbox fetches, not to those of the template.
    const fetched = { packages: { ecosystems: ['pip' as const], minAgeMs: 8 * day } };
    expect(withTemplate(aged, fetched)).toMatchObject(fetched);
  });

  it.each([
    [{ diskMib: 2048 }, 'sandbox option diskMib: template "data" has 4096, not 2048'],
    [{ warm: ['json'] }, 'sandbox option warm: template "data" has its own modules'],
    [{ image: 'alpine' }, 'sandbox option image: template "data" has no image, not alpine'],
    [{ requirements: ['pandas==2.2.4'] }, 'template "data" does not have pandas==2.2.4'],
    [{ requirements: ['rich', 'numpy'] }, 'template "data" does not have rich'],
  ])('refuses %j', (given, message) => {
    expect(() => withTemplate({ name: 'data', spec }, given)).toThrow(message);
  });
});
