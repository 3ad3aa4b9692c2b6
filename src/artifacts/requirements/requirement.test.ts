import { describe, expect, it } from 'vitest';
import { parseRequirement, parseRequirements, splitRequirements } from './requirement.ts';

describe('parseRequirement', () => {
  it.each([
    ['numpy', 'numpy'],
    ['  Flask_SQLAlchemy ', 'flask-sqlalchemy'],
    ['zope.interface==5', 'zope-interface==5'],
    ['requests[Socks, security]>=2,<3', 'requests[security,socks]<3,>=2'],
    ['a (>= 1.0 , != 1.5)', 'a!=1.5,>=1.0'],
    ['a[]', 'a'],
    ['a==1.*', 'a==1.*'],
    ['a===1.0+local', 'a===1.0+local'],
    ['a~=1.4.2', 'a~=1.4.2'],
    [
      'tomli>=1 ;  python_version < "3.11"   and os_name=="posix"',
      'tomli>=1 ; python_version < "3.11" and os_name=="posix"',
    ],
    [
      `a==1 --hash=sha256:${'b'.repeat(64)}  --hash=sha256:${'a'.repeat(64)}`,
      `a==1 --hash=sha256:${'a'.repeat(64)} --hash=sha256:${'b'.repeat(64)}`,
    ],
  ])('%s', (given, text) => {
    expect(parseRequirement(given).text).toBe(text);
    expect(parseRequirement(text).text).toBe(text);
  });

  it.each([
    ['', 'name'],
    ['-e .', 'name'],
    ['--index-url=http://a', '--index-url'],
    ['./local', 'name'],
    ['a @ https://example.org/a.whl', 'URLs'],
    ['git+https://example.org/a', 'repositories'],
    ['https://example.org/a.whl', 'URLs'],
    ['a@git+https://example.org/a', 'URLs'],
    ['a b', 'specifier'],
    ['a==', 'specifier'],
    ['a=1', 'specifier'],
    ['a>1,', 'specifier'],
    ['a==1; -r /etc/passwd', 'marker'],
    ['a==1;', 'marker'],
    ['a==1 --pre', '--pre'],
    ['a==1 --hash=md5:00', '--hash=md5'],
    ['a==1 # --hash', '--hash'],
    [`a==$` + '{HOME}', 'specifier'],
    ['a\nb', 'specifier'],
    [`a==${'1'.repeat(40_000)}`, 'too long'],
  ])('refuses %j', (given, why) => {
    expect(() => parseRequirement(given)).toThrow(
      expect.objectContaining({
        code: 'requirement_invalid',
        cause: expect.stringContaining(why),
        remedy: expect.stringContaining('NAME==1.2'),
      }),
    );
  });
});

describe('splitRequirements', () => {
  it.each([
    ['pandas,matplotlib', ['pandas', 'matplotlib']],
    ['a>=1,<2,b', ['a>=1,<2', 'b']],
    ['a[x,y]==1, b', ['a[x,y]==1', 'b']],
    ['a(>=1,<2),b', ['a(>=1,<2)', 'b']],
    [',a,,b,', ['a', 'b']],
    ['<2', ['<2']],
    ['', []],
  ])('%s', (text, parts) => expect(splitRequirements(text)).toEqual(parts));
});

describe('parseRequirements', () => {
  it('sorts and normalizes requirements, without repetitions', () => {
    expect(parseRequirements(['b', 'A', 'a', 'b>1'])).toEqual(['a', 'b', 'b>1']);
  });

  it('bounds the number of requirements', () => {
    expect(() => parseRequirements(Array.from({ length: 5_001 }, (_, n) => `a${n}`))).toThrow('more than 5000');
    const long = Array.from({ length: 100 }, (_, n) => `a${n}==${'1'.repeat(90)}`.padEnd(30_000));
    expect(parseRequirements(long)).toHaveLength(100);
  });
});
