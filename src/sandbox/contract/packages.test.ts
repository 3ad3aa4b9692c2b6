import { describe, expect, it } from 'vitest';
import { installAge, packagePolicy, packageVariables } from './packages.ts';
import { makeSpec, withoutIdentity } from './spec.ts';

const SHA256 = 'a'.repeat(64);

describe('packagePolicy', () => {
  it('an absent policy allows nothing; kinds alone restrict nothing', () => {
    expect(packagePolicy(null)).toBeNull();
    expect(makeSpec({}, 1).packages).toBeNull();
    expect(packagePolicy({ ecosystems: ['npm', 'pip'] })).toEqual({
      ecosystems: ['pip', 'npm'],
      allow: [],
      deny: [],
      minAgeMs: null,
      lock: null,
    });
  });

  it.each([
    [{ ecosystems: ['pypi'] as never }, 'ecosystems'],
    [{ ecosystems: ['pip'], allow: ['a b'] }, '"a b" is not a name'],
    [{ ecosystems: ['pip'], deny: ['../x'] }, '"../x" is not a name'],
    [{ ecosystems: ['pip'], minAgeMs: 0.5 }, 'minAgeMs'],
    [{ ecosystems: ['pip'], lock: ['pip:six'] }, '"pip:six" is not of the form'],
    [{ ecosystems: ['pip'], lock: [`pip:six md5:${SHA256}`] }, 'is not of the form'],
  ] as const)('%j is refused', (options, message) => {
    expect(() => packagePolicy(options)).toThrow(message);
  });

  it('a fork has the policy of its parent', () => {
    const spec = makeSpec({ packages: { ecosystems: ['pip'], deny: ['torch'] } }, 1);
    expect(withoutIdentity(spec).packages).toBe(spec.packages);
  });
});

describe('installAge', () => {
  it('the template’s age wins over the sandbox’s; out of range it is refused', () => {
    const packages = { ecosystems: [], minAgeMs: 2_000 };
    expect(installAge({})).toEqual({});
    expect(installAge({ packages: null })).toEqual({});
    expect(installAge({ packages })).toEqual({ packagesMinAgeMs: 2_000 });
    expect(installAge({ packages, packagesMinAgeMs: 3_000 })).toEqual({ packagesMinAgeMs: 3_000 });
    expect(() => installAge({ packagesMinAgeMs: 0.5 })).toThrow('minAgeMs');
  });
});

describe('packageVariables', () => {
  const pip = packagePolicy({ ecosystems: ['pip'] });

  it('with a network card: only clients that the policy allows', () => {
    const variables = packageVariables(pip, true);
    expect(variables).toMatchObject({
      PIP_INDEX_URL: 'http://127.0.0.1:11435/pypi/simple',
      NO_PROXY: 'localhost,127.0.0.1',
      NEUROVISOR_PACKAGES: 'pip',
    });
    expect(variables).not.toHaveProperty('GOPROXY');
    expect(packageVariables(null, true)).toEqual({});
  });

  it('without a network card: all clients, since the gateway says how to allow them', () => {
    expect(packageVariables(null, false)).toMatchObject({
      PIP_INDEX_URL: expect.any(String) as unknown,
      NPM_CONFIG_REGISTRY: 'http://127.0.0.1:11435/npm/',
      GOPROXY: 'http://127.0.0.1:11435/go',
      APT_CONFIG: '/run/neurovisor/apt.conf',
      NEUROVISOR_PACKAGES: 'pip,npm,go,cargo,apt',
    });
  });
});
